"""The report page: one HTML file with charts, from a manifest.

Manifests are untrusted: `hubpub.release.manifest_view` first reduces one to bounded values of known types. The
template gets only those values and escapes them.
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
from hubpub.release.manifest_view import STEPS, Component, ManifestView

TEMPLATE = "report.html.j2"
SCRIPT = "report.js"
_KINDS = {"numeric": "running it", "weights": "reading every weight back"}
_WORST = 8  # tensors listed beside a plot
_HERE, _WHOLE = "in this release", "at 16 bits (computed)"
_BEFORE = "before palettization"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the release: its path in the repo, its bytes and their media type."""

    path: str
    data: bytes
    media: str

    @property
    def address(self) -> str:
        """The bytes as a data: URL."""
        return f"data:{self.media};base64,{base64.b64encode(self.data).decode()}"

    @property
    def parts(self) -> tuple[str, str]:
        """`images/cat_6bit.png` → (`cat`, `6bit`); the second is empty if the name has no underscore."""
        stem = self.path.rpartition("/")[2].rpartition(".")[0]
        subject, _, width = stem.rpartition("_")
        return (subject, width) if subject else (stem, "")


def render(
    manifest: Mapping[str, Any],
    *,
    others: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Picture] = (),
) -> str:
    """The page as self-contained HTML. `others` are manifests of the same model with other bits, for comparison.

    Raises ToolMissing if the charting library is not installed.
    """
    view = ManifestView.of(manifest)
    compared = [view, *(ManifestView.of(other) for other in others)]
    style, script = own(STYLE), own(SCRIPT)
    compares, shown = pair(pictures)
    return page(
        TEMPLATE,
        view=view,
        style=style,
        script=script if compares else "",
        policy=policy(style=style, script=script if compares else ""),
        kinds=_KINDS,
        tree=file_tree(view.files),
        sizes=_sizes(view),
        quality=_quality(view),
        quality_ran=any(part.psnr is not None for part in view.components),
        layers=[_layers(names, part) for names, part in _distinct(view.components)],
        widths=_widths(compared),
        compared=compared,
        seconds=_seconds(view),
        memory=_memory(view),
        steps=_steps(view),
        compares=compares,
        pictures=shown,
        svg=Markup,  # drawn by hubpub; text from the manifest is escaped in it
    )


def pair(pictures: Iterable[Picture]) -> tuple[list[tuple[Picture, Picture]], list[Picture]]:
    """Pairs of pictures of the same subject (`cat_source.png`, `cat_6bit.png`), and pictures without a partner.

    Of more than two, the picture with the most bits is paired with each of the others.
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
    """Sort key: the source first, then descending by bits."""
    label = picture.parts[1]
    digits = "".join(itertools.takewhile(str.isdigit, label.removeprefix("fp")))[:4]
    return (-int(digits) if digits else -9999, label)


def _sizes(view: ManifestView) -> Chart | None:
    rows = []
    for part in view.components:
        for series, size in ((_WHOLE, part.whole_size), (_HERE, part.size)):
            if size is not None:
                row = {"name": part.name, "series": series, "value": size / 1e6}
                rows.append({**row, "text": f"{part.name}, {series}: {human(size)}"})
    if not rows:
        return None
    summary = f"Bytes of {len(view.components)} components: in this release, and computed for 16 bits per weight."
    spec = charts.bars(rows, unit="MB", series=(_WHOLE, _HERE), stacked=False)
    return charts.draw("Size of each component", summary, spec)


def _quality(view: ManifestView) -> Chart | None:
    """PSNR of the outputs if components were run, else the weights' lowest signal-to-noise ratio."""
    ran = [part for part in view.components if part.psnr is not None]
    rows = []
    for part in ran or [part for part in view.components if part.lowest_snr is not None]:
        values = ((_BEFORE, part.psnr_before), (_HERE, part.psnr)) if ran else ((_HERE, part.lowest_snr),)
        for name, value in values:
            if value is not None:
                row = {"name": part.name, "series": name, "value": value}
                rows.append({**row, "text": f"{part.name}, {name}: {value:.1f} dB"})
    if not rows:
        return None
    series = tuple(name for name in (_BEFORE, _HERE) if any(row["series"] == name for row in rows))
    spec = charts.bars(rows, unit="dB", series=series, stacked=False)
    if ran:
        return charts.draw("PSNR of each component's output", "Higher is nearer to the source's output.", spec)
    summary = (
        "The tensor with the largest error of each palettized component; higher is nearer to the source's weights."
    )
    return charts.draw("Lowest signal-to-noise ratio of the weights", summary, spec)


def _distinct(components: Iterable[Component]) -> list[tuple[list[str], Component]]:
    """Components with a curve, and the names of all components that have the same curve (the same weights)."""
    curves: list[tuple[list[str], Component]] = []
    for part in components:
        if not part.snr:
            continue
        names = next((names for names, other in curves if other.snr == part.snr), None)
        if names is None:
            curves.append(([part.name], part))
        else:
            names.append(part.name)
    return curves


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


def _widths(compared: Sequence[ManifestView]) -> Chart | None:
    """Quality by bits, with the size as the point's size; None unless a component has values for several bits."""
    # Use one measure for all points: a line must not join different measures.
    ran = all(any(part.psnr is not None for part in view.components) for view in compared)
    points: dict[tuple[str, int], tuple[float, float]] = {}  # component and bits → dB and bytes
    for part in (part for view in compared for part in view.components):
        for bits, value, size in _measured(part, ran=ran):
            if value is not None and size is not None:
                points.setdefault((part.name, bits), (value, size))
    widths = {name: {bits for other, bits in points if other == name} for name, _ in points}
    series = [name for name in widths if len(widths[name]) > 1][: len(charts.SERIES)]
    rows = [
        {"x": bits, "y": value, "size": size, "series": name,
         "text": f"{name}, {bits} bits: {value:.1f} dB, {human(size)}"}
        for (name, bits), (value, size) in sorted(points.items())
        if name in series
    ]  # fmt: skip
    if not rows:
        return None
    ticks = sorted({bits for name, bits in points if name in series})
    measure = "PSNR of the output, dB" if ran else "lowest signal-to-noise ratio of the weights, dB"
    spec = charts.points(rows, x="bits per weight", y=measure, series=series, lines=True, ticks=ticks)
    return charts.draw("Bits, size and quality", "The larger the point, the more bytes the component has.", spec)


def _measured(part: Component, *, ran: bool) -> list[tuple[int, float | None, float | None]]:
    """(bits, dB, bytes) of a compressed component: in this release, and before compression if it was run."""
    if part.bits is None or part.bits >= 16:
        return []
    if not ran:
        return [(part.bits, part.lowest_snr, part.size)]
    return [(part.bits, part.psnr, part.size), (16, part.psnr_before, part.whole_size)]


def _steps(view: ManifestView) -> tuple[str, ...]:
    """The steps of this release, in order."""
    return tuple(step for step in STEPS if any(step in part.steps for part in view.components))


def _seconds(view: ManifestView) -> Chart | None:
    rows = [
        {
            "name": part.name,
            "series": step,
            "value": cost.seconds,
            "text": f"{part.name}, {step}: {cost.seconds:.1f} s",
        }
        for part in view.components
        for step, cost in part.steps.items()
        if cost.seconds is not None
    ]
    if not rows:
        return None
    spec = charts.bars(rows, unit="seconds", series=_steps(view))
    return charts.draw(
        "Time of each step", "Steps cached from an earlier run count with the time that they took then.", spec
    )


def _memory(view: ManifestView) -> Chart | None:
    rows = [
        {
            "name": part.name,
            "series": step,
            "value": cost.peak_memory / 1e6,
            "text": f"{part.name}, {step}: {human(cost.peak_memory)}",
        }
        for part in view.components
        for step, cost in part.steps.items()
        if cost.peak_memory is not None
    ]
    if not rows:
        return None
    spec = charts.bars(rows, unit="MB", series=_steps(view), stacked=False)
    return charts.draw("Peak memory of each step", "A machine needs at least the largest of these.", spec)
