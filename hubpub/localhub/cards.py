"""Checks a README's front matter like the Hub's `/api/validate-yaml`: errors and warnings.

Source: the Hub's documentation of model cards (huggingface.co/docs/hub/model-cards and /repositories-licenses). The
Hub's full schema is not public; these functions find only the mistakes that they check for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hubpub.files.front_matter import load

_LICENCE_IDS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
other
"""
LICENCES = frozenset(_LICENCE_IDS.split())
RELATIONS = ("adapter", "merge", "quantized", "finetune")
_REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Findings:
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def front_matter(content: str) -> Mapping[str, Any] | None:
    """The YAML between the first two '---' lines; None without such a block. Raises ValueError for bad YAML."""
    match = _FRONT_MATTER.match(content)
    if match is None:
        return None
    try:
        return load(match[1])
    except ValueError as error:
        raise ValueError(f"The front matter cannot be read: {error}") from None


def validate(content: str) -> Findings:
    """The Hub's errors and warnings for the text of a README.md."""
    try:
        data = front_matter(content)
    except ValueError as error:
        return Findings(errors=(str(error),), warnings=())
    if not data:
        return Findings(errors=(), warnings=("empty or missing yaml metadata in repo card",))
    errors: list[str] = []
    for key, check in _CHECKS.items():
        if data.get(key) is not None:
            errors += check(key, data[key])
    warnings: list[str] = []
    if data.get("license") == "other":
        warnings += [
            f'"{key}" is missing beside "license: other"'
            for key in ("license_name", "license_link")
            if not data.get(key)
        ]
    relation = data.get("base_model_relation")
    if relation is not None and data.get("base_model") is None:
        errors.append('"base_model_relation" needs a "base_model"')
    return Findings(errors=tuple(errors), warnings=tuple(warnings))


def _licence(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    unknown = (
        [item for item in values if item not in LICENCES] if all(isinstance(item, str) for item in values) else values
    )
    return [f'"{key}" must be one of [{", ".join(sorted(LICENCES))}]; got {item!r}' for item in unknown]


def _relation(key: str, value: Any) -> list[str]:
    return [] if value in RELATIONS else [f'"{key}" must be one of [{", ".join(RELATIONS)}]; got {value!r}']


def _repo_ids(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [
        f'"{key}" with value {item!r} is not valid. Use a repo id from https://hf.co'
        for item in values
        if not isinstance(item, str) or not _REPO_ID.fullmatch(item)
    ]


def _strings(key: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        return [f'"{key}" must be an array']
    return [f'"{key}[{at}]" must be a string' for at, item in enumerate(value) if not isinstance(item, str)]


def _string(key: str, value: Any) -> list[str]:
    return [] if isinstance(value, str) else [f'"{key}" must be a string']


def _language(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [
        f'"{key}" must be an ISO 639 code such as en; got {item!r}'
        for item in values
        if not isinstance(item, str) or not re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*|code|multilingual", item)
    ]


def _model_index(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return [f'"{key}" must be an array of objects']
    lists = all(isinstance(item.get("results", []), list) for item in value)
    return [] if lists else [f'"{key}[].results" must be an array']


_Check = Callable[[str, Any], list[str]]
_CHECKS: Mapping[str, _Check] = {
    "license": _licence,
    "license_name": _string,
    "license_link": _string,
    "base_model": _repo_ids,
    "base_model_relation": _relation,
    "datasets": _repo_ids,
    "tags": _strings,
    "language": _language,
    "library_name": _string,
    "pipeline_tag": _string,
    "model-index": _model_index,
}
