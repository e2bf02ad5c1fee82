"""The card (README.md): the manifest, rendered with a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError as JinjaError

from hubpub.errors import TemplateError
from hubpub.pages.templates import environment
from hubpub.plan.names import fetch_folder

TEMPLATE = "card.md.j2"

# The order of front matter keys; other keys follow by name.
_ORDER = ("license", "license_name", "license_link", "base_model", "base_model_relation", "language")

# The compute units and devices for which each attention is recommended, from Apple's documentation.
ATTENTION_USE = {
    "original": ("CPU and GPU", "Macs: fastest on the GPU of Apple silicon Macs", "cpuAndGPU", "CPU_AND_GPU"),
    "split_einsum": (
        "all compute units, the Neural Engine included",
        "iPhone and iPad, and Macs that are to spare power; loads faster than split_einsum_v2",
        "cpuAndNeuralEngine",
        "CPU_AND_NE",
    ),
    "split_einsum_v2": (
        "all compute units, the Neural Engine included",
        "iPhone and iPad (A14, M1 and later): fastest on the Neural Engine",
        "cpuAndNeuralEngine",
        "CPU_AND_NE",
    ),
}


def render(manifest: Mapping[str, Any], *, template: Path | None = None) -> str:
    """The README.md of a manifest: front matter from its data, body from the template.

    Raises TemplateError, with the line, for a template that does not render.
    """
    own = (template.parent,) if template else ()
    name = template.name if template else TEMPLATE
    if template is not None and not template.is_file():
        raise TemplateError(f"There is no template {template}.", hint="Give the path of a Jinja2 file.")
    values = view(manifest)
    try:
        body = environment(*own).get_template(name).render(values)
    except (JinjaError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        raise TemplateError(
            f"The template {name}{line} does not render: {error}.",
            hint="See docs/card.md for the names that it can use.",
        ) from error
    return front_matter(manifest["card"]) + body


def front_matter(data: Mapping[str, Any]) -> str:
    """The card's data as YAML between `---` lines."""
    rank = {key: number for number, key in enumerate(_ORDER)}
    ordered = dict(sorted(data.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))
    return "---\n" + yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True) + "---\n"


def view(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a template: the manifest, and values derived from it."""
    repo_id = manifest["repo_id"]
    attentions = manifest["settings"]["attention"]
    return {
        "manifest": manifest,
        "repo_id": repo_id,
        "repo_name": repo_id.rpartition("/")[2],
        "source": manifest["source"],
        "settings": manifest["settings"],
        "card": manifest["card"],
        "variants": manifest["variants"],
        "attentions": attentions,
        "attention_use": ATTENTION_USE,
        "tree": _tree(manifest),
        "components": manifest["components"],
        "pictures": manifest.get("pictures", []),
        "zips": [variant for name, variant in manifest["variants"].items() if name.endswith("/zip")],
        "first_variant": next(iter(manifest["variants"])),
        "compilers": sorted({part["compiler"] for part in manifest["components"].values() if part["compiler"]}),
        "packages": next((name for name in manifest["variants"] if name.endswith("/packages")), None),
        "compiled": next((name for name in manifest["variants"] if name.endswith("/compiled")), None),
        "loadable": _loadable(manifest),
        "swift": _swift(manifest),
        "pipeline": _pipeline(manifest),
        **_parts(manifest),
        "fetch_folder": lambda variant: fetch_folder(repo_id, variant),
    }


# Of manifests before 0.2.
_APPS = {
    "swift_pipeline": "StableDiffusionPipeline",
    "devices": "",
    "input_channels": 4,
    "controlnets": {},
    "refiner": None,
}


def _parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the text says of the components and of the sources beside the model."""
    parts = list(manifest["components"].items())
    compressed, whole = (
        list(dict.fromkeys(_title(name, part) for name, part in parts if (part["bits"] < 16) is small))
        for small in (True, False)
    )
    return {
        "apps": {**_APPS, **manifest.get("apps", {})},
        "drawing": manifest.get("drawing"),
        "others": list(manifest.get("other_sources", {}).values()),
        "compressed": _listed(compressed),
        "whole": _listed(whole),
        "whole_is_one": len(whole) == 1,
        "single": any(part.get("floats") == "fp32" for _, part in parts),
        "chunked": any("_chunk" in name for name, _ in parts),
    }


def _title(name: str, part: Mapping[str, Any]) -> str:
    """What people call a component; a manifest before 0.2 does not say it."""
    return str(part.get("title") or name.partition("/")[0].replace("_", " "))


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _loadable(manifest: Mapping[str, Any]) -> str | None:
    """The first variant that apps can load without compiling."""
    ends = ("/compiled", "/zip")
    return next((name for end in ends for name in manifest["variants"] if name.endswith(end)), None)


def _swift(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values for `swift.j2`; `archive` is missing if the repo has none."""
    loadable, apps = _loadable(manifest), {**_APPS, **manifest.get("apps", {})}
    if loadable is None or apps["swift_pipeline"] is None:
        return None
    repo_id, attention = manifest["repo_id"], loadable.partition("/")[0]
    path = manifest["variants"].get(f"{attention}/zip", {}).get("path")
    file = next((file for file in manifest["files"] if file["path"] == path), None)
    return {
        "folder": f"models/{fetch_folder(repo_id, f'{attention}/compiled')}",
        "pipeline": apps["swift_pipeline"],
        "controlnets": list(apps["controlnets"]),
        "compute_units": ATTENTION_USE[attention][2],
        "minimum_os": manifest["settings"]["minimum_os"],
        "archive": {**file, "url": f"https://huggingface.co/{repo_id}/resolve/main/{path}"} if file else None,
    }


def _pipeline(manifest: Mapping[str, Any]) -> dict[str, str] | None:
    """The values for `pipeline.j2`; Apple's pipeline reads the scheduler from the source's Hub repo."""
    packages = next((name for name in manifest["variants"] if name.endswith("/packages")), None)
    if packages is None or manifest["source"]["kind"] != "hub" or manifest["source"].get("file"):
        return None
    return {
        "folder": f"models/{fetch_folder(manifest['repo_id'], packages)}",
        "source": manifest["source"].get("location") or manifest["source"]["name"],
        "compute_unit": ATTENTION_USE[packages.partition("/")[0]][3],
    }


def _tree(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the variants' tree, down to the models: branch to draw, name (with a slash for folders), bytes."""
    sizes: dict[tuple[str, ...], int] = {}
    for file in manifest["files"]:
        parts = tuple(file["path"].split("/"))
        for depth in range(1, min(len(parts), 3) + 1):
            shown = parts[:depth]
            if depth < len(parts):
                shown = (*shown[:-1], shown[-1] + "/")
            key = (*(part.rstrip("/") + "/" for part in shown[:-1]), shown[-1])
            sizes[key] = sizes.get(key, 0) + file["size"]
    order = sorted(sizes, key=lambda parts: tuple(part.rstrip("/") for part in parts))
    siblings: dict[tuple[str, ...], tuple[str, ...]] = {parts[:-1]: parts for parts in order}  # the last of each

    def branch(parts: tuple[str, ...]) -> str:
        lines = ["    " if siblings[parts[:n]] == parts[: n + 1] else "│   " for n in range(len(parts) - 1)]
        return "".join(lines) + ("└── " if siblings[parts[:-1]] == parts else "├── ")

    return [{"branch": branch(parts), "name": parts[-1], "size": sizes[parts]} for parts in order]
