"""Some seeded kills of each operation; `make chaos` does hundreds."""

from __future__ import annotations

import pytest

from tests.chaos.kills import KINDS, Chaos
from tests.chaos.scene import Scene

SEED = 52  # the first kill of each round comes early


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    folder = tmp_path_factory.mktemp("chaos")
    return Chaos(scene=Scene.at(folder / "scene"), folder=folder, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KINDS), 2 * len(KINDS)), ids=["-".join(kind[:2]) for kind in KINDS])
def test_killed_at_any_moment(number: int, chaos: Chaos) -> None:
    """Readers see the old release or the new one; no wrong file; the same command goes on, and sends little again."""
    played = chaos.play(number)
    assert played.problems == ()
    assert played.kills
    # each kill may cost what was on its way; all of it would be 1 + the number of kills
    assert played.moved <= played.unique * (1 + 0.7 * len(played.kills))
