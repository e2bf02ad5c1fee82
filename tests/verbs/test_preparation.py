"""What is in the way of a run is found before any work, at the destination too."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import NoSpace
from hubpub.plan.config import effective
from hubpub.verbs.convert import convert
from hubpub.verbs.preparation import planned, prepare
from hubpub.verbs.session import Session
from tests.support.sources import make_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "tiny", "sd15")


def test_a_planned_release_has_the_weights_in_each_package(source: Path, tmp_path: Path) -> None:
    config = effective({}, {"source": str(source), "verify": "weights", "formats": ["packages", "compiled"]})
    with Session.open(root=tmp_path / "store") as session:
        prepared = prepare(config, session, owner=None)
    plan = prepared.plan
    sizes = {file.path: file.size for file in planned(prepared, plan.steps).artifacts}
    made = {target.path_in_repo: getattr(target.content, "key", None) for target in plan.targets}
    for one in plan.components:
        paths = [path for path, key in made.items() if key in (one.package, one.compile)]
        assert paths
        assert all(sizes[path] > plan.step(one.weights).size for path in paths)
    assert not any(file.size for file in planned(prepared, []).artifacts), "what is made already takes no more"


def test_a_folder_without_space_is_found_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
    with Session.open(root=tmp_path / "store") as session:
        with pytest.raises(NoSpace, match="The release needs"):
            convert(source, out=tmp_path / "out", verify="weights", session=session)
        assert not list(session.store.entries())
    assert not (tmp_path / "out").exists()
