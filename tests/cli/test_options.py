"""Options come from the settings as they are declared: none is written twice, and help shows them in groups."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import typer.main
from typer.testing import CliRunner

from hubpub.cli import options
from hubpub.cli.app import app
from hubpub.errors import ConfigError
from hubpub.plan.config import Config, Delivery, Fetch, File, Model
from hubpub.plan.settings import Delivering, Fetching, Group, Making, Naming, Running, declared


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        (Config, (Naming, Making, Delivering)),
        (Model, (Naming, Making, Delivering)),
        (Delivery, (Delivering,)),
        (Fetch, (Fetching,)),
        (File, (Making, Delivering, Running)),
    ],
)
def test_keys_are_the_declared_settings(model: Any, groups: tuple[type, ...]) -> None:
    assert set(model.model_fields) - {"models", "fetch"} == set(declared(*groups))


def test_a_plan_does_not_hold_how_it_is_delivered() -> None:
    config = Config.model_validate({"source": "a/b", "tag": "v1"})
    assert set(config.model_dump()) == set(declared(Naming, Making))
    assert config.delivery.tag == "v1"


@pytest.mark.parametrize("name", ["publish", "convert", "plan", "card", "fetch", "verify"])
def test_help_shows_groups(name: str) -> None:
    told = CliRunner().invoke(app, [name, "--help"]).stdout
    shown = [line.removesuffix(":") for line in told.splitlines() if line and line[0] != " " and line.endswith(":")]
    assert shown[0] == "Arguments"
    assert shown[-1] == "Options"
    order = [group for group in get_args(Group) if group in shown]
    assert shown[1:-1] == order
    assert len(order) >= 3


def test_defaults_of_flags_are_those_of_the_settings() -> None:
    command: Any = typer.main.get_command(app)
    for parameter in command.commands["publish"].params:
        if parameter.name in declared(Naming, Making, Delivering, Running) and parameter.name != "source":
            assert parameter.default in (None, ()), f"{parameter.name}: the default is the setting's"


def test_what_was_not_given_is_left_out() -> None:
    settings = options.of(Naming, Making)
    values = {"bits": 8, "tag": None, "to": None, "floor": ["unet=30", "vae_decoder=40.5"], "json": None}
    assert options.given(values, settings) == {
        "bits": 8,
        "tag": None,  # not one of these settings: the command's own
        "floor": {"unet": 30.0, "vae_decoder": 40.5},
        "json": None,
    }


@pytest.mark.parametrize("text", ["unet", "unet=", "unet=x"])
def test_what_is_no_floor(text: str) -> None:
    with pytest.raises(ConfigError, match="is not COMPONENT=DB"):
        options.floors([text])
