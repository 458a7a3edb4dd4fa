"""Pictures of the report: curves as SVG that takes the page's colours, images as small embedded data addresses."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from perpixel.apps.wording import format_score, is_number, main_score

INK = "#010203"  # stands for the page's text colour: replaced by currentColor, so that dark and light both read well
BLUE, ORANGE = "#3b82f6", "#f59e0b"
MAX_POINTS = 1500
CASE_PIXELS = 640
SHEET_PIXELS = 1600
MAX_STRUCTURES = 12
# Dice of dots that touch.
DOT_HEIGHT = 0.008

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, small, and set in the page's font
    "text.parse_math": False,  # a class called a$b$c is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Curve:
    """One panel: a title, and its picture as SVG text made by us."""

    title: str
    svg: str


def draw_curves(log: Sequence[dict[str, Any]]) -> list[Curve]:
    """Loss, validation score with its best marked, learning rate over steps; a panel without numbers is left out."""
    steps = [event for event in log if event.get("kind") == "step" and is_number(event.get("step"))]
    validations = [event for event in log if event.get("kind") == "validation" and is_number(event.get("step"))]
    if not steps and len(validations) < 2:  # a forest: one point is no curve
        return []
    last = max((event["step"] for event in (*steps, *validations)), default=0)
    curves = []
    loss = _series(steps, "loss")
    if loss[0]:
        curves.append(Curve("Training loss", _draw(lambda axes: _plot_loss(axes, *loss), last, "loss")))
    key, title = main_score(validations[-1] if validations else {})
    score = _series(validations, key)
    if score[0]:
        curves.append(Curve(f"Validation {title}", _draw(lambda axes: _plot_score(axes, *score), last, key)))
    rate = _series(steps, "lr")
    if rate[0]:
        curves.append(Curve("Learning rate", _draw(lambda axes: _plot_rate(axes, *rate), last, "lr")))
    return curves


def _series(events: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [(event["step"], event[key]) for event in events if is_number(event.get(key))]
    stride = max(1, len(pairs) // MAX_POINTS)
    kept = pairs[::stride] + (pairs[-1:] if (len(pairs) - 1) % stride else [])
    return [x for x, _ in kept], [y for _, y in kept]


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential average over about a twentieth of the curve, corrected for its start."""
    decay = 1 - 1 / max(2.0, len(values) / 20)
    total, weight, result = 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        result.append(total / weight)
    return result


def _plot_loss(axes: Axes, steps: list[float], values: list[float]) -> None:
    axes.plot(steps, values, color=BLUE, alpha=0.3, linewidth=0.8, label="each step")
    axes.plot(steps, smooth(values), color=BLUE, linewidth=1.8, label="smoothed")
    # One wild step must not flatten the curve; the axis ends where all but the last per cent of the steps lie.
    ordered = sorted(values)
    axes.set_ylim(min(0.0, ordered[0]), max(ordered[int(0.99 * (len(ordered) - 1))], smooth(values)[0]) * 1.05 or 1.0)
    _legend(axes)


def _plot_score(axes: Axes, steps: list[float], values: list[float]) -> None:
    axes.plot(steps, values, color=BLUE, linewidth=1.8, marker="o", markersize=3.5)
    best = max(range(len(values)), key=values.__getitem__)
    axes.plot(steps[best], values[best], "*", color=ORANGE, markersize=13, label=f"best {format_score(values[best])}")
    axes.set_ylim(0, 1)
    _legend(axes)


def _plot_rate(axes: Axes, steps: list[float], values: list[float]) -> None:
    axes.plot(steps, values, color=BLUE, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def draw_reliability(bins: Sequence[dict[str, Any]]) -> str | None:
    """Reliability diagram of the bins of a scores.json, as SVG text; None where no bin holds a pixel.

    Bars: share of correct pixels of each bin of confidence, as dark as the bin is full. The dashed diagonal is where
    they should end.
    """
    total = sum(row["pixels"] for row in bins if is_number(row.get("pixels")))
    if not total:
        return None
    width = 1 / len(bins)

    def plot(axes: Axes) -> None:
        for place, row in enumerate(bins):
            if is_number(row.get("accuracy")) and row["pixels"]:
                shade = 0.25 + 0.75 * (row["pixels"] / total) ** 0.5
                axes.bar((place + 0.5) * width, row["accuracy"], width * 0.92, color=BLUE, alpha=shade)
        axes.plot([0, 1], [0, 1], color=ORANGE, linewidth=1.2, linestyle="--", label="as sure as right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share correct")
        _legend(axes)

    return draw_panel(plot, "reliability", inches=(3.6, 3.0))


def draw_structures(rows: Sequence[tuple[str, str, Sequence[float | None]]]) -> str | None:
    """Dice of every volume, a column of dots for each structure with a line at the mean, as SVG text.

    Args:
        rows: name, colour as CSS has it, and the Dice of each volume; None where it has none.
    """
    known = [(name, colour, [value for value in values if is_number(value)]) for name, colour, values in rows]
    known = [row for row in known if row[2]][:MAX_STRUCTURES]
    if not known:
        return None

    def plot(axes: Axes) -> None:
        for place, (_, colour, values) in enumerate(known):
            shade = tuple(int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
            axes.plot(
                [place + shift for shift in _spread(values)], values, "o", color=shade, alpha=0.75, markersize=4.5
            )
            mean = sum(values) / len(values)
            axes.plot([place - 0.3, place + 0.3], [mean, mean], color=INK, linewidth=1.6)
            axes.annotate(f"{mean:.3f}", (place + 0.32, mean), fontsize=8.5, va="center", color=INK)
        axes.set_xticks(range(len(known)), [name for name, _, _ in known])
        axes.set_xlim(-0.6, len(known) - 0.35)
        axes.set_ylim(max(0.0, min(min(values) for _, _, values in known) - 0.05), 1)
        axes.set_ylabel("Dice")

    return draw_panel(plot, "structures", inches=(max(4.0, 1.9 * len(known) + 1.2), 3.2))


def _spread(values: Sequence[float]) -> list[float]:
    """Sideways places, -0.25 to 0.25: values near each other stand side by side, the first in the middle."""
    taken: dict[int, int] = {}
    places = []
    for value in values:
        level = round(value / DOT_HEIGHT)
        count = taken[level] = taken.get(level, 0) + 1
        places.append((count // 2) * (1 if count % 2 else -1))
    widest = max(map(abs, places)) or 1
    return [place * min(0.06, 0.25 / widest) for place in places]


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, handlelength=1.2)


def _draw(plot: Callable[[Axes], None], last_step: float, salt: str) -> str:
    """One panel over steps as SVG text."""

    def plot_over_steps(axes: Axes) -> None:
        plot(axes)
        axes.set_xlabel("step")
        axes.set_xlim(0, max(1, last_step) * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return draw_panel(plot_over_steps, salt)


def draw_panel(plot: Callable[[Axes], None], salt: str, *, inches: tuple[float, float] = (4.2, 2.5)) -> str:
    """One panel as SVG text. The salt keeps the ids of several panels on one page apart."""
    style: Any = {**STYLE, "svg.hashsalt": salt}  # matplotlib types the keys one by one
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that matplotlib's own font lacks is drawn by the browser's
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        plot(axes)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for name in ("figure_1", "axes_1"):  # ids that matplotlib does not salt
        text = text.replace(f'id="{name}"', f'id="{salt}_{name}"')
    return text[text.index("<svg") :].replace(INK, "currentColor")


def embed_picture(path: Path, *, max_side: int, is_map: bool) -> str | None:
    """A picture as a `data:` address, shrunk to `max_side`; None where it cannot be read.

    Args:
        is_map: label and error maps keep their exact colours (nearest neighbour, PNG); photographs become JPEG.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    shrink = max(picture.size) / max_side
    if shrink > 1:
        size = (max(1, round(picture.width / shrink)), max(1, round(picture.height / shrink)))
        picture = picture.resize(size, Image.Resampling.NEAREST if is_map else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if is_map:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=88)
    kind = "png" if is_map else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
