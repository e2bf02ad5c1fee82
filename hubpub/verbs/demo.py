"""demo: the main job on a small model, with nothing but this machine."""

from __future__ import annotations

import json as jsonlib
import time
from pathlib import Path

from hubpub.config import effective
from hubpub.report import human, reporter
from hubpub.verbs import fetch
from hubpub.verbs.prepare import Session
from hubpub.verbs.publish import Delivery, publish_config
from hubpub.verbs.verify import check

REPO = "me/coreml-digits-palettized"
VARIANT = "original/packages"
SOURCE = Path(__file__).resolve().parent.parent / "demo_source"


def demo(folder: Path, *, json: bool = False) -> None:
    """Publish the demo's source to the embedded Hub, fetch a variant into `folder`, verify it, say what to do next."""
    from hubpub.localhub import default_root, running

    started = time.monotonic()
    with reporter(quiet=json) as report, running(default_root()) as hub:
        session = Session.open(endpoint=hub.endpoint, token=hub.token, report=report)
        report.line(f"1  Publish {SOURCE.name} to {REPO} on the embedded Hub ({hub.endpoint})")
        config = effective({}, {"source": str(SOURCE), "name": "hubpub/digits", "to": REPO})
        published = publish_config(config, delivery=Delivery(), session=session)
        report.line(f"2  Fetch {VARIANT}")
        fetched = fetch.run(
            REPO, VARIANT, hub=session.hub, dest=folder / f"{REPO.rpartition('/')[2]}_original_packages",
            progress=report.transfer,
        )  # fmt: skip
        report.line("3  Verify what arrived")
        found = check(str(fetched.folder), session=session, revision=None)
    seconds = time.monotonic() - started
    if json:
        print(jsonlib.dumps({"publish": published.to_json(), "folder": str(fetched.folder), "verify": found.to_json()}))
        return
    receipt = published.receipt
    sent = "nothing sent, it was there already" if receipt.nothing_to_do else f"{human(receipt.sent_bytes or 0)} sent"
    print(f"""
Done in {seconds:.0f} s.

  published  {REPO}  ({sent})
  fetched    {fetched.folder}
  verified   {found.summary}

Next:
  hubpub variants {REPO} --endpoint local        what the repo offers
  hubpub hub serve                               keep the embedded Hub up, and look at the repo
  hubpub publish ORG/NAME --dry-run              the same for a model of yours
""")
