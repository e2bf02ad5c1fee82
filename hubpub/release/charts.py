"""Charts: Vega-Lite specifications as data, and their SVG, drawn without network access.

vl-convert-python (which includes Vega-Lite) draws each chart when the page is written, so a page contains a few
kilobytes of SVG instead of a charting program, and works in print and without scripts. Colours are variables of the
page's style sheet (`var(--ink)`), so they follow the reader's dark or light setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from hubpub.errors import ToolMissing

_SVG = "http://www.w3.org/2000/svg"
# Each chart is drawn in two widths (CSS pixels), for desktop and phone, so that text has the same size on both.
WIDE, NARROW = 860, 330
# The widest letter of common sans-serif fonts at the label's size, in pixels; label space is computed with it.
_LETTER = 7.4
SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))
_LABEL = 150  # pixels of an axis label at most
_PLAIN = ("style", "class", "aria-hidden", "aria-label", "aria-roledescription", "role")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart: a summary in words (for screen readers), and its two SVGs."""

    title: str
    summary: str
    wide: str
    narrow: str


def draw(title: str, summary: str, spec: Mapping[str, Any]) -> Chart:
    """Draw a specification in both widths. Raises ToolMissing without vl-convert-python."""
    return Chart(
        title=title, summary=summary, wide=_svg(spec, WIDE, title=title), narrow=_svg(spec, NARROW, title=title)
    )


def bars(rows: Rows, *, unit: str, series: Sequence[str], stacked: bool = True) -> dict[str, Any]:
    """Horizontal bars: rows have `name`, `value`, `series` (one of `series`) and `text` (the tooltip)."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    encoding: dict[str, Any] = {
        "y": {
            "field": "name",
            "type": "nominal",
            "sort": names,
            "title": None,
            "scale": {"paddingInner": 0.25, "paddingOuter": 0.1},
            "axis": {"minExtent": min(_LABEL, _LETTER * max(map(len, names)))},
        },
        "x": {
            "field": "value",
            "type": "quantitative",
            "title": unit,
            "stack": "zero" if stacked else None,
            "axis": {"tickCount": 6, "labelOverlap": True, "labelSeparation": 6},
        },
        "color": _colours(series),
        "order": {"field": "rank", "type": "quantitative"},
        "description": {"field": "text", "type": "nominal"},
    }
    if not stacked and len(series) > 1:
        encoding["yOffset"] = {"field": "series", "type": "nominal", "sort": list(series)}
    ranked = [{**row, "rank": series.index(row["series"])} for row in rows]
    return {
        "data": {"values": ranked},
        "height": {"step": 24} if stacked or len(series) == 1 else {"step": 11, "for": "offset"},
        "mark": {"type": "bar"},
        "encoding": encoding,
    }


def points(
    rows: Rows, *, x: str, y: str, series: Sequence[str] = (), lines: bool = False, ticks: Sequence[float] = ()
) -> dict[str, Any]:
    """Points: rows have `x`, `y`, `text`, and `series` if given (`lines` joins its points). `x`, `y`: axis titles."""
    axis: dict[str, Any] = {"values": list(ticks)} if ticks else {"tickMinStep": 1, "tickCount": 6}
    encoding: dict[str, Any] = {
        "x": {
            "field": "x",
            "type": "quantitative",
            "title": x,
            "scale": {"zero": False, "nice": False, "padding": 8},
            "axis": {**axis, "format": "d", "labelOverlap": True, "labelSeparation": 6},
        },
        "y": {"field": "y", "type": "quantitative", "title": y, "scale": {"zero": False, "padding": 8}},
        "description": {"field": "text", "type": "nominal"},
    }
    if series:
        encoding["color"] = _colours(series)
    if any("size" in row for row in rows):
        encoding["size"] = {"field": "size", "type": "quantitative", "legend": None, "scale": {"range": [40, 700]}}
    dots = {
        "mark": {"type": "point", "filled": True, "opacity": 0.8, **({} if series else {"color": SERIES[0]})},
        "encoding": encoding,
    }
    if not lines:
        return {"data": {"values": list(rows)}, "height": 200, **dots}
    joined = {name: encoding[name] for name in ("x", "y", "color") if name in encoding}
    return {
        "data": {"values": list(rows)},
        "height": 240,
        "layer": [{"mark": {"type": "line", "opacity": 0.6}, "encoding": joined}, dots],
    }


def _colours(series: Sequence[str]) -> dict[str, Any]:
    wrapped = [SERIES[number % len(SERIES)] for number in range(len(series))]
    legend: dict[str, Any] = {"orient": "top", "title": None, "symbolType": "square"}
    if max(map(len, series), default=0) > 9:
        legend["columns"] = 1  # the default is as many as fit the width
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(series), "range": wrapped},
        "legend": legend if len(series) > 1 else None,
    }


_CONFIG = {
    "background": None,
    "font": "Arial, Helvetica, Roboto, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--quiet)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": _LABEL,
    },
}
_LEGEND = {
    "labelColor": "var(--ink)",
    "labelFontSize": 12,
    "labelLimit": 280,
    "columnPadding": 18,
    "symbolOpacity": 1,
}


def _svg(spec: Mapping[str, Any], width: int, *, title: str) -> str:
    """The SVG of a specification, `width` CSS pixels wide, without id, style or script attributes."""
    try:
        import vl_convert
    except ImportError as error:
        raise ToolMissing("Charts need vl-convert-python.", hint="pip install 'hubpub[report]'") from error
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",  # an identifier; it is not downloaded
        "width": width,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        "config": {**_CONFIG, "legend": {**_LEGEND, "columns": 2 if width == NARROW else 5}},
        **spec,
    }
    drawn = vl_convert.vegalite_to_svg(json.dumps(whole), allowed_base_urls=[])
    return _tidied(drawn, title)


def _tidied(drawn: str, title: str) -> str:
    """The SVG with a role and a label; marks get their text as tooltips."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(drawn)
    for element in root.iter():
        label = element.get("aria-label")
        mark = element.get("aria-roledescription") in ("bar", "point")
        for name in _PLAIN:
            element.attrib.pop(name, None)
        if mark and label:
            tooltip = ElementTree.Element(f"{{{_SVG}}}title")
            tooltip.text = label
            element.insert(0, tooltip)
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib |= {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")
