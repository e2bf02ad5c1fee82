"""demo: the main job on a small trained model, with nothing but this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hubpub.plan.config import effective
from hubpub.plan.names import fetch_folder
from hubpub.runtime.pictures import Request
from hubpub.verbs.fetch import fetch
from hubpub.verbs.generate import generate
from hubpub.verbs.publish import Published, publish_config
from hubpub.verbs.session import Session
from hubpub.verbs.verify import Verified, verify

REPO = "me/coreml-digits-palettized"
VARIANT = "original/packages"
SOURCE = Path(__file__).resolve().parent.parent / "demo_source"
# What the model was trained for (its README.md says how).
REQUEST = Request(prompt="a handwritten seven", seed=0, steps=20, guidance=3.0)


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What the demo did; `picture` is None without hubpub[numeric]."""

    published: Published
    folder: Path
    verified: Verified
    picture: Path | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "publish": self.published.to_json(),
            "folder": str(self.folder),
            "verify": self.verified.to_json(),
            "picture": str(self.picture) if self.picture else None,
            "seconds": round(self.seconds, 1),
        }


def demo(folder: Path, *, session: Session) -> Demonstrated:
    """Publish the demo's source to the embedded Hub, fetch a variant into `folder`, verify it, draw with it."""
    started, report = time.monotonic(), session.report
    report.line(f"1  Publish a small model of handwritten digits to {REPO} on the embedded Hub")
    config = effective({}, {"source": str(SOURCE), "name": "hubpub/digits", "to": REPO})
    published = publish_config(config, dry_run=False, session=session)
    report.line(f"2  Fetch {VARIANT}")
    place = fetch(REPO, VARIANT, dest=folder / fetch_folder(REPO, VARIANT), session=session)
    report.line("3  Verify what arrived")
    verified = verify(place, session=session)
    picture = None
    if find_spec("torch") and find_spec("diffusers"):
        report.line(f"4  Draw {REQUEST.prompt!r} with the fetched packages")
        picture = generate(place, REQUEST, folder / "seven.png", session=session).path
    return Demonstrated(
        published=published,
        folder=place,
        verified=verified,
        picture=picture,
        seconds=time.monotonic() - started,
    )
