"""Manifests as releases have them, for whatever shows them: two attentions, one compressed UNet, one of the weights."""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

_ATTENTIONS = ("original", "split_einsum_v2")


def manifest(*, bits: int = 6, ran: bool = False, pictures: dict[str, bytes] | None = None) -> dict[str, Any]:
    """A manifest; with `ran` its components were run, else their weights were read back."""
    files = [{"path": path, "size": 1000, "sha256": "ab" * 32} for path in _paths()]
    for path, data in (pictures or {}).items():
        files.append({"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return {
        "format": 1,
        "generator": {"name": "hubpub", "version": "0.1.0"},
        "repo_id": f"me/coreml-tiny-{bits}",
        "architecture": "sd1",
        "title": "Stable Diffusion 1.x",
        "source": {
            "kind": "hub", "name": "a/tiny", "location": "a/tiny", "commit": "c" * 40, "dirty": False,
            "files": [{"path": "unet/model.safetensors", "size": 4000, "digest": f"sha256:{'cd' * 32}"}],
        },
        "settings": {
            "attention": list(_ATTENTIONS), "bits": bits, "latent": [64, 96], "image": [512, 768], "batch": 2,
            "target": "macOS13", "specification_version": 7, "minimum_os": ["iOS 16", "macOS 13"], "verify": "weights",
        },
        "scheduler": "PNDM",
        "prediction_type": "epsilon",
        "scaling_factor": 0.18215,
        "card": {"license": "creativeml-openrail-m", "tags": ["core-ml"]},
        "variants": {
            f"{attention}/{form}": {"files": 3, "size": 3_000_000}
            | ({"path": f"coreml-tiny_{attention}_compiled.zip"} if form == "zip" else {})
            for attention in _ATTENTIONS
            for form in ("compiled", "packages", "zip")
        },
        "files": sorted(files, key=lambda file: str(file["path"])),
        "components": {
            **{f"unet/{attention}": _component(bits, ran=ran, elements=1_000_000) for attention in _ATTENTIONS},
            "text_encoder": _component(bits, ran=ran, elements=200_000),
            "vae_decoder": _component(16, ran=ran, elements=400_000),
        },
        "command": f"hubpub publish a/tiny --to me/coreml-tiny-{bits} --revision {'c' * 40}",
        "run": {"created": "2026-11-23T05:30:14Z"},
    }  # fmt: skip


def _component(bits: int, *, ran: bool, elements: int) -> dict[str, Any]:
    noise = random.Random(elements)
    snr = [[f"blocks.{n}.weight", round(noise.uniform(5 * bits, 5 * bits + 3), 2)] for n in range(40)]
    lowest = min(value for _, value in snr)
    weights: dict[str, Any] = {
        "palettized": len(snr),
        "weights": {"tensors": 60, "elements": elements, "blobs": 100, "bytes": elements * bits // 8},
    }
    check: dict[str, Any] = {"kind": "weights", "summary": "60 tensors bit-exact", "lowest_snr": None}
    if bits == 16:
        weights["palettized"] = 0
    else:
        weights |= {"lowest_snr": lowest, "snr": snr}
        check |= {"summary": f"20 tensors bit-exact, 40 palettized at {lowest:.1f} dB or better", "lowest_snr": lowest}
    if ran:
        check = {
            "kind": "numeric",
            "summary": f"{5.0 * bits:.1f} dB at {bits} bits",
            "psnr": 5.0 * bits,
            "psnr_program": 80.0,
            "weights": {"summary": "60 weights read back", "lowest_snr": None if bits == 16 else lowest},
        }
    took = {"seconds": 2.5, "peak_memory": 150_000_000}
    return {
        "coreml_name": "Unet", "bits": bits, "size": elements * bits // 8 + 50_000, "weights": weights,
        "verification": check, "compiler": "portable", "compiler_version": "0.1.0", "unverified_forms": [],
        "steps": {"weights": took, "package": {"seconds": 0.1, "peak_memory": 40_000_000}, "readback": took,
                  "measure": took, "compile": {"seconds": 0.2, "peak_memory": None}},
    }  # fmt: skip


def _paths() -> list[str]:
    paths = []
    for attention in _ATTENTIONS:
        package = f"{attention}/packages/Stable_Diffusion_version_a_tiny_unet.mlpackage"
        paths += [f"{package}/Manifest.json", f"{package}/Data/com.apple.CoreML/weights/weight.bin"]
        paths += [f"{attention}/compiled/Unet.mlmodelc/model.mil", f"coreml-tiny_{attention}_compiled.zip"]
    return paths


def picture(shade: int, *, size: tuple[int, int] = (96, 64)) -> bytes:
    """A PNG of one grey."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()
