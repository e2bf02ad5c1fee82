"""Why a conformance test failed, is far off, or was left out: (pattern in its name or reason, sentence)."""

from __future__ import annotations

FAILURES: tuple[tuple[str, str], ...] = (
    (
        r"precision='fp32'.*(<class 'numpy.float16'>|dtype=fp16)",
        "fp16 values under an fp32 test's tolerance of 1e-4, where one rounding to fp16 is up to 5e-4 of a value, and "
        "the expected values were computed without (some of) the roundings; Apple's default run leaves fp32 tests out",
    ),
    (
        r"iOS15/test_image_resizing.py::TestCropResize::test_builder_to_backend_smoke",
        "the box lies outside the image with its corners swapped, which the reference leaves undefined; the values "
        "expected are those of the whole image",
    ),
    (
        r"TestResample.*precision='fp32'.*assert 0 == 2",
        "all four predictions pass; then the test counts the program's casts and expects those of an fp16 program",
    ),
    (
        r"TestCropResize.*precision='fp32'.*7.899",
        "one expected value is written with three decimals, 7.899, where bilinear interpolation gives 7.9",
    ),
    (
        r"precision='fp16'.*accumulate_mode=div.*inf location",
        "random updates near zero divide the data beyond fp16's largest number, 65,504; the expected values are fp32",
    ),
    (
        r"TestNormalizationLocalResponseNorm::test_builder_to_backend_smoke.*precision='fp32'",
        "the expected values are those of a window of one channel, for sizes 2 and 3; the reference, and the same "
        "file's stress test against PyTorch (which passes), count the neighbouring channels",
    ),
    (
        r"test_ios17_invalid_indices.*validate_indices=False.*is outside an axis",
        "an index out of bounds that nobody asked to be checked: Core ML leaves the result undefined, and the test "
        "wants any wrong numbers; hubpub refuses such an index always",
    ),
    (
        r"test_ios17_invalid_indices.*dynamic=True.*assert False",
        "an index out of bounds is refused, as the test wants, but in hubpub's words, where it looks for Core ML's",
    ),
)

OVER: tuple[tuple[str, str], ...] = ()

SKIPPED: tuple[tuple[str, str], ...] = (
    (
        r"TypeError: only 0-dimensional arrays can be converted",
        "coremltools fails to convert with the installed NumPy, so that there is no model to run",
    ),
    (r"name 'torchvision' is not defined", "the test needs torchvision, which is not installed"),
    (r"Bug fixed in macOS 15.2", "the test is for a later macOS than the one that is claimed (15.0)"),
    (
        r"axis should either be None|Onesided stft not possible|cannot be casted to int|Skipped$",
        "the test leaves out combinations of parameters that mean nothing",
    ),
    (r"TensorFlow 2.x not found", "the expected values come from TensorFlow, which is not installed"),
    (r"not supported (in )?iOS15", "the test is for a later opset, whose own tests cover it"),
    (r"a neural network, which is not an ML Program", "the model is a neural network, which hubpub does not run"),
    (r"breaking at opset version", "the op changed in that opset; the newer opset's tests cover it"),
    (r"rdar://", "coremltools marks it as a known fault of Core ML or of itself (`xfail`)"),
)
