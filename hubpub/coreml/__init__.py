"""Formats of ML Programs: package, weight file, MIL text, compiled bundle.

Nothing here imports torch or coremltools.
"""
