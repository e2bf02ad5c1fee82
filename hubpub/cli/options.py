"""Options of commands, made from the settings as hubpub.plan.settings declares them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from hubpub.errors import ConfigError
from hubpub.plan.settings import Declared, Group, declared

_GROUPS: tuple[str, ...] = get_args(Group)


def of(*groups: type, only: Collection[str] = (), without: Collection[str] = ()) -> dict[str, Declared]:
    """The settings of those classes, by key; `source` is an argument and never an option."""
    settings = declared(*groups)
    return {key: settings[key] for key in only or settings if key not in {"source", *without}}


def spread(function: Callable[..., None], settings: Mapping[str, Declared]) -> inspect.Signature:
    """The signature of a command with one option for each setting, None where it is not given."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    own = [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD and one.name not in settings]
    options = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(setting))
        for key, setting in settings.items()
    ]
    first = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    return inspect.Signature([*first, *options, *own[len(first) :]])


def given(values: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """Options as keyword arguments of the command: settings that were not given are left out."""
    chosen = {key: value for key, value in values.items() if key not in settings or value is not None}
    return {**chosen, "floor": floors(chosen["floor"])} if "floor" in settings and "floor" in chosen else chosen


def floors(texts: Iterable[str]) -> dict[str, float]:
    """COMPONENT=DB, as options give it, as decibels by component."""
    return dict(_floor(text) for text in texts)


class GroupedHelp(TyperCommand):
    """A command whose help shows options by group, as plain text (rich takes as long as all the rest)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {
            "Arguments": [],
            **{group: [] for group in _GROUPS},
            "Options": [],
        }
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                sections[getattr(parameter, "rich_help_panel", None) or kind].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _annotation(setting: Declared) -> Any:
    """What typer makes an option of."""
    kind = _plain(setting.type)
    flag = f"--{setting.flag}"
    names = f"{flag}/--no-{setting.flag}" if kind is bool else flag
    option = typer.Option(
        names,
        help=_help(setting),
        metavar=setting.shown.metavar,
        min=setting.least,
        rich_help_panel=setting.shown.group,
        show_default=False,
    )
    return Annotated[_cli_type(kind) | None, option]


def _plain(kind: Any) -> Any:
    """The type without None."""
    if get_origin(kind) in (Union, UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _cli_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    return kind if kind in (bool, int, float, str) else list[str]


def _help(setting: Declared) -> str:
    """The help text, with the values there are, whether it is repeatable, and the default."""
    kind = _plain(setting.type)
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    text = setting.shown.text.rstrip(".")
    if get_origin(inner) is Literal:
        *most, last = map(str, get_args(inner))
        text += f": {', '.join(most)} or {last}"
    if _cli_type(kind) == list[str]:
        text += "; repeatable"
    default = setting.shown.default or _words(setting.default)
    return f"{text} [default: {default}]." if default else f"{text}."


def _words(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return "yes" if default is True else str(default or "")


def _floor(text: str) -> tuple[str, float]:
    component, equals, value = text.partition("=")
    try:
        return component, float(value)
    except ValueError:
        raise ConfigError(
            f"--floor {text!r} is not COMPONENT=DB.", hint="For example --floor unet=30." if not equals else ""
        ) from None
