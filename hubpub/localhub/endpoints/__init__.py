"""The endpoints of the embedded Hub, a file for each part of the protocol."""
