"""Everything that is measured of objects: one call an image, then one table for the set."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.labels import ClassTable, Instances
from perpixel.metrics import (
    AP_DEFINITIONS,
    ERROR_DEFINITIONS,
    INSTANCE_DEFINITIONS,
    PANOPTIC_DEFINITIONS,
    DetectionRows,
    InstanceCounts,
    average_precision,
    bootstrap_sums,
    detection_rows,
    instance_counts,
    instance_scores,
    object_errors,
    panoptic_counts,
    panoptic_quality,
    precision_curves,
)

# As COCO's, unless an image of the set holds more objects: recall could not reach 1 then.
MAX_DETECTIONS = 100
EVERY = 1 << 30
# Sets of images drawn for the interval of an average precision, and detections up to which they are drawn at all.
RESAMPLES, MOST_DETECTIONS = 200, 100_000
F1_AT = (50, 60, 70, 75, 80, 90)
CURVES_AT = (50, 75, 90)
# Sides (square root of area) between which the objects are counted for the report, in pixels.
SIDES = tuple(round(2 ** (step / 2), 2) for step in range(2, 25))

SCORE_DEFINITIONS = {
    **{f"{kind}_{name}": f"{text}; IoU of {what}" for kind, what in (
        ("mask", "masks"),
        ("box", "boxes"),
        ("boundary", "masks or of the bands along their outlines, whichever is smaller (boundary AP)"),
    ) for name, text in AP_DEFINITIONS.items()},
    "matching_ap50": INSTANCE_DEFINITIONS["average_precision"].split("; mean_ap")[0] + "; here at IoU 0.50",
    "matching_ap": "mean of the same over IoU 0.50, 0.55, ... 0.95",
    "matching_ap_50_90": "mean of the same over IoU 0.50, 0.55, ... 0.90",
    **{f"f1_{at}": f"{INSTANCE_DEFINITIONS['f1']} at IoU 0.{at}" for at in F1_AT},
    "precision_50": INSTANCE_DEFINITIONS["precision"],
    "recall_50": INSTANCE_DEFINITIONS["recall"],
    **{name: INSTANCE_DEFINITIONS[name] for name in ("aji", "aji_plus", "boundary_iou")},
    **PANOPTIC_DEFINITIONS,
    **ERROR_DEFINITIONS,
}  # fmt: skip


class InstanceMeasures:
    """Measures of the images of one evaluation.

    Args:
        classes: of the data set; class 0 is background.
        min_score: AP ranks all detections; everything else looks at those from this score on.
        boundary: also measure outlines (boundary AP, boundary IoU).
    """

    def __init__(self, classes: ClassTable, *, min_score: float = 0.0, boundary: bool = True) -> None:
        self.classes, self.min_score = classes, min_score
        self.kinds = ("mask", "box", "boundary") if boundary else ("mask", "box")
        self.boundary = boundary
        self.rows: dict[str, list[DetectionRows]] = {kind: [] for kind in self.kinds}
        self.counts: list[InstanceCounts] = []
        self.panoptic: list[NDArray[np.int64]] = []
        self.errors: list[dict[str, int]] = []
        self.most = 0
        self.sides: dict[str, list[NDArray[np.float64]]] = {"true": [], "predicted": []}

    def add(self, pred: Instances, target: Instances) -> None:
        """Measure one image."""
        num_classes, image = self.classes.num_classes, len(self.counts)
        for kind, rows in self.rows.items():
            rows.append(
                detection_rows(pred, target, image=image, num_classes=num_classes, kind=kind, max_detections=EVERY)
            )
        shown = self.shown(pred)
        self.counts.append(instance_counts(shown, target, num_classes=num_classes, boundary=self.boundary))
        self.panoptic.append(panoptic_counts(shown, target, num_classes=num_classes))
        self.errors.append(object_errors(shown, target).counts())
        self.most = max(self.most, len(target.without_crowds()))
        for name, found in (("true", target.without_crowds()), ("predicted", shown)):
            self.sides[name].append(np.sqrt(found.masks.areas))

    def shown(self, pred: Instances) -> Instances:
        """The detections from `min_score` on."""
        assert pred.scores is not None
        return pred.take(pred.scores >= self.min_score)

    @property
    def max_detections(self) -> int:
        """Of an image and class, for AP."""
        return max(MAX_DETECTIONS, self.most)

    def summary(self) -> dict[str, float | None]:
        """The scores of all images together, by the names of SCORE_DEFINITIONS."""
        scores: dict[str, float] = {}
        for kind in self.kinds:
            found = average_precision(self._kept(kind)).summary()
            scores |= {f"{kind}_{name}": found[name] for name in AP_DEFINITIONS}
        scores |= _count_scores(InstanceCounts.join(self.counts), self.boundary)
        scores |= panoptic_quality(np.sum(self.panoptic, axis=0)).summary()
        return {name: plain(value) for name, value in scores.items()}

    def _kept(self, kind: str) -> DetectionRows:
        """Rows of the best detections only: those behind them never change what the better ones hit."""
        every = DetectionRows.join(self.rows[kind])
        kept = every.ranks < self.max_detections
        names = ("images", "classes", "ranks", "scores", "states")
        return replace(every, **{name: getattr(every, name)[kept] for name in names})

    def error_counts(self) -> dict[str, int]:
        """Sums over the images."""
        return {name: sum(row[name] for row in self.errors) for name in self.errors[0]} if self.errors else {}

    def per_class(self) -> list[dict[str, Any]]:
        """One row a class but background."""
        counts = InstanceCounts.join(self.counts)
        scores, quality = instance_scores(counts), panoptic_quality(np.sum(self.panoptic, axis=0))
        precisions = {kind: average_precision(self._kept(kind)) for kind in self.kinds}
        at50, at75 = (counts.thresholds.index(level) for level in (0.5, 0.75))
        images = np.sum([part.matches[:, at50, 2] > 0 for part in self.counts], axis=0)
        rows = []
        for index in range(1, self.classes.num_classes):
            row: dict[str, Any] = {
                "name": self.classes.names[index],
                "images": int(images[index]),
                "true": int(counts.matches[index, at50, 2]),
                "predicted": int(counts.matches[index, at50, 0]),
            }
            row |= {f"{kind}_ap": plain(found.per_class[index]) for kind, found in precisions.items()}
            row["mask_ap50"] = plain(precisions["mask"].table[index, 0, at50])
            row |= {
                "f1_50": plain(scores.f1[index, at50]),
                "f1_75": plain(scores.f1[index, at75]),
                "precision_50": plain(scores.precision[index, at50]),
                "recall_50": plain(scores.recall[index, at50]),
                "matching_ap50": plain(scores.average_precision[index, at50]),
                **{name: plain(getattr(scores, name)[index]) for name in ("aji", "aji_plus")},
                **({"boundary_iou": plain(scores.boundary_iou[index])} if self.boundary else {}),
                **{name: plain(getattr(quality, name)[index]) for name in ("pq", "sq", "rq")},
            }
            rows.append(row)
        return rows

    def columns(self, image: int) -> dict[str, Any]:
        """What the table of images says of image number `image`, taken by itself."""
        counts = self.counts[image]
        scores = _count_scores(counts, self.boundary)
        chosen = ("f1_50", "f1_75", "f1_90", "matching_ap50", "matching_ap", "aji")
        precision = average_precision(self.rows["mask"][image]).summary()
        return {
            **self.errors[image],
            "mean_f1": plain(np.mean(instance_scores(counts).overall["f1"])),
            **{name: plain(scores[name]) for name in chosen},
            "pq": plain(panoptic_quality(self.panoptic[image]).summary()["pq"]),
            "mask_ap": plain(precision["ap"]),
        }

    def curves(self) -> dict[str, Any]:
        """What the report draws: precision over recall, F1 over IoU, sizes of true and predicted objects."""
        table = precision_curves(self._kept("mask"))
        seen = ~np.isnan(table[:, 0, 0])
        counts = InstanceCounts.join(self.counts)
        overall = instance_scores(counts).overall
        levels = [round(100 * level) for level in counts.thresholds]
        means = table[seen].mean(axis=0) if seen.any() else table[0]
        precision = {f"{at / 100:.2f}": np.round(means[levels.index(at)], 5).tolist() for at in CURVES_AT}
        edges = np.array([0.0, *SIDES, np.inf])
        sizes = {name: np.histogram(np.concatenate(parts), edges)[0].tolist() for name, parts in self.sides.items()}
        return {
            "precision": precision if seen.any() else {},
            "iou": list(counts.thresholds),
            "f1": [plain(value) for value in overall["f1"]],
            "matching_ap": [plain(value) for value in overall["average_precision"]],
            "sides": {"from": [0.0, *SIDES], **sizes},
        }

    def intervals(self, *, seed: int, groups: Sequence[Hashable] | None = None) -> dict[str, list[float | None]]:
        """[low, high] of 95 % of the sets of images that might have been drawn; AP where rows are not too many."""
        parts = [np.stack([getattr(c, name) for c in self.counts]) for name in ("matches", "jaccard")]
        shapes = [part.shape[1:] for part in parts] + [self.panoptic[0].shape]
        flat = [part.reshape(len(part), -1) for part in (*parts, np.stack(self.panoptic))]
        ends = np.cumsum([0, *(part.shape[1] for part in flat)])

        def part_of(sums: NDArray[np.float64], place: int) -> NDArray[np.float64]:
            return sums[:, ends[place] : ends[place + 1]].reshape(len(sums), *shapes[place])

        levels = [round(100 * level) for level in self.counts[0].thresholds]

        def matched(at: int, kind: str) -> Any:
            place = levels.index(at)
            return lambda sums: _matched(part_of(sums, 0)[:, :, place].sum(axis=1), kind)

        def mean_matched(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(_matched(part_of(sums, 0).sum(axis=1), "ap").mean(axis=1))

        statistics: dict[str, Any] = {f"f1_{at}": matched(at, "f1") for at in F1_AT}
        statistics |= {"precision_50": matched(50, "precision"), "recall_50": matched(50, "recall")}
        statistics |= {"matching_ap50": matched(50, "ap"), "matching_ap": mean_matched}
        statistics["aji"] = lambda sums: _ratio(*np.moveaxis(part_of(sums, 1).sum(axis=1), 1, 0)[:2])
        statistics["pq"] = lambda sums: _mean_quality(part_of(sums, 2))
        found = bootstrap_sums(np.concatenate(flat, axis=1), statistics, seed=seed, groups=groups)
        result = {name: [plain(low), plain(high)] for name, (low, high) in found.items()}
        return result | self._ap_intervals(seed, groups)

    def _ap_intervals(self, seed: int, groups: Sequence[Hashable] | None) -> dict[str, list[float | None]]:
        rows = self._kept("mask")
        if len(rows.images) > MOST_DETECTIONS:
            return {}
        keys = list(range(len(self.counts))) if groups is None else list(groups)
        order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        drawn_as = np.array([order[key] for key in keys])
        truths = np.stack([part.truths[0] for part in self.rows["mask"]])  # (N, K)
        rng = np.random.default_rng(seed)
        times = rng.multinomial(len(order), np.full(len(order), 1 / len(order)), size=RESAMPLES)[:, drawn_as]
        drawn = (precision_curves(rows, times=each, truths=truths) for each in times)
        table = np.stack([_mean_over_classes(curves) for curves in drawn])  # (R, T)
        result = {}
        for name, values in (("mask_ap", table.mean(axis=1)), ("mask_ap50", table[:, 0])):
            there = values[~np.isnan(values)]
            low, high = np.quantile(there, [0.025, 0.975]) if len(there) else (np.nan, np.nan)
            result[name] = [plain(low), plain(high)]
        return result


def _mean_over_classes(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, T, 101) -> (T,) mean average precision of the classes that have objects; NaN where none has."""
    seen = ~np.isnan(curves[:, 0, 0])
    return np.asarray(curves[seen].mean(axis=(0, 2))) if seen.any() else np.full(curves.shape[1], np.nan)


def _count_scores(counts: InstanceCounts, boundary: bool) -> dict[str, float]:
    found = instance_scores(counts).summary()
    levels = [round(100 * level) for level in counts.thresholds]
    names = [*(f"f1_{at}" for at in F1_AT), "precision_50", "recall_50", "aji", "aji_plus"]
    scores = {name: found[name] for name in names}
    scores["matching_ap50"], scores["matching_ap"] = found["ap_50"], found["mean_ap"]
    scores["matching_ap_50_90"] = float(np.mean([found[f"ap_{at}"] for at in levels if at <= 90]))
    return scores | ({"boundary_iou": found["boundary_iou"]} if boundary else {})


def _matched(table: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """(..., 4) predicted, matched, true, matched -> the score of that name."""
    predicted, hits, true = table[..., 0], table[..., 1], table[..., 2]
    below = {
        "f1": (predicted + true) / 2,
        "precision": predicted,
        "recall": true,
        "ap": predicted + true - hits,
    }[kind]
    return _ratio(hits, below)


def _mean_quality(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, K, 4) -> (R,) mean PQ over the classes that occur."""
    size = table[..., 0] + (table[..., 1] + table[..., 2]) / 2
    quality = _ratio(table[..., 3] * 2.0**-32, size)
    seen = size > 0
    return _ratio(np.where(seen, quality, 0).sum(axis=1), seen.sum(axis=1))


def _ratio(above: Any, below: Any) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)


def plain(value: Any) -> float | None:
    """A number for JSON; NaN is None."""
    return None if np.isnan(value) else float(value)
