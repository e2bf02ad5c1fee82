"""Build the graphs that are shipped: `python -m hubpub.graphs.build` makes those that are missing, one after the other.

Which ones: every component of the models that most fine-tunes start from, with each
attention for batch 2 and 1, at the size that they were trained on, for the default target.
The configs are restated here as far as they differ from the defaults of diffusers and
transformers; a fine-tune whose config says the same gets the same key.
`hubpub graphs` builds, lists and verifies graphs of other knobs and sources as well.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hubpub import graphs
from hubpub.architectures import ATTENTIONS, components_of, detect, export_params
from hubpub.graphs import file_of
from hubpub.steps.step import canonical

_TARGET = "macOS13"
_DEFAULT_ATTENTIONS = ("original", "split_einsum_v2")
_INDEX = {"_class_name": "StableDiffusionPipeline"}

_VAE: Mapping[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
_SD1: Mapping[str, Mapping[str, Any]] = {
    "unet": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
    "vae": _VAE,
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "eos_token_id": 2,
    },
    "safety_checker": {
        "projection_dim": 768,
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    },
}
_SD2: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "sample_size": 64,
    },
    "vae": _VAE,
    "text_encoder": {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "eos_token_id": 2,
    },
}
_SD2_768 = {**_SD2, "unet": {**_SD2["unet"], "sample_size": 96}}

_SOURCES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"sd15": _SD1, "sd21-base": _SD2, "sd21": _SD2_768}
FAMILIES = (*_SOURCES, "demo")


def wanted() -> list[dict[str, Any]]:
    """Export parameters of every graph to ship, each once (the VAE of both generations is one)."""
    found = {canonical(params): params for configs in _SOURCES.values() for params in _of(configs)}
    found |= {canonical(params): params for params in _of(_demo(), attentions=_DEFAULT_ATTENTIONS, batches=(2,))}
    return list(found.values())


def family(name: str) -> tuple[dict[str, Any], Mapping[str, Mapping[str, Any]]]:
    """model_index.json and the configs of one of FAMILIES, as far as graphs depend on them."""
    configs = _demo() if name == "demo" else _SOURCES[name]
    return _INDEX | {folder: ["", folder] for folder in configs}, configs


def families_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The families whose component has the config that a graph was built for."""
    return tuple(name for name in FAMILIES if dict(params["config"]) in _configs(name, params["component"]))


def build(folder: Path | None = None) -> list[Path]:
    """Export the graphs that are missing and write them into `folder` (default: where they are shipped from).

    Takes an hour of one core and 1.2 GB; what exists is kept, so it can be stopped and run again.
    """
    # Not at the top: it brings torch and coremltools.
    from hubpub.nets.weightless import export

    written = []
    for params in wanted():
        path = file_of(params) if folder is None else file_of(params, folder)
        if not path.exists():
            graph = export(params)
            written.append(graphs.write(graph, path.parent))
            print(f"{path.name}  {path.stat().st_size:>7}  {title(params)}", file=sys.stderr, flush=True)
    for folder in {path.parent for path in written}:
        graphs.write_digests(folder)
    return written


def title(params: Mapping[str, Any]) -> str:
    """One line that tells a graph from others: component and knobs."""
    sizes = ["×".join(map(str, params[key])) for key in ("latent", "image") if key in params]
    batch = [f"batch {params['batch']}"] if "batch" in params else []
    return ", ".join([params["component"], *[params[key] for key in ("attention",) if key in params], *sizes, *batch])


def _demo() -> dict[str, Mapping[str, Any]]:
    """The configs of the source that `hubpub demo` publishes."""
    folder = Path(graphs.__file__).resolve().parents[1] / "demo_source"
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/config.json")}


@cache
def _configs(name: str, component: str) -> list[Any]:
    """The config of a family's component, as the parameters of its graph have it; none where it has no such one."""
    found = (params for params in _of(family(name)[1], attentions=("original",), batches=(2,)))
    return [params["config"] for params in found if params["component"] == component]


def _of(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    attentions: Sequence[str] = ATTENTIONS,
    batches: Sequence[int] = (2, 1),
) -> Iterator[dict[str, Any]]:
    index = _INDEX | {name: ["", name] for name in configs}
    architecture = detect(index, configs)
    for component in components_of(architecture, index, safety_checker=True):
        for attention in attentions if "attention" in component.hears else attentions[:1]:
            for batch in batches if "batch" in component.hears else batches[:1]:
                yield export_params(component, configs, attention=attention, latent=None, batch=batch, target=_TARGET)


if __name__ == "__main__":
    build()
