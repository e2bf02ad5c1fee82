"""Weight files: which to read, and their tensors by name, mapped and never executed.

In: `.safetensors` and `.bin` files. Out: names → shape, dtype and float16 values, a piece at a time.
"""
