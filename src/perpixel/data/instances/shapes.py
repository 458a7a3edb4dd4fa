"""Objects from an annotation file: polygons or run lengths, checked one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.data.formats.layout import first_few
from perpixel.data.instances.sources import Finding, Reading, check_size, empty_objects, paint_classes
from perpixel.errors import InputError
from perpixel.labels import Instances, RawMask, Runs, polygon_spans, spans_of_counts
from perpixel.labels.rle import Ints, counts_of_text

# Boxes and outlines may leave the image by rounding; further out something is wrong.
SLACK = 1.0
MEND = "export the annotations again"


@dataclass(frozen=True, eq=False)
class ObjectShape:
    """One annotated object.

    Attributes:
        kind: class index.
        name: how messages call it, "annotation 17".
        polygons: their union is the object; each (P, 2).
        runs: COCO's run lengths in place of polygons, counts or their text.
        runs_size: (H, W) that they state, where they do.
        box: x0 y0 x1 y1 that the file states.
        area: in pixels that the file states.
        fault: why the outline cannot be read at all.
        short: polygons of fewer than three points, left out.
    """

    kind: int
    name: str
    polygons: tuple[NDArray[np.float64], ...] = ()
    runs: str | tuple[int, ...] | None = None
    runs_size: tuple[int, int] | None = None
    is_crowd: bool = False
    box: tuple[float, float, float, float] | None = None
    area: float | None = None
    fault: str = ""
    short: int = 0


@dataclass
class _Notes:
    """Names of objects by what is odd about them."""

    faults: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    outlines: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)

    def findings(self, size: tuple[int, int]) -> list[Finding]:
        """One sentence for each kind, with the first few names."""
        image = f"the image of {size[0]} x {size[1]}"
        texts = (
            ("short", "warning", "short_polygon", "polygons of fewer than 3 points: left out", "draw them again"),
            ("boxes", "warning", "box_outside", f"boxes that leave {image}: those around the outlines are taken", MEND),
            ("outlines", "info", "outline_outside", f"outlines that leave {image}: what is outside is cut off", MEND),
            ("filled", "info", "hole_filled", "polygons inside another one of the same object: no hole, as in COCO",
             "write objects with holes as run lengths"),
        )  # fmt: skip
        found = [Finding("error", "damaged_object", text.partition(": ")[0], 1, MEND) for text in self.faults]
        if self.empty:
            found.append(empty_objects(self.empty))
        for name, severity, code, what, remedy in texts:
            listed = getattr(self, name)
            if listed:
                message = f"{len(listed)} objects ({first_few(listed)}) with {what}"
                found.append(Finding(severity, code, message, len(listed), remedy))
        return found


@dataclass(frozen=True, eq=False)
class ShapeObjects:
    """The objects of one image in an annotation file.

    Attributes:
        size: (H, W) that the file states.
        rule: which pixels are inside, as in `polygon_spans`.
        source: the annotation file.
        image: the image's name, for messages.
        findings: what was found when the file was opened.
    """

    shapes: tuple[ObjectShape, ...]
    size: tuple[int, int]
    rule: str
    source: Path
    image: str
    findings: tuple[Finding, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.source,)

    def read_objects(self) -> Reading:
        check_size(self.size, f"{self.source} (image {self.image})")
        notes = _Notes()
        parts, kept, boxes = [], [], []
        for shape in self.shapes:
            spans = self._spans(shape, notes)
            if shape.short:
                notes.short.append(shape.name)
            if spans is None:
                continue
            if not len(spans):
                notes.empty.append(shape.name)
                continue
            parts.append(spans)
            kept.append(shape)
        masks = Runs.join(self.size, parts)
        for shape, measured in zip(kept, masks.boxes):
            boxes.append(self._box(shape, measured, notes))
        areas = [area if shape.area is None else shape.area for shape, area in zip(kept, masks.areas)]
        instances = Instances.of(
            masks,
            np.array([shape.kind for shape in kept], np.int64),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            is_crowd=np.array([shape.is_crowd for shape in kept], bool),
            areas=np.array(areas, np.float64),
        )
        return Reading(instances, (*self.findings, *notes.findings(self.size)))

    def read(self) -> RawMask:
        return paint_classes(self.read_objects().instances)

    def _spans(self, shape: ObjectShape, notes: _Notes) -> Ints | None:
        """The object's pixels; None where they cannot be known."""
        if shape.runs_size is not None and shape.runs_size != self.size:
            stated = f"{shape.runs_size[0]} x {shape.runs_size[1]}"
            text = f"{shape.name} has run lengths of {stated} for an image of {self.size[0]} x {self.size[1]}"
            notes.faults.append(text)
            return None
        if shape.fault:
            notes.faults.append(f"{shape.name}, {shape.fault}")
            return None
        try:
            if shape.runs is not None:
                counts = counts_of_text(shape.runs) if isinstance(shape.runs, str) else shape.runs
                return spans_of_counts(counts, self.size)
            found = polygon_spans(shape.polygons, self.size, rule=self.rule)
        except (InputError, OverflowError) as error:
            notes.faults.append(f"{shape.name}, {error}")
            return None
        self._look_at_outline(shape, found, notes)
        return found

    def _look_at_outline(self, shape: ObjectShape, found: Ints, notes: _Notes) -> None:
        height, width = self.size
        every = np.concatenate([np.zeros((0, 2)), *shape.polygons])
        if ((every < -SLACK) | (every > np.array([width + SLACK, height + SLACK]))).any():
            notes.outlines.append(shape.name)
        if len(shape.polygons) > 1:
            singles = [polygon_spans([points], self.size, rule=self.rule) for points in shape.polygons]
            largest = max(int(np.diff(spans).sum()) for spans in singles)
            union = int(np.diff(found).sum())
            if union == largest and sum(len(spans) > 0 for spans in singles) > 1:
                notes.filled.append(shape.name)

    def _box(self, shape: ObjectShape, measured: Ints, notes: _Notes) -> Sequence[float]:
        if shape.box is None:
            return measured.astype(float).tolist()
        x0, y0, x1, y1 = shape.box
        height, width = self.size
        fits = -SLACK <= x0 < x1 <= width + SLACK and -SLACK <= y0 < y1 <= height + SLACK
        if not fits:
            notes.boxes.append(shape.name)
            return measured.astype(float).tolist()
        return shape.box


def points_of(numbers: Any) -> NDArray[np.float64]:
    """(P, 2) from x, y, x, y, ... or pairs.

    Raises:
        InputError: something else, or numbers that are not finite.
    """
    try:
        points = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("a polygon holds something else than pairs of numbers") from error
    if points.ndim > 2 or points.size % 2 or (points.ndim == 2 and points.shape[1] != 2):
        raise InputError("a polygon holds something else than pairs of numbers")
    if not np.isfinite(points).all():
        raise InputError("a polygon holds numbers that are not finite")
    return points.reshape(-1, 2)
