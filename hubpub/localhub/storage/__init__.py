"""The data folder of the embedded Hub: repos, commits, file contents and the xet store."""
