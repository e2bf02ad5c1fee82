"""Untrusted files and other programs: safe names, archives, front matter, subprocesses."""
