"""The verbs: each takes plain arguments, plans, acts, and returns a value; the CLI only shows it."""
