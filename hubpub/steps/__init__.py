"""One file per kind of step: parameters and inputs in, files and measurements out.

A step module has KIND, VERSION and `run(params, inputs, out) -> measurements`. It
reads its inputs, writes only into `out`, prints nothing and never edits an input.
"""
