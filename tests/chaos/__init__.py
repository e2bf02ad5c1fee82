"""Commands that are killed, Hubs that fail, disks that are full: what must hold then."""
