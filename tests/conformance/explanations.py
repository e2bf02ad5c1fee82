"""Reasons why conformance tests failed, have a large error, or were skipped: (pattern of name or reason, sentence)."""

from __future__ import annotations

FAILURES: tuple[tuple[str, str], ...] = (
    (
        r"precision='fp32'.*(<class 'numpy.float16'>|dtype=fp16)",
        "fp16 values with an fp32 test's tolerance of 1e-4: one rounding to fp16 changes a value by up to 5e-4, and "
        "the expected values were computed without (some of) the roundings; Apple's default run skips fp32 tests",
    ),
    (
        r"iOS15/test_image_resizing.py::TestCropResize::test_builder_to_backend_smoke",
        "the box lies outside the image and its corners are swapped, which the reference does not define; the test "
        "expects the values of the whole image",
    ),
    (
        r"TestResample.*precision='fp32'.*assert 0 == 2",
        "all four predictions pass; then the test counts the program's casts and expects those of an fp16 program",
    ),
    (
        r"TestCropResize.*precision='fp32'.*7.899",
        "one expected value is rounded to three decimals, 7.899; bilinear interpolation gives 7.9",
    ),
    (
        r"precision='fp16'.*accumulate_mode=div.*inf location",
        "divisions by random updates near zero exceed fp16's largest number, 65,504; the expected values are fp32",
    ),
    (
        r"TestNormalizationLocalResponseNorm::test_builder_to_backend_smoke.*precision='fp32'",
        "for sizes 2 and 3 the test expects the values of a window of one channel; the reference, and the same "
        "file's stress test against PyTorch (which passes), include the neighbouring channels",
    ),
    (
        r"test_ios17_invalid_indices.*validate_indices=False.*is outside an axis",
        "an index out of bounds without validate_indices: Core ML's result is undefined, and the test expects any "
        "wrong numbers; hubpub always refuses such an index",
    ),
    (
        r"test_ios17_invalid_indices.*dynamic=True.*assert False",
        "an index out of bounds is refused, as the test expects, but it looks for Core ML's message, not hubpub's",
    ),
)

OVER: tuple[tuple[str, str], ...] = ()

SKIPPED: tuple[tuple[str, str], ...] = (
    (
        r"TypeError: only 0-dimensional arrays can be converted",
        "coremltools cannot convert the model with the installed NumPy",
    ),
    (r"name 'torchvision' is not defined", "the test needs torchvision, which is not installed"),
    (r"Bug fixed in macOS 15.2", "the test needs a later macOS than the simulated one (15.0)"),
    (
        r"axis should either be None|Onesided stft not possible|cannot be casted to int|Skipped$",
        "the test skips meaningless combinations of parameters",
    ),
    (r"TensorFlow 2.x not found", "the expected values come from TensorFlow, which is not installed"),
    (r"not supported (in )?iOS15", "the op belongs to a later opset, whose tests cover it"),
    (r"a neural network, which is not an ML Program", "the model is a neural network, which hubpub does not run"),
    (r"breaking at opset version", "the op changed in that opset; the newer opset's tests cover it"),
    (r"rdar://", "coremltools marks it as a known bug of Core ML or coremltools (`xfail`)"),
)
