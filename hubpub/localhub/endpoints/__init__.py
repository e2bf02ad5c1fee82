"""The endpoints of the embedded Hub: one module per part of the protocol."""
