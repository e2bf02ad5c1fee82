"""The content of a published repo: a plan's outcome, the manifest, the card, the report page, and the rules of apps."""
