"""The numbers of an explanation, as `--json` prints them and as its page shows them beside the pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from perpixel.inference.coarse_to_fine import Rung
from perpixel.inference.insight import Insight, View
from perpixel.inference.predictor import Predictor

SHOWN_CLASSES = 4  # whose maps are shown where none are named


def class_names(predictor: Predictor) -> list[str]:
    """Of the classes that probabilities are given of: a table of one class has the rest beside it."""
    names = list(predictor.config.classes.names)
    return names if len(names) > 1 else [f"not {names[0]}", names[0]]


def largest_classes(insight: Insight) -> list[int]:
    """The classes with the most pixels; where fewer than two were predicted, the likeliest others beside them."""
    count = len(insight.probs)
    pixels = np.bincount(insight.label_map.ravel(), minlength=count)
    mean = insight.probs.mean((1, 2))
    order = sorted(range(count), key=lambda index: (-pixels[index], -mean[index]))
    least = min(2, count)
    return [index for place, index in enumerate(order) if pixels[index] or place < least][:SHOWN_CLASSES]


def describe_view(image: np.ndarray, view: View, insight: Insight) -> dict[str, Any]:
    """Sizes: of the image, of the part that was looked at, of what the net saw of it."""
    height, width = insight.label_map.shape
    return {
        "size": [image.shape[1], image.shape[0]],
        "channels": image.shape[2],
        "part": list(view.box) if view.is_part else None,
        "working_size": [width, height],
    }


def describe_insight(insight: Insight, names: Sequence[str], shown: Sequence[int]) -> dict[str, Any]:
    """The numbers of all but the receptive field, plain."""
    labels = insight.label_map
    steps = [answer(logits) for logits in partial_sums(insight.rungs)]
    return {
        "shown": [names[index] for index in shown],
        "classes": [_class_row(insight, index, name) for index, name in enumerate(names)],
        "uncertainty": float(insight.uncertainty.mean()),
        "close_calls": float((insight.margin < 0.1).mean()),
        "score_maps": [{"name": each.name, **_ends(each.scores)} for each in insight.scores],
        "skips": [
            {
                "name": rung.name,
                "stride": rung.stride,
                **_ends(rung.scores),
                "share_changed": float((step != steps[place - 1]).mean()) if place else None,
                "same_as_answer": float((step == labels).mean()),
            }
            for place, (rung, step) in enumerate(zip(insight.rungs, steps))
        ],
        "side_outputs": [{"same_as_answer": float((answer(each) == labels).mean())} for each in insight.sides],
        "presence": None if insight.presence is None else [float(each) for each in insight.presence],
        "stages": [
            {
                "name": each.name,
                "size": list(each.size),
                "low": each.low,
                "high": each.high,
                "channels_shown": list(each.channels),
                "share_changed_without": each.worth,
            }
            for each in insight.stages
        ],
        "samples": insight.samples and {
            "count": insight.samples.count,
            "variance": float(insight.samples.variance.mean()),
            "model_uncertainty": float(insight.samples.model_uncertainty.mean()),
        },
    }  # fmt: skip


def partial_sums(rungs: Sequence[Rung]) -> list[np.ndarray]:
    """The logits (K, h, w) of an FCN that ends after its deepest scores, after its first skip, and so on."""
    return list(itertools.accumulate(rung.logits for rung in rungs))


def answer(logits: np.ndarray) -> np.ndarray:
    """(K, h, w) -> (h, w) the class chosen."""
    return (logits[0] > 0).astype(np.int64) if len(logits) == 1 else logits.argmax(0)


def _ends(maps: np.ndarray) -> dict[str, Any]:
    return {"size": list(maps.shape), "low": float(maps.min()), "high": float(maps.max())}


def _class_row(insight: Insight, index: int, name: str) -> dict[str, Any]:
    here = insight.label_map == index
    return {
        "name": name,
        "share": float(here.mean()),
        "probability": float(insight.probs[index][here].mean()) if here.any() else None,
        "highest_probability": float(insight.probs[index].max()),
        "uncertainty": float(insight.uncertainty[here].mean()) if here.any() else None,
    }


def describe_pixel(insight: Insight, view: View, names: Sequence[str]) -> dict[str, Any]:
    """The pixel whose receptive field was measured, in pixels of the image."""
    row, col = insight.point
    height, width = insight.label_map.shape
    y, x = int((row + 0.5) * view.values.shape[0] / height), int((col + 0.5) * view.values.shape[1] / width)
    if view.point is not None:
        y, x = view.point
    left, top = view.box[:2]
    influence = insight.influence
    box = influence.box
    return {
        "x": x + left,
        "y": y + top,
        "class": names[influence.label],
        "probability": float(insight.probs[influence.label, row, col]),
        "radius_half": influence.half,
        "radius_most": influence.most,
        "box": box and [box[0] + left, box[1] + top, box[2] + left, box[3] + top],
    }
