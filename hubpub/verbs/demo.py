"""demo: the main job on a small trained model, with nothing but this machine."""

from __future__ import annotations

import json as jsonlib
import time
from importlib.util import find_spec
from pathlib import Path

from hubpub.engine.progress import human, reporter
from hubpub.plan.config import effective
from hubpub.runtime.pictures import Request
from hubpub.verbs import fetch, generate
from hubpub.verbs.publish import Delivery, publish_config
from hubpub.verbs.session import Session
from hubpub.verbs.verify import check, raise_findings

REPO = "me/coreml-digits-palettized"
VARIANT = "original/packages"
SOURCE = Path(__file__).resolve().parent.parent / "demo_source"
# What the model was trained for (its README.md says how).
REQUEST = Request(prompt="a handwritten seven", seed=0, steps=20, guidance=3.0)


def demo(folder: Path, *, json: bool = False) -> None:
    """Publish the demo's source to the embedded Hub, fetch a variant into `folder`, verify it, draw with it."""
    from hubpub.localhub import default_root, running

    started = time.monotonic()
    with reporter(quiet=json) as report, running(default_root()) as hub:
        session = Session.open(endpoint=hub.endpoint, token=hub.token, report=report)
        report.line(f"1  Publish a small model of handwritten digits to {REPO} on the embedded Hub")
        config = effective({}, {"source": str(SOURCE), "name": "hubpub/digits", "to": REPO})
        published = publish_config(config, delivery=Delivery(), session=session)
        report.line(f"2  Fetch {VARIANT}")
        place = folder / f"{REPO.rpartition('/')[2]}_{VARIANT.replace('/', '_')}"
        fetched = fetch.run(REPO, VARIANT, hub=session.hub, dest=place, progress=report.transfer)
        report.line("3  Verify what arrived")
        verified = check(str(fetched.folder), session=session, revision=None)
        raise_findings(verified)
        picture = None
        if find_spec("torch") and find_spec("diffusers"):
            report.line(f"4  Draw {REQUEST.prompt!r} with the fetched packages")
            picture = generate.generate(fetched.folder, REQUEST, folder / "seven.png", session=session).path
    seconds = time.monotonic() - started
    if json:
        told = {"publish": published.to_json(), "folder": str(fetched.folder), "verify": verified.to_json()}
        print(jsonlib.dumps({**told, "picture": str(picture) if picture else None, "seconds": round(seconds, 1)}))
        return
    receipt = published.receipt
    sent = "it was there already" if receipt.nothing_to_do else f"{human(receipt.sent_bytes)} sent"
    drawn = (
        f"{picture}  ({REQUEST.prompt}, by the fetched packages)" if picture else "pip install 'hubpub[convert]' first"
    )
    print(f"""
Done in {seconds:.0f} s.

  published  {REPO}  ({sent})
  fetched    {fetched.folder}
  verified   {verified.files} files, all as published
  drawn      {drawn}

Next:
  hubpub hub serve        look at the repo in a browser
  hubpub plan ORG/NAME    the same for a model of yours
  hubpub report {REPO} --endpoint local
  hubpub generate {fetched.folder} --prompt "the digit 3" --guidance 3 --endpoint local
""")
