"""Torch modules of our own for Core ML; their parameters bear the names of the source's tensors."""
