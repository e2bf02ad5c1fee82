"""What an ML Program is: package, weight file, text, compiled bundle.

Nothing here imports torch or coremltools.
"""
