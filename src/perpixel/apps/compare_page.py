"""The page of a comparison: one self-contained file with table, charts, class scores and the same images by all."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from perpixel.apps.compare_document import ranked, score_key
from perpixel.apps.pages import render_page, write_page
from perpixel.apps.report_figures import INK, Curve, draw_panel, embed_picture
from perpixel.apps.report_views import css_colour
from perpixel.apps.wording import (
    MAIN_SCORES,
    format_duration,
    format_interval,
    format_large,
    format_rate,
    format_score,
    format_setting,
    is_number,
    plural,
)

Row = Mapping[str, Any]

# Told apart on white and on black; from the eleventh model on they return with other strokes.
COLOURS = (
    "#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#0ea5b7", "#ec4899", "#84cc16", "#a16207", "#64748b",
)  # fmt: skip
STROKES = ("-", "--", ":", "-.")
PICTURE_SIDE = 420
# Panels of quality against cost: key, title, axis.
COSTS = (
    ("training_s", "Training time", "minutes"),
    ("parameters", "Parameters", "parameters"),
    ("multiply_adds", "Arithmetic", "multiply-adds a pass, at the working size"),
    ("ms", "Prediction time", "milliseconds an image, fp32"),
)

# What the scores mean that models are ranked by.
MEANINGS = {
    "miou": "the mean over the classes of the share of pixels that prediction and truth have in common (intersection "
    "over union)",
    "mask_ap": "COCO's average precision of masks, ranked by score, the mean over IoU 0.5 to 0.95",
    "matching_ap50": "the share TP / (TP + FP + FN) of objects matched one to one at IoU 0.5",
    "structure_dice": "the mean over the structures of their mean Dice over the volumes, each by itself",
}


def write_comparison(folder: Path, document: Row, out: Path) -> Path:
    """Write the page of a comparison, finished or not.

    Args:
        folder: where the pictures of `document` lie.
        document: the content of compare.json.
    """
    return write_page(out, render(folder, document))


def render(folder: Path, document: Row) -> str:
    """The page as text."""
    rows = [_view(number, row, score_key(document)) for number, row in enumerate(ranked(document))]
    done = [row for row in rows if row["state"] == "done"]
    return render_page(
        "compare.html.jinja",
        name=Path(document["data"]).name,
        subtitle=_subtitle(document),
        tiles=_tiles(done, rows),
        rows=rows,
        done=done,
        others=[row for row in rows if row["state"] != "done"],
        best=max((row["score"] for row in done if row["score"] is not None), default=None),
        costs=[panel for panel in (_cost_panel(done, *cost) for cost in COSTS) if panel is not None],
        learning=_learning_panel(done),
        classes=_classes(document, done),
        pictures=_pictures(folder, document, done),
        colours=[(entry["name"], css_colour(entry["colour"])) for entry in document["classes"]],
        settings=[(key.replace("_", " "), format_setting(value)) for key, value in document["settings"].items()],
        size=document["size"],
        split=document["split"],
        score=MAIN_SCORES[score_key(document)],
        meaning=MEANINGS[score_key(document)],
        machines=sorted({row["machine"] for row in done}),
        labels=[row["label"] for row in rows],
    )


def _view(number: int, row: Row, main: str) -> dict[str, Any]:
    """One model as the template prints it: its number by rank, its colour and stroke, and its values."""
    scores, speed = row.get("scores") or {}, row.get("speed") or {}
    plan = row.get("plan") or {}
    keys = ("parameters", "multiply_adds", "working_size", "steps", "images_seen", "training_s", "machine", "reason")
    options = row.get("options") or {}
    return {
        **{key: row.get(key) for key in keys},
        **{key: plan.get(key) for key in ("scale", "crop", "batch_size", "learning_rate", "precision")},
        **{key: speed.get(key) for key in ("ms", "megapixels_per_s")},
        "label": row["label"],
        "model": row["model"],
        "state": row["state"],
        "options": [f"{key}={format_setting(value)}" for key, value in options.items()],
        "rank": number + 1,
        "colour": COLOURS[number % len(COLOURS)],
        "stroke": STROKES[number // len(COLOURS) % len(STROKES)],
        "score": scores.get(main),
        "score_title": MAIN_SCORES[main],
        "pixel_accuracy": scores.get("pixel_accuracy"),
        "interval": (row.get("intervals") or {}).get(main),
        "curve": row.get("curve") or [],
        "per_class": row.get("per_class") or [],
    }


def _subtitle(document: Row) -> str:
    settings = document["settings"]
    length = (
        f"{format_duration(settings['budget_s'])} of training each"
        if settings.get("budget_s")
        else f"{settings.get('epochs')} epochs each"
    )
    images = document["num_images"]
    words = [
        plural(len(document["models"]), "model"),
        length,
        f"seed {settings.get('seed', 0)}",
        f"{images.get('train', 0):,} images to learn from, {images.get(document['split'], 0):,} to judge by",
        str(document["created"]).replace("T", " ").replace("+00:00", " UTC"),
    ]
    return " · ".join(words)


def _tiles(done: Sequence[Row], rows: Sequence[Row]) -> list[dict[str, str]]:
    """The winners: best score, fastest, smallest."""
    tiles = []
    scored = [row for row in done if row["score"] is not None]
    if scored:
        first = scored[0]
        note = f"{first['score_title']} {format_score(first['score'])} ({format_interval(first['interval'])})"
        tiles.append({"title": "best", "value": first["label"], "note": note})
    timed = [row for row in done if row["ms"] is not None]
    if timed:
        quick = min(timed, key=lambda row: row["ms"])
        note = f"{format_rate(quick['ms'])} ms an image, {quick['score_title']} {format_score(quick['score'])}"
        tiles.append({"title": "fastest", "value": quick["label"], "note": note})
    counted = [row for row in done if row["parameters"]]
    if counted:
        small = min(counted, key=lambda row: row["parameters"])
        note = f"{format_large(small['parameters'])} parameters, {small['score_title']} {format_score(small['score'])}"
        tiles.append({"title": "smallest", "value": small["label"], "note": note})
    failed = sum(row["state"] == "failed" for row in rows)
    note = f"{failed} failed" if failed else "all done" if len(done) == len(rows) else "not finished yet"
    tiles.append({"title": "models done", "value": f"{len(done)} of {len(rows)}", "note": note})
    return tiles


def _cost_panel(rows: Sequence[Row], key: str, title: str, axis: str) -> Curve | None:
    """The score over one cost, a numbered point a model; the line joins those that no other beats in both."""
    shown = [row for row in rows if row["score"] is not None and is_number(row[key]) and row[key] > 0]
    if not shown:
        return None
    factor = 1 / 60 if key == "training_s" else 1.0

    def plot(axes: Axes) -> None:
        front = sorted(_unbeaten(shown, key), key=lambda row: row[key])
        xs, ys = [row[key] * factor for row in front], [row["score"] for row in front]
        axes.plot(xs, ys, color=INK, alpha=0.25, linewidth=1, zorder=1)
        for row in shown:
            x = row[key] * factor
            if row["interval"] and all(is_number(end) for end in row["interval"]):
                axes.plot([x, x], row["interval"], color=row["colour"], alpha=0.4, linewidth=1.2, zorder=2)
            said = f"{row['label']}: {row['score_title']} {format_score(row['score'])}, {_cost_text(key, row[key])}"
            axes.plot(x, row["score"], "o", color=row["colour"], markersize=13, zorder=3, gid=_titled(said))
            axes.text(x, row["score"], str(row["rank"]), color="white", fontsize=7.5, ha="center", va="center_baseline",
                      weight="bold", zorder=4)  # fmt: skip
        _span(axes, [row[key] * factor for row in shown], is_log=key != "training_s")
        axes.set_xlabel(axis)
        axes.set_ylabel(shown[0]["score_title"])

    return Curve(title, _with_titles(draw_panel(plot, key, inches=(5.4, 3.0))))


def _cost_text(key: str, value: float) -> str:
    if key == "training_s":
        return format_duration(value)
    return f"{format_rate(value)} ms" if key == "ms" else format_large(value)


def _span(axes: Axes, values: Sequence[float], *, is_log: bool) -> None:
    """Room around the points, and ticks that people read: 20 M, not 2 x 10^7."""
    low, high = min(values), max(values)
    if not is_log:
        room = max(0.12 * (high - low), 0.06 * high)
        axes.set_xlim(max(0.0, low - room), high + room)
        return
    axes.set_xscale("log")
    room = max((high / low) ** 0.12, 1.25)
    axes.set_xlim(low / room, high * room)
    if high / low < 30:
        steps = [m * 10.0**e for e in range(-3, 16) for m in (1, 2, 5)]
        axes.set_xticks([step for step in steps if low / room <= step <= high * room])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_large(float(value)).replace(".0 ", " ")))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _unbeaten(rows: Sequence[Row], key: str) -> list[Row]:
    """Those for which no other model is both cheaper and better (Pareto front)."""
    return [
        row
        for row in rows
        if not any(
            other[key] <= row[key] and other["score"] >= row["score"]
            and (other[key] < row[key] or other["score"] > row["score"])
            for other in rows
        )
    ]  # fmt: skip


def _learning_panel(rows: Sequence[Row]) -> str | None:
    """Validation score of every model over its training time."""
    shown = [row for row in rows if row["curve"]]
    if not shown:
        return None
    longest = max(point[0] for row in shown for point in row["curve"])
    unit, name = (60.0, "minutes") if longest >= 120 else (1.0, "seconds")

    def plot(axes: Axes) -> None:
        for row in reversed(shown):  # the best on top
            xs, ys = [point[0] / unit for point in row["curve"]], [point[2] for point in row["curve"]]
            said = f"{row['label']}: {format_score(max(ys))} at best"
            style = {"color": row["colour"], "linestyle": row["stroke"], "linewidth": 1.7}
            axes.plot(xs, ys, marker="o", markersize=2.5, gid=_titled(said), **style)
            axes.annotate(str(row["rank"]), (xs[-1], ys[-1]), xytext=(4, 0), textcoords="offset points",
                          color=row["colour"], fontsize=8, va="center", weight="bold")  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, longest / unit * 1.05)
        axes.set_xlabel(f"{name} of training")
        axes.set_ylabel(f"validation {shown[0]['score_title']}")

    return _with_titles(draw_panel(plot, "learning", inches=(11.5, 4.0)))


def _titled(text: str) -> str:
    """A group id that `_with_titles` turns into a tooltip. Hexadecimal, since an id may hold few signs."""
    return "title-" + text.encode().hex()


def _with_titles(svg: str) -> str:
    """Groups marked by `_titled` get the tooltip that a browser shows on hovering."""

    def group(match: re.Match[str]) -> str:
        return f"<g><title>{html.escape(bytes.fromhex(match[1]).decode())}</title>"

    return re.sub(r'<g id="title-([0-9a-f]+)">', group, svg)


def _classes(document: Row, done: Sequence[Row]) -> dict[str, Any] | None:
    """IoU of every class by every model, and the best of each class."""
    names = [entry["name"] for entry in document["classes"]]
    rows = []
    for row in done:
        by_name = {each["name"]: each for each in row["per_class"]}
        rows.append({**row, "cells": [by_name.get(name, {}) for name in names]})
    if not rows:
        return None
    best = [
        max((row["cells"][i]["iou"] for row in rows if is_number(row["cells"][i].get("iou"))), default=None)
        for i in range(len(names))
    ]
    return {"names": names, "rows": rows, "best": best}


def _pictures(folder: Path, document: Row, done: Sequence[Row]) -> list[dict[str, Any]]:
    """The same images by every model, best model first."""
    shown = []
    for picture in document["pictures"]:
        figures = [
            {"title": "image", "score": None, "source": _embed(folder, picture["image"], is_map=False)},
            {"title": "truth", "score": None, "source": _embed(folder, picture["truth"], is_map=True)},
        ]
        for row in done:
            file = picture["predictions"].get(row["label"])
            source = _embed(folder, file, is_map=True) if file else None
            title = f"{row['rank']} {row['label']}"
            figures.append({"title": title, "score": picture["scores"].get(row["label"]), "source": source})
        shown.append({"why": picture["why"], "name": picture["name"], "figures": figures})
    return shown


def _embed(folder: Path, name: str, *, is_map: bool) -> str | None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):  # a comparison from a stranger must not fetch the reader's pictures
        return None
    return embed_picture(path, max_side=PICTURE_SIDE, is_map=is_map)
