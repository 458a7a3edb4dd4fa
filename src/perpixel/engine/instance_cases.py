"""Pictures of best, median and worst images: truth, prediction, and what went wrong with which object."""

from __future__ import annotations

from typing import Any

import numpy as np

from perpixel.labels import ClassTable, Instances, draw_objects
from perpixel.labels.object_pictures import display_times, legend_bar, paint_objects, resize_by
from perpixel.metrics import object_errors
from perpixel.metrics.object_errors import ALONE, HIT, MERGED, SPLIT

# Colours of what became of an object; told apart also by most colour-blind readers, and by tint against outline.
ERROR_COLOURS = {
    "matched": (90, 200, 140),
    "missed": (235, 64, 64),
    "false": (255, 170, 30),
    "merged": (225, 90, 225),
    "split": (70, 160, 255),
}
STATES = {"matched": HIT, "merged": MERGED, "split": SPLIT}
DIMMED = 0.55


def case_pictures(shown: np.ndarray, pred: Instances, target: Instances, table: ClassTable) -> dict[str, np.ndarray]:
    """image, truth, prediction and error of one image, (h, w, 3) uint8.

    Args:
        shown: the image, (H, W, 3) uint8.
        pred: the detections that count.
    """
    truth = target.without_crowds()
    times = display_times(truth)
    return {
        "image": resize_by(shown, times),
        "truth": draw_objects(shown, truth, table, scores=table.num_classes > 2, times=times),
        "prediction": draw_objects(shown, pred, table, times=times),
        "error": draw_errors(shown, pred, target),
    }


def draw_errors(shown: np.ndarray, pred: Instances, target: Instances) -> np.ndarray:
    """What was missed, found where nothing is, merged and split, in colours over the greyed image, with counts below.

    Matched objects: the prediction's outline. Missed ones, and those in mergers: the truth, tinted. False ones, pieces
    and what merges: the prediction's outline; false ones are tinted too.
    """
    times = display_times(target.without_crowds())
    grey = shown.astype(np.float32).mean(axis=2, keepdims=True) * DIMMED
    canvas = resize_by(np.repeat(grey, 3, axis=2).round().astype(np.uint8), times)
    found = object_errors(pred, target)
    layers: list[tuple[str, Instances, float]] = [
        ("matched", pred.take(found.pred == HIT), 0.0),
        ("split", target.take(found.target == SPLIT), 0.25),
        ("split", pred.take(found.pred == SPLIT), 0.0),
        ("merged", target.take(found.target == MERGED), 0.3),
        ("merged", pred.take(found.pred == MERGED), 0.0),
        ("false", pred.take(found.pred == ALONE), 0.3),
        ("missed", target.take(found.target == ALONE), 0.4),
    ]
    for name, objects, tint in layers:
        colours = np.tile(np.array(ERROR_COLOURS[name], np.uint8), (len(objects), 1))
        paint_objects(canvas, objects, colours, times, tint=tint)
    counts: dict[str, Any] = found.counts()
    return legend_bar(canvas, [(name, str(counts[name]), colour) for name, colour in ERROR_COLOURS.items()])
