"""Figures of an evaluation of objects: precision over recall, F1 over IoU, sizes of true and predicted objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from perpixel.apps.report_figures import BLUE, INK, ORANGE, Curve, draw_panel
from perpixel.apps.wording import is_number

# Lines of one panel, from the easiest threshold to the hardest.
LINES = ((BLUE, "-"), (ORANGE, "-"), (INK, "--"))


def draw_object_curves(curves: dict[str, Any]) -> list[Curve]:
    """The panels of what scores.json of objects holds under "curves"; one without numbers is left out."""
    panels = []
    precision = {at: values for at, values in curves.get("precision", {}).items() if all(map(is_number, values))}
    if precision:
        panels.append(Curve("Precision over recall", draw_panel(lambda axes: _plot_precision(axes, precision), "pr")))
    levels, f1 = curves.get("iou", []), curves.get("f1", [])
    if levels and len(levels) == len(f1) and all(map(is_number, f1)):
        shares = curves.get("matching_ap", [])
        panels.append(Curve("F1 over IoU", draw_panel(lambda axes: _plot_f1(axes, levels, f1, shares), "f1")))
    sides = curves.get("sides", {})
    if sum(sides.get("true", [])) + sum(sides.get("predicted", [])):
        panels.append(Curve("Sizes of objects", draw_panel(lambda axes: _plot_sizes(axes, sides), "sizes")))
    return panels


def _plot_precision(axes: Axes, precision: dict[str, Sequence[float]]) -> None:
    for (colour, style), (at, values) in zip(LINES, precision.items()):
        recalls = [place / (len(values) - 1) for place in range(len(values))]
        axes.plot(recalls, values, color=colour, linestyle=style, linewidth=1.6, label=f"IoU {at}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _legend(axes)


def _plot_f1(axes: Axes, levels: Sequence[float], f1: Sequence[float], shares: Sequence[Any]) -> None:
    axes.plot(levels, f1, color=BLUE, linewidth=1.8, marker="o", markersize=3.5, label="F1")
    if len(shares) == len(levels) and all(map(is_number, shares)):
        axes.plot(levels, shares, color=ORANGE, linewidth=1.4, marker="o", markersize=3, label="TP / (TP + FP + FN)")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("IoU from which a pair is matched")
    _legend(axes)


def _plot_sizes(axes: Axes, sides: dict[str, Sequence[float]]) -> None:
    """Bars on an even scale: bins grow by the root of two."""
    starts, true, predicted = sides["from"], sides["true"], sides["predicted"]
    used = [place for place in range(len(starts)) if true[place] or predicted[place]]
    first, last = used[0], used[-1]
    places = range(first, last + 1)
    axes.bar([p - 0.2 for p in places], [true[p] for p in places], 0.38, color=BLUE, label="true")
    axes.bar([p + 0.2 for p in places], [predicted[p] for p in places], 0.38, color=ORANGE, label="predicted")
    step = max(1, (last - first) // 8 + 1)
    ticks = [p - 0.5 for p in range(first, last + 2, step)]
    axes.set_xticks(ticks, [f"{starts[p]:.0f}" if p < len(starts) else "" for p in range(first, last + 2, step)])
    axes.set_xlabel("square root of the area, pixels")
    axes.set_ylabel("objects")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, handlelength=1.4)
