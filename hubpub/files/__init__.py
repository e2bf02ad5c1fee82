"""Files of this disk and of others: names that may be used, archives, front matter, programs that are started."""
