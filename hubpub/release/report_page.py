"""The report page: a manifest as one HTML file to look at, with charts. Pure but for drawing the charts.

A manifest was written by others. `hubpub.release.manifest_view` makes plain values of it first, bounded and of
known types; nothing else reaches the template, which escapes all of it.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hubpub.files.sizes import human
from hubpub.pages.html import STYLE, file_tree, own, page, policy
from hubpub.release import charts
from hubpub.release.charts import Chart
from hubpub.release.manifest_view import STEPS, Component, Reading

TEMPLATE = "report.html.j2"
SCRIPT = "report.js"
_KINDS = {"numeric": "running it", "weights": "reading every weight back"}
_WORST = 8  # tensors listed beside a plot
_HERE, _WHOLE = "in this release", "at 16 bits (computed)"
_BEFORE = "before palettization"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the release: its path there, its bytes, and their media type."""

    path: str
    data: bytes
    media: str

    @property
    def address(self) -> str:
        """The bytes as an address that a page can hold."""
        return f"data:{self.media};base64,{base64.b64encode(self.data).decode()}"

    @property
    def parts(self) -> tuple[str, str]:
        """`images/cat_6bit.png` → (`cat`, `6bit`); the second is empty where the name has no underscore."""
        stem = self.path.rpartition("/")[2].rpartition(".")[0]
        subject, _, width = stem.rpartition("_")
        return (subject, width) if subject else (stem, "")


def render(
    manifest: Mapping[str, Any],
    *,
    others: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Picture] = (),
) -> str:
    """The page as HTML, whole: it asks for nothing. `others` are manifests of other widths to compare with.

    Raises ToolMissing where the charting library is not installed.
    """
    read = Reading.of(manifest)
    compared = [read, *(Reading.of(other) for other in others)]
    style, script = own(STYLE), own(SCRIPT)
    compares, shown = pair(pictures)
    return page(
        TEMPLATE,
        read=read,
        style=style,
        script=script if compares else "",
        policy=policy(style=style, script=script if compares else ""),
        kinds=_KINDS,
        tree=file_tree(read.files),
        sizes=_sizes(read),
        quality=_quality(read),
        quality_ran=any(part.psnr is not None for part in read.components),
        layers=[_layers(names, part) for names, part in _distinct(read.components)],
        widths=_widths(compared),
        compared=compared,
        seconds=_seconds(read),
        memory=_memory(read),
        steps=_steps(read),
        compares=compares,
        pictures=shown,
        svg=Markup,  # of our own drawing, with other people's words escaped in it
    )


def pair(pictures: Iterable[Picture]) -> tuple[list[tuple[Picture, Picture]], list[Picture]]:
    """Pictures of one subject (`cat_source.png`, `cat_6bit.png`) as pairs to compare, and those that stand alone.

    Of more than two, the widest is set against each of the others.
    """
    pairs: list[tuple[Picture, Picture]] = []
    alone: list[Picture] = []
    order = sorted(pictures, key=lambda picture: picture.parts[0])
    for _, group in itertools.groupby(order, key=lambda picture: picture.parts[0]):
        first, *rest = sorted(group, key=_width)
        pairs += [(first, other) for other in rest]
        if not rest:
            alone.append(first)
    return pairs, alone


def _width(picture: Picture) -> tuple[int, str]:
    """Sorts the source first, then wider before narrower."""
    label = picture.parts[1]
    digits = "".join(itertools.takewhile(str.isdigit, label.removeprefix("fp")))[:4]
    return (-int(digits) if digits else -9999, label)


def _sizes(read: Reading) -> Chart | None:
    rows = []
    for part in read.components:
        for series, size in ((_WHOLE, part.whole_size), (_HERE, part.size)):
            if size is not None:
                row = {"name": part.name, "series": series, "value": size / 1e6}
                rows.append({**row, "text": f"{part.name}, {series}: {human(size)}"})
    if not rows:
        return None
    summary = (
        f"Bytes of {len(read.components)} components: in this release, and what they would be at 16 bits a weight."
    )
    spec = charts.bars(rows, unit="MB", series=(_WHOLE, _HERE), stacked=False)
    return charts.draw("Size of each component", summary, spec)


def _quality(read: Reading) -> Chart | None:
    """PSNR where components were run; else the weights' lowest signal-to-noise ratio."""
    ran = [part for part in read.components if part.psnr is not None]
    rows = []
    for part in ran or [part for part in read.components if part.lowest_snr is not None]:
        known = ((_BEFORE, part.psnr_before), (_HERE, part.psnr)) if ran else ((_HERE, part.lowest_snr),)
        for name, value in known:
            if value is not None:
                row = {"name": part.name, "series": name, "value": value}
                rows.append({**row, "text": f"{part.name}, {name}: {value:.1f} dB"})
    if not rows:
        return None
    series = tuple(name for name in (_BEFORE, _HERE) if any(row["series"] == name for row in rows))
    spec = charts.bars(rows, unit="dB", series=series, stacked=False)
    if ran:
        return charts.draw("PSNR of each component's output", "Higher is nearer to the source's output.", spec)
    summary = "The tensor that lost most, of each palettized component; higher is nearer to the source's weights."
    return charts.draw("Lowest signal-to-noise ratio of the weights", summary, spec)


def _distinct(components: Iterable[Component]) -> list[tuple[list[str], Component]]:
    """Components with a curve; those of two attentions share their weights, and so one plot."""
    found: list[tuple[list[str], Component]] = []
    for part in components:
        if not part.snr:
            continue
        same = next((names for names, other in found if other.snr == part.snr), None)
        if same is None:
            found.append(([part.name], part))
        else:
            same.append(part.name)
    return found


def _layers(names: Sequence[str], part: Component) -> dict[str, Any]:
    rows = [
        {"x": number, "y": value, "text": f"{tensor}: {value:.1f} dB"}
        for number, (tensor, value) in enumerate(part.snr, 1)
    ]
    low, high = min(value for _, value in part.snr), max(value for _, value in part.snr)
    title = " and ".join(names)
    summary = f"{len(rows)} tensors in the order of the program, from {low:.1f} to {high:.1f} dB."
    return {
        "chart": charts.draw(title, summary, charts.points(rows, x="tensor, in order", y="dB")),
        "worst": sorted(part.snr, key=lambda row: row[1])[:_WORST],
    }


def _widths(compared: Sequence[Reading]) -> Chart | None:
    """Bits against quality, the size as the size of the point; where several widths of a component are known."""
    # One measure for all, or a line would join what cannot be compared.
    ran = all(any(part.psnr is not None for part in read.components) for read in compared)
    known: dict[tuple[str, int], tuple[float, float]] = {}  # component and bits → dB and bytes
    for part in (part for read in compared for part in read.components):
        for bits, value, size in _measured(part, ran=ran):
            if value is not None and size is not None:
                known.setdefault((part.name, bits), (value, size))
    widths = {name: {bits for other, bits in known if other == name} for name, _ in known}
    series = [name for name in widths if len(widths[name]) > 1][: len(charts.SERIES)]
    rows = [
        {"x": bits, "y": value, "size": size, "series": name,
         "text": f"{name}, {bits} bits: {value:.1f} dB, {human(size)}"}
        for (name, bits), (value, size) in sorted(known.items())
        if name in series
    ]  # fmt: skip
    if not rows:
        return None
    ticks = sorted({bits for name, bits in known if name in series})
    what = "PSNR of the output, dB" if ran else "lowest signal-to-noise ratio of the weights, dB"
    spec = charts.points(rows, x="bits a weight", y=what, series=series, lines=True, ticks=ticks)
    return charts.draw("Bits, size and quality", "The larger the point, the more bytes the component has.", spec)


def _measured(part: Component, *, ran: bool) -> list[tuple[int, float | None, float | None]]:
    """Bits, dB and bytes of a compressed component: as it is, and (where it was run) before it was compressed."""
    if part.bits is None or part.bits >= 16:
        return []
    if not ran:
        return [(part.bits, part.lowest_snr, part.size)]
    return [(part.bits, part.psnr, part.size), (16, part.psnr_before, part.whole_size)]


def _steps(read: Reading) -> tuple[str, ...]:
    """The steps that this release had, in their order."""
    return tuple(step for step in STEPS if any(step in part.steps for part in read.components))


def _seconds(read: Reading) -> Chart | None:
    rows = [
        {
            "name": part.name,
            "series": step,
            "value": took.seconds,
            "text": f"{part.name}, {step}: {took.seconds:.1f} s",
        }
        for part in read.components
        for step, took in part.steps.items()
        if took.seconds is not None
    ]
    if not rows:
        return None
    spec = charts.bars(rows, unit="seconds", series=_steps(read))
    return charts.draw("Time of each step", "What is cached from an earlier run is counted as it was then.", spec)


def _memory(read: Reading) -> Chart | None:
    rows = [
        {
            "name": part.name,
            "series": step,
            "value": took.peak_memory / 1e6,
            "text": f"{part.name}, {step}: {human(took.peak_memory)}",
        }
        for part in read.components
        for step, took in part.steps.items()
        if took.peak_memory is not None
    ]
    if not rows:
        return None
    spec = charts.bars(rows, unit="MB", series=_steps(read), stacked=False)
    return charts.draw("Peak memory of each step", "The largest of these is what a machine must have.", spec)
