"""Where weights come from: a folder, a Hub repo or a git repo, pinned to a commit; and what it says of itself."""
