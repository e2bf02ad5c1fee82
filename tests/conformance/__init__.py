"""Runs coremltools' own op tests with the numbers from hubpub's runtime instead of Core ML."""
