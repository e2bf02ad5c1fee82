"""Sources of weights: a folder, a Hub repo or a git repo, pinned to a commit, and their metadata."""
