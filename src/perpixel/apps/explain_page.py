"""The page of an explanation: from what was found to what its template prints, one function a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from perpixel.apps import explain_pictures as draw
from perpixel.apps.explain_document import answer, class_names, partial_sums
from perpixel.apps.pages import render_page, write_page
from perpixel.apps.report_figures import BLUE, ORANGE, draw_panel
from perpixel.apps.report_views import css_colour
from perpixel.apps.wording import format_share, plural
from perpixel.images import to_display
from perpixel.inference.influence import HALF, MOST
from perpixel.inference.insight import Insight, View
from perpixel.inference.predictor import Predictor
from perpixel.labels import ClassTable, overlay

Document = Mapping[str, Any]
Picture = dict[str, Any]

FADED = 0.25  # of the photograph where nothing changed


def write_explanation(out: Path, predictor: Predictor, view: View, insight: Insight, document: Document) -> Path:
    """Write the page."""
    return write_page(out, render(predictor, view, insight, document))


def render(predictor: Predictor, view: View, insight: Insight, document: Document) -> str:
    """The page as text."""
    names = class_names(predictor)
    scene = Scene(predictor, view, insight, names, [names.index(name) for name in document["shown"]])
    return render_page(
        "explain.html.jinja",
        document=document,
        title=f"{document['image']} as {document['model']} sees it",
        subtitle=_subtitle(document),
        headline=scene.headline(),
        legend=scene.legend(document),
        doubts=scene.doubts(document),
        probabilities=scene.probabilities(),
        ladder=scene.ladder(document),
        scores=scene.scores() if not insight.rungs else None,
        sides=scene.sides(document),
        presence=scene.presence(),
        stages=scene.stages(document),
        field=scene.field(document),
        heat_bar=_heat_bar(),
    )


def _subtitle(document: Document) -> str:
    width, height = document["size"]
    words = [f"{width} x {height}, {plural(document['channels'], 'channel')}"]
    if document["part"]:
        x0, y0, x1, y1 = document["part"]
        words.append(f"of which the part of {x1 - x0} x {y1 - y0} at x {x0}, y {y0} is looked at")
    words.append("the net sees {} x {}".format(*document["working_size"]))
    return " · ".join(words)


def _heat_bar() -> str:
    """Colours of the heat map as a CSS gradient."""
    stops = (matplotlib.colormaps[draw.HEAT](np.linspace(0, 1, 9))[:, :3] * 255).round().astype(int)
    return "linear-gradient(90deg, " + ", ".join(css_colour(stop.tolist()) for stop in stops) + ")"


def _picture(source: str, title: str, note: str = "", *, is_map: bool = True) -> Picture:
    return {"source": source, "title": title, "note": note, "is_map": is_map}


def _heat(values: np.ndarray, low: float, high: float, title: str, note: str) -> Picture:
    return _picture(draw.embed_smooth(draw.heat(values, low, high)), title, note)


def _ends(low: float, high: float) -> str:
    """Two numbers to the same place, and no '-0.0'."""
    largest = max(abs(low), abs(high))
    digits = 0 if largest >= 99.5 else 1 if largest >= 0.95 else 2 if largest >= 0.095 else 3
    return f"{round(low, digits) + 0.0:.{digits}f} to {round(high, digits) + 0.0:.{digits}f}"


class Scene:
    """The view with what was found in it, and its pictures."""

    def __init__(
        self, predictor: Predictor, view: View, insight: Insight, names: Sequence[str], shown: Sequence[int]
    ) -> None:
        self.insight, self.names, self.shown = insight, names, shown
        self.size = (insight.label_map.shape[0], insight.label_map.shape[1])
        low, high = (float(end(ends)) for end, ends in zip((np.min, np.max), view.limits))
        known = {} if view.values.dtype == np.uint8 else {"low": low, "high": high}
        photo = to_display(view.values, **known)
        shrink = max(1.0, max(photo.shape) / draw.PHOTO_SIDE)
        # Photographs are as sharp as the image; what the net returned keeps the pixels of its working size.
        height, width = (max(1, round(side / shrink)) for side in photo.shape[:2])
        self.photo = draw.fitted(photo, (height, width))
        self.image = draw.fitted(self.photo, self.size)
        self.table: ClassTable = predictor.config.classes
        self.is_single = self.table.num_classes == 1
        self.colours = (
            [(128, 128, 128), *self.table.colours.tolist()] if self.is_single else self.table.colours.tolist()
        )

    # ---- the first row -------------------------------------------------------------------------------------------

    def colour(self, label_map: np.ndarray) -> np.ndarray:
        return np.array(self.colours, np.uint8)[label_map]

    def overlay(self, label_map: np.ndarray) -> np.ndarray:
        """Labels of the working size over the photograph."""
        label_map = self.over_photo(label_map)
        if self.is_single:
            mixed = (self.photo * 0.5 + self.colour(label_map) * 0.5).astype(np.uint8)
            return np.where(label_map[..., None] > 0, mixed, self.photo)
        return overlay(self.photo, label_map, self.table)

    def over_photo(self, values: np.ndarray) -> np.ndarray:
        """(h, w) of the working size -> the photograph's: each pixel gets the value at its place."""
        rows, cols = (np.arange(new) * old // new for new, old in zip(self.photo.shape[:2], self.size))
        return values[rows[:, None], cols[None, :]]

    def headline(self) -> list[Picture]:
        labels, doubt = self.insight.label_map, self.insight.uncertainty
        note = f"mean {doubt.mean():.3f}"
        return [
            _picture(draw.embed_photo(self.photo), "Image", is_map=False),
            _picture(draw.embed_map(self.colour(labels), draw.PHOTO_SIDE), "Prediction"),
            _picture(draw.embed_photo(self.overlay(labels)), "Overlay", is_map=False),
            _picture(draw.embed_smooth(draw.heat(doubt, 0, 1), draw.PHOTO_SIDE), "Uncertainty", note),
        ]

    def legend(self, document: Document) -> list[dict[str, Any]]:
        rows = [
            {**row, "colour": css_colour(self.colours[index]), "is_shown": index in self.shown}
            for index, row in enumerate(document["classes"])
        ]
        return sorted(rows, key=lambda row: -row["share"])

    # ---- doubts and probabilities --------------------------------------------------------------------------------

    def doubts(self, document: Document) -> list[Picture]:
        insight = self.insight
        entropy, close = insight.uncertainty, f"below 0.1 on {format_share(document['close_calls'])} of the pixels"
        pictures = [
            _heat(entropy, 0, 1, "Entropy", f"mean {entropy.mean():.3f}, highest {entropy.max():.3f}"),
            _heat(1 - insight.margin, 0, 1, "1 - margin", f"margin {close}"),
            _picture(draw.embed_map(self.colour(insight.runner_up)), "Second choice", "the class that came next"),
        ]
        if insight.samples is not None:
            for title, values in (
                (f"Variance of {insight.samples.count} passes", insight.samples.variance),
                ("What passes disagree on", insight.samples.model_uncertainty),
            ):
                high = max(float(np.percentile(values, draw.HIGH_SHARE)), 1e-6)
                pictures.append(_heat(values, 0, high, title, f"0 to {high:.2g}, mean {values.mean():.2g}"))
        return pictures

    def probabilities(self) -> list[Picture]:
        pictures = []
        for index in self.shown:
            values = self.insight.probs[index]
            note = f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"
            pictures.append(_heat(values, 0, 1, self.names[index], note))
        return pictures

    # ---- scores --------------------------------------------------------------------------------------------------

    def favour(self, scores: np.ndarray, index: int) -> np.ndarray:
        """How much (K, h, w) scores favour a class: its score less the mean of all, which softmax does not see."""
        if len(scores) == 1:
            return scores[0] if index else -scores[0]
        return scores[index] - scores.mean(0)

    def cell(self, values: np.ndarray, limit: float) -> Picture:
        """One signed map with its ends."""
        source = draw.embed_map(draw.signed(values, limit))
        return _picture(source, "", _ends(float(values.min()), float(values.max())))

    def ladder(self, document: Document) -> dict[str, Any] | None:
        """An FCN from its coarsest scores to its finest skip: labels, what changes, and each class's scores."""
        rungs = self.insight.rungs
        if not rungs:
            return None
        before, steps = None, []
        for rung, logits, numbers in zip(rungs, partial_sums(rungs), document["skips"]):
            labels = answer(logits)
            if before is None:
                changed = _picture(draw.embed_photo(self.photo, draw.MAP_SIDE), "the image", is_map=False)
            else:
                picture = np.where((labels != before)[..., None], self.colour(labels), self.faded())
                note = f"{format_share(numbers['share_changed'])} of the pixels"
                changed = _picture(draw.embed_map(picture), f"changed by {rung.name}", note)
            title = f"1/{rung.stride}: " + ("the deepest scores alone" if before is None else f"with {rung.name}")
            note = f"{format_share(numbers['same_as_answer'])} as the answer"
            steps.append(
                {"labels": _picture(draw.embed_map(self.colour(labels)), title, note), "changed": changed}
            )  # fmt: skip
            before = labels
        return {"steps": steps, "columns": self._ladder_columns(), "rows": [self._ladder_row(i) for i in self.shown]}

    def faded(self) -> np.ndarray:
        """The photograph in faint grey: where nothing has changed."""
        grey = self.image.astype(np.float32).mean(2, keepdims=True)
        return np.repeat((grey * FADED).astype(np.uint8), 3, axis=2)

    def _ladder_columns(self) -> list[dict[str, str]]:
        columns = []
        for place, rung in enumerate(self.insight.rungs):
            height, width = rung.scores.shape[1:]
            size = f"{width} x {height} cells"
            if place:
                columns.append({"title": f"{rung.name} adds", "note": f"1/{rung.stride}", "sign": "+"})
                columns.append({"title": f"scores at 1/{rung.stride}", "note": size, "sign": "="})
            else:
                columns.append({"title": f"scores at 1/{rung.stride}", "note": size, "sign": ""})
        return [*columns, {"title": "logits", "note": "{1} x {0}".format(*self.size), "sign": "→"}]

    def _ladder_row(self, index: int) -> dict[str, Any]:
        maps = []
        for place, rung in enumerate(self.insight.rungs):
            if place:
                maps.append(rung.over_image(self.favour(rung.own, index)))
            maps.append(rung.over_image(self.favour(rung.scores, index)))
        maps.append(self.favour(self.insight.logits, index))
        limit = max(float(np.percentile(np.abs(each), draw.HIGH_SHARE)) for each in maps)
        return {
            "name": self.names[index],
            "colour": css_colour(self.colours[index]),
            "limit": limit,
            "cells": [self.cell(each, limit) for each in maps],
        }

    def scores(self) -> dict[str, Any] | None:
        """The maps with one value a class of any net, and the logits."""
        logits = self.insight.logits
        columns = [each for each in self.insight.scores if each.scores.shape != logits.shape]
        if not columns:
            columns = list(self.insight.scores)[-1:]
        maps = [*((each.name, each.scores) for each in columns), ("logits", logits)]
        if len(maps) == 2 and np.array_equal(maps[0][1], logits):
            maps = [(f"{columns[0].name} = logits", logits)]
        rows = []
        for index in self.shown:
            values = [self.favour(scores, index) for _, scores in maps]
            limits = [max(float(np.percentile(np.abs(each), draw.HIGH_SHARE)), 1e-12) for each in values]
            rows.append(
                {
                    "name": self.names[index],
                    "colour": css_colour(self.colours[index]),
                    "cells": [self.cell(each, limit) for each, limit in zip(values, limits)],
                }
            )
        titles = [
            {"title": name, "note": f"{scores.shape[2]} x {scores.shape[1]}", "sign": ""} for name, scores in maps
        ]
        return {"columns": titles, "rows": rows}

    def sides(self, document: Document) -> list[Picture]:
        pictures = []
        for number, (logits, row) in enumerate(zip(self.insight.sides, document["side_outputs"]), start=1):
            note = f"{format_share(row['same_as_answer'])} as the answer"
            pictures.append(_picture(draw.embed_map(self.colour(answer(logits))), f"side output {number}", note))
        return pictures

    def presence(self) -> list[dict[str, Any]]:
        found = self.insight.presence
        if found is None:
            return []
        names = self.names[-len(found) :]
        return [{"name": name, "probability": float(each)} for name, each in zip(names, found)]

    # ---- stages --------------------------------------------------------------------------------------------------

    def stages(self, document: Document) -> list[dict[str, Any]]:
        longest = max((each.worth or 0 for each in self.insight.stages), default=0) or 1
        rows = []
        for each in self.insight.stages:
            shown = [("activity", each.activity), *((f"map {c}", m) for c, m in zip(each.channels, each.maps))]
            pictures = []
            for title, values in shown:
                low, high = draw.stretch(values)
                pictures.append(_heat(values, low, high, title, _ends(low, high)))
            channels, height, width = each.size
            size = f"{plural(channels, 'map')} of {width} x {height}"
            row = {"name": each.name, "size": size, "worth": each.worth, "length": (each.worth or 0) / longest}
            rows.append({**row, "pictures": pictures})
        return rows

    # ---- what a pixel sees ---------------------------------------------------------------------------------------

    def field(self, document: Document) -> dict[str, Any]:
        influence, pixel = self.insight.influence, document["pixel"]
        top = float(influence.gradient.max())
        # Influence falls off so steeply that its cube root tells more than itself.
        picture = draw.over_grey(self.photo, self.over_photo(np.cbrt(influence.gradient / (top or 1))))
        x0, _, x1, _ = document["part"] or [0, 0, document["size"][0], 0]
        zoom = self.photo.shape[1] / max(1, x1 - x0)
        radii = [radius * zoom for radius in (influence.half, influence.most) if radius is not None]
        row, col = (
            int((place + 0.5) * new / old) for place, new, old in zip(self.insight.point, picture.shape, self.size)
        )
        marked = draw.mark(picture, (row, col), radii)
        curve = None
        if influence.curve:
            curve = draw_panel(lambda axes: _plot_field(axes, influence.curve, influence.half, influence.most), "field")
        box = pixel["box"]
        return {
            "picture": draw.embed_photo(marked, 2 * draw.PHOTO_SIDE),
            "curve": curve,
            "box": box and f"{box[2] - box[0]} x {box[3] - box[1]}",
        }


def _plot_field(axes: Axes, curve: Sequence[tuple[float, float]], half: float | None, most: float | None) -> None:
    axes.plot(*zip(*curve), color=BLUE, linewidth=1.8)
    for radius, share in ((half, HALF), (most, MOST)):
        if radius is not None:
            axes.plot(radius, share, "o", color=ORANGE, markersize=6)
            axes.annotate(f"{share:.0%} within {radius:.0f} px", (radius, share), xytext=(8, -4),
                          textcoords="offset points", fontsize=9, va="top")  # fmt: skip
    axes.set_ylim(0, 1.04)
    axes.set_xlim(left=0)
    axes.set_xlabel("distance from the pixel, in pixels of the image")
    axes.set_ylabel("share of the influence")
