"""generate: a picture drawn by published packages; or a sheet that compares widths with the source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.architectures.component import MODEL
from hubpub.engine.runner import locate
from hubpub.errors import BadInput, ConfigError
from hubpub.files.disk import writing
from hubpub.plan.config import effective
from hubpub.plan.names import MANIFEST
from hubpub.plan.parts import parts_of
from hubpub.release.outcome import Outcome
from hubpub.release.release import parse_manifest
from hubpub.runtime import pictures
from hubpub.runtime.pictures import Painter, Pixels, Request
from hubpub.runtime.source_pictures import draw_with_diffusers
from hubpub.runtime.tokenizers import read_tokenizers
from hubpub.sources.metadata import MODEL_INDEX
from hubpub.steps import FromStep
from hubpub.steps.package import PACKAGE
from hubpub.verbs.convert import make
from hubpub.verbs.preparation import prepare
from hubpub.verbs.session import Session, using

COMPARED: tuple[int, ...] = (16, 8, 6, 4)
_TOKENIZER = ("vocab.json", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture that was written, and how near to the source each compared width came (PSNR in dB)."""

    path: Path
    request: Request
    psnr: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"path": str(self.path), **vars(self.request), "psnr": dict(self.psnr)}


def generate(
    folder: str | Path,
    request: Request,
    out: str | Path = "picture.png",
    *,
    source: str | Path | None = None,
    device: str = "cpu",
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Drawn:
    """Draw one picture with the packages in `folder` and write it to `out` (PNG).

    `folder` is one that was fetched or converted; `source` names a diffusers folder, needed
    where neither has a tokenizer and a scheduler's settings.
    """
    from PIL import Image

    out = Path(out)
    with using(session, endpoint=endpoint, token=token) as opened:
        packages, tokenizer, facts = _resources(Path(folder), Path(source) if source else None, opened)
    drawing = facts.get("drawing")
    request = request.with_usual(drawing if isinstance(drawing, Mapping) else {})
    painter = pictures.load(packages, tokenizer, facts, device=device)
    _save(Image.fromarray(pictures.draw(painter, request)), out)
    return Drawn(path=out, request=request, psnr={})


def compare(
    source: str, request: Request, out: Path, *, session: Session, bits: Sequence[int] = COMPARED, device: str = "cpu"
) -> Drawn:
    """Draw the same picture with the source in PyTorch and with packages of several widths, side by side.

    The packages come from the store, or are made (their weights checked, nothing else).
    """
    drawings: dict[str, Pixels] = {}
    psnr: dict[str, float] = {}
    reference: Pixels | None = None
    for width in bits:
        settings = {"source": source, "bits": width, "attention": ["original"], "formats": ["compiled"]}
        prepared = prepare(effective({}, {**settings, "verify": "weights", "license": "unknown"}), session, owner=None)
        outcome = make(prepared, session)
        request = request.with_usual(vars(outcome.plan.drawing))
        opened = prepared.opened[MODEL]
        if prepared.facts[MODEL].weights:
            raise BadInput(
                f"{source} is a single file, and widths are compared with a diffusers folder.",
                hint="Convert it with --prompt: the pictures beside the card are compared with the source.",
            )
        root = opened.folder(opened.paths(), session.report.transfer)
        if reference is None:
            session.report.line("  drawing with the source in PyTorch")
            reference = drawings["PyTorch"] = draw_with_diffusers(root, request)
        session.report.line(f"  drawing at {width} bits")
        painter = _painter_of(outcome, session, device)
        picture = pictures.draw(painter, request)
        psnr[str(width)] = round(pictures.picture_psnr(reference, picture), 2)
        drawings[f"{width} bits\n{psnr[str(width)]:.1f} dB"] = picture
    _save(pictures.sheet(drawings), out)
    return Drawn(path=out, request=request, psnr=psnr)


def _painter_of(outcome: Outcome, session: Session, device: str) -> Painter:
    """A painter on the packages of an outcome, where the store has them."""
    from hubpub import runtime

    def kept(key: str, path: str = "") -> Path:
        return locate(FromStep(key=key, path=path), store=session.store, sources={})

    models = {}
    for planned in outcome.plan.components:
        if planned.component.name in pictures.PARTS:
            models[planned.component.name] = runtime.load(kept(planned.package, PACKAGE), device=device)
    pictures.check_parts(models, "The release")
    facts = outcome.facts[MODEL]
    assert outcome.plan.tokenizer is not None
    return Painter(
        models=models,
        tokenizers=read_tokenizers(kept(outcome.plan.tokenizer), facts.pads),
        scheduler_config=facts.scheduler,
        scheduler_class=facts.scheduler_name,
        scaling_factor=facts.scaling_factor,
        guides=outcome.plan.drawing.guidance_embedding is None,
    )


def _resources(folder: Path, source: Path | None, session: Session) -> tuple[Path, Path, Mapping[str, Any]]:
    """The folder of packages, the one of the tokenizer, and what the manifest says of scheduler and scale."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.", hint="Name one that was fetched or converted.")
    if source is not None:
        tokenizers = (source / "tokenizer", source / "tokenizer_2")  # a refiner has the second one alone
        tokenizer = next((place for place in tokenizers if place.is_dir()), tokenizers[0])
        return folder, tokenizer, _facts_of_source(source)
    if (folder / MANIFEST).is_file():
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        for packages in sorted(folder.glob("*/packages")):
            tokenizer = packages.parent / "compiled"
            if manifest is not None and all((tokenizer / name).is_file() for name in _TOKENIZER):
                return packages, tokenizer, manifest
    known = session.cache.fetched(folder)
    if known is not None:
        return folder, *_from_repo(known, session)
    raise ConfigError(
        f"{folder} tells of no tokenizer and scheduler.", hint="Name the source's diffusers folder with --source."
    )


def _facts_of_source(source: Path) -> Mapping[str, Any]:
    from hubpub.sources.metadata import read_facts

    if not (source / MODEL_INDEX).is_file():
        raise BadInput(f"{source} is not a diffusers folder.", hint=f"It has no {MODEL_INDEX}.")
    facts = read_facts(lambda path: _read(source / path), name=str(source))
    config = effective({}, {"source": str(source)})
    drawing = parts_of(config, {MODEL: facts}, {MODEL: str(source)}).drawing(config)
    return {
        "scheduler_config": facts.scheduler,
        "scheduler": facts.scheduler_name,
        "scaling_factor": facts.scaling_factor,
        "drawing": vars(drawing),
        "guidance_embedding": drawing.guidance_embedding,
    }


def _from_repo(known: Mapping[str, Any], session: Session) -> tuple[Path, Mapping[str, Any]]:
    """Tokenizer and manifest of the repo that a folder was fetched from, kept beside the store."""
    repo_id, commit = str(known["repo_id"]), str(known["commit"])
    kept = session.root / "tokenizers" / commit
    if not (kept / MANIFEST).is_file():
        state = session.hub.state(repo_id, commit)
        paths = {path.rpartition("/")[2]: path for path in _tokenizer_paths(state)}
        if state is None or state.manifest is None or len(paths) < len(_TOKENIZER):
            raise ConfigError(
                f"{repo_id} holds no tokenizer beside its models.", hint="Name the source's folder with --source."
            )
        with writing(kept, hint="Set HUBPUB_CACHE to a folder that can be written."):
            kept.mkdir(parents=True, exist_ok=True)
            for name, path in paths.items():
                (kept / name).write_bytes(session.hub.read(repo_id, commit, path, limit=16 << 20))
            (kept / MANIFEST).write_text(json.dumps(state.manifest), encoding="utf-8")
    return kept, json.loads((kept / MANIFEST).read_text(encoding="utf-8"))


def _tokenizer_paths(state: Any) -> Iterator[str]:
    for file in state.files if state is not None else ():
        if file.path.endswith(tuple(f"/compiled/{name}" for name in _TOKENIZER)):
            yield file.path


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _save(picture: Any, out: Path) -> None:
    with writing(out, hint="Name another file with -o."):
        out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(out)
