"""What a publish did, as files for whoever runs it: Markdown for people, JSON and KEY=VALUE lines for programs.

<folder>/summary.md                    tables: models, variants, measurements, changes
<folder>/result.json                   a list with one object per model
<folder>/outputs.txt                   KEY=VALUE lines, as CI systems take them; of several models only the paths
<folder>/<owner>--<name>.hubpub.json   each manifest
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.files.disk import writing
from hubpub.pages.templates import environment
from hubpub.remote.destinations import changes

if TYPE_CHECKING:
    from hubpub.verbs.batch import Attempt

TEMPLATE = "summary.md.j2"
# GitHub refuses a comment above 65536 characters; the rest of a long list is in result.json.
_MOST_ROWS = 60


def write(attempts: Sequence[Attempt], folder: Path) -> None:
    """Write all files of the summary into `folder`, made where it is missing. Raises NoSpace, CannotWrite."""
    with writing(folder, hint="Choose another folder with --report."):
        folder.mkdir(parents=True, exist_ok=True)
        manifests = [_write_manifest(attempt, folder) for attempt in attempts]
        _write(folder / "summary.md", markdown(attempts))
        documents = [attempt.to_json() for attempt in attempts]
        _write(folder / "result.json", json.dumps(documents, indent=1, ensure_ascii=False) + "\n")
        paths = {"summary": str((folder / "summary.md").resolve()), "result": str((folder / "result.json").resolve())}
        values = {**(outputs(attempts[0], manifests[0]) if len(attempts) == 1 else {}), **paths}
        _write(folder / "outputs.txt", "".join(f"{key}={value}\n" for key, value in values.items()))


def outputs(attempt: Attempt, manifest: Path | None) -> dict[str, str]:
    """What later steps of a CI job read about one model; each value is one line, "" if there is none."""
    if attempt.published is None:
        return {"repo": _line(attempt.repo_id), "error": type(attempt.error).__name__}
    receipt = attempt.published.receipt
    return {
        "repo": _line(receipt.repo_id),
        "commit": _line(receipt.commit),
        "url": _line(receipt.url),
        "pull-request": _line(receipt.pull_request),
        "tag": _line(receipt.tag),
        "manifest": _line(manifest),
        "bytes-sent": str(receipt.sent_bytes),
        "bytes-planned": str(receipt.planned_bytes),
        "nothing-to-do": str(receipt.nothing_to_do).lower(),
        "dry-run": str(attempt.published.dry_run).lower(),
    }


def markdown(attempts: Sequence[Attempt]) -> str:
    """The tables, as a page that can stand in a comment."""
    made = environment()
    made.filters["code"] = _code
    views = [_view(attempt) for attempt in attempts]
    return made.get_template(TEMPLATE).render(models=views, most_rows=_MOST_ROWS)


def _view(attempt: Attempt) -> dict[str, Any]:
    """What the template sees of one model."""
    published = attempt.published
    manifest: Mapping[str, Any] = (published.manifest if published else None) or {}
    components = manifest.get("components", {})
    return {
        "source": attempt.source,
        "repo_id": attempt.repo_id,
        "seconds": attempt.seconds,
        "error": attempt.error,
        "error_name": type(attempt.error).__name__,
        "published": published,
        "receipt": published.receipt if published else None,
        "state": _state(attempt),
        "changes": changes(published.operations) if published else (),
        "variants": manifest.get("variants", {}),
        "components": components,
        "compilers": sorted({part["compiler"] for part in components.values() if part.get("compiler")}),
    }


def _state(attempt: Attempt) -> str:
    if attempt.published is None:
        return "failed"
    if attempt.published.dry_run:
        return "dry run"
    if attempt.published.nothing_to_do:
        return "nothing to do"
    return "proposed" if attempt.published.receipt.pull_request else "published"


def _write_manifest(attempt: Attempt, folder: Path) -> Path | None:
    if attempt.published is None or attempt.published.manifest is None:
        return None
    path = folder / f"{attempt.published.receipt.repo_id.replace('/', '--')}.hubpub.json"
    text = json.dumps(attempt.published.manifest, indent=1, sort_keys=True, ensure_ascii=False)
    _write(path, text + "\n")
    return path.resolve()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _line(value: object) -> str:
    """A value on one line: a line break from a server would start another KEY=VALUE."""
    return "" if value is None else " ".join(str(value).split())


def _code(value: object) -> str:
    """Text of others as a code span: no markup, no mention, no end of a table's cell."""
    text = _line(value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""
