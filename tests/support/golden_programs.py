"""The programs whose structure is recorded in tests/networks/program_digests.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from hubpub import networks
from hubpub.networks import Scope, Size

RECORDS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "networks" / "program_digests.json").read_text(encoding="utf-8")
)
_NETWORKS = {
    "unet": (networks.unet, networks.UNetConfig),
    "vae_decoder": (networks.vae_decoder, networks.VAEConfig),
    "vae_encoder": (networks.vae_encoder, networks.VAEConfig),
    "text_encoder": (networks.text_encoder, networks.TextEncoderConfig),
    "safety_checker": (networks.safety_checker, networks.SafetyCheckerConfig),
}


def network_of(
    params: dict[str, Any], *, size: Size | None = None, attention: str | None = None
) -> Callable[[Scope], None]:
    """The network of a record, at its own or another size and attention."""
    config = dict(params["config"])
    height, width = params.get("latent") or [side // 8 for side in params.get("image", (512, 512))]
    for key in ("use_post_quant_conv", "use_quant_conv"):
        if key in config:
            config["quantizes"] = config.pop(key)
    if params["component"] == "unet":
        levels = len(config["block_out_channels"])
        layers, blocks = config["layers_per_block"], config.pop("transformer_layers")
        config |= {
            "layers_per_block": [layers] * levels,
            "transformer_layers": [[one] * layers for one in blocks],
            "up_transformer_layers": [[one] * (layers + 1) for one in reversed(blocks)],
            "middle": blocks[-1],
        }
    if params["component"] == "safety_checker":
        config["image_scale"] = 8
    write, kind = _NETWORKS[params["component"]]
    defaults = {item.name: item.default for item in fields(kind) if item.default is not MISSING}
    parsed = kind.from_json({**defaults, **config})
    chosen = size or Size(height=height, width=width, batch=params.get("batch", 1))
    form = attention or params.get("attention", "original")
    return lambda at: write(at, parsed, chosen, form)  # type: ignore[operator]


def title(record: dict[str, Any]) -> str:
    config = record["params"]["config"]
    width = config.get("cross_attention_dim") or config.get("hidden_size") or config["block_out_channels"][0]
    return f"{record['title']}, {width}"
