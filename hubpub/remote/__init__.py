"""Everything beyond this machine: the Hub, destinations, downloads, what a repo offers, signatures."""
