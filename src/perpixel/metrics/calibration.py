"""Are the probabilities right? Of the pixels labelled with 80 % confidence, 80 % should be correct.

Confidences are rounded to whole multiples of 2^-24 before they are added up, so that tables of images, batches and
machines add up to the same numbers in any order. The rounding moves a mean by less than 1e-7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.errors import InputError

BINS = 15
_UNIT_BITS = 24
_ONE = 1 << _UNIT_BITS

CALIBRATION_DEFINITIONS = {
    "ece": "expected calibration error: over 15 equally wide bins of confidence (the highest probability of a pixel), "
    "the mean of |share of correct pixels - mean confidence|, weighted by the pixels of a bin",
    "mce": "maximum calibration error: the largest |share of correct pixels - mean confidence| of a bin that holds at "
    "least one pixel in a thousand",
    "mean_confidence": "mean of the highest probability over the labelled pixels; pixel accuracy is what it should be",
}


def calibration_counts(
    confidence: ArrayLike, pred: ArrayLike, target: ArrayLike, *, ignore_index: int | None = None, bins: int = BINS
) -> NDArray[np.int64]:
    """Pixels, correct pixels and summed confidence of each bin of confidence.

    Args:
        confidence: probability of the predicted class, 0..1, of any one shape.
        pred, target: class ids of that shape.
        ignore_index: pixels whose target is this are left out.
        bins: B; bin b holds confidences above b / B, up to and with (b + 1) / B, and the first one 0 as well.
    Returns:
        (B, 3) int64; the third column in units of 2^-24. Tables add up.
    Raises:
        InputError: shapes differ, a confidence is NaN or outside 0..1.
    """
    chances, labels, truth = np.asarray(confidence), np.asarray(pred), np.asarray(target)
    if not chances.shape == labels.shape == truth.shape:
        raise InputError(
            f"confidence {chances.shape}, pred {labels.shape} and target {truth.shape} differ in shape: give one "
            "confidence and one label a pixel"
        )
    if bins < 1:
        raise InputError(f"bins is {bins}: give 1 or more")
    kept = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    values = chances[kept]
    if values.size and not (values.min() >= 0 and values.max() <= 1 + 1e-5):  # a NaN fails this as well
        wrong = values[~((values >= 0) & (values <= 1 + 1e-5))][0]
        raise InputError(f"confidence holds {wrong}: give probabilities, 0 to 1 (logits: take softmax over classes)")
    units = np.minimum(np.rint(values.astype(np.float64) * _ONE), _ONE).astype(np.int64)
    place = np.maximum(units * bins - 1, 0) >> _UNIT_BITS
    right = labels[kept] == truth[kept]
    table = np.zeros((bins, 3), dtype=np.int64)
    table[:, 0] = np.bincount(place, minlength=bins)
    table[:, 1] = np.bincount(place[right], minlength=bins)
    # bincount adds in float64, exact below 2^53: a part of 2^28 pixels at a time stays below
    for start in range(0, len(units), 1 << 28):
        part = slice(start, start + (1 << 28))
        table[:, 2] += np.bincount(place[part], weights=units[part], minlength=bins).astype(np.int64)
    return table


@dataclass(frozen=True)
class Calibration:
    """Scores and the reliability diagram of a table of `calibration_counts`; NaN where there is no pixel.

    Attributes:
        pixels: (B,) labelled pixels of each bin.
        confidence, accuracy: (B,) means of the bins, NaN in empty ones.
    """

    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(B,) |accuracy - confidence|, NaN in empty bins."""
        return np.abs(self.accuracy - self.confidence)

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017)."""
        total = int(self.pixels.sum())
        return math.nan if not total else float((np.nan_to_num(self.gaps) * self.pixels).sum() / total)

    @property
    def mce(self) -> float:
        """Maximum calibration error, of bins with at least a thousandth of the pixels: a bin of few says little."""
        counts = self.gaps[(self.pixels > 0) & (self.pixels * 1000 >= self.pixels.sum())]
        return float(counts.max()) if counts.size else math.nan

    @property
    def mean_confidence(self) -> float:
        total = int(self.pixels.sum())
        return math.nan if not total else float((np.nan_to_num(self.confidence) * self.pixels).sum() / total)

    def to_json(self) -> dict[str, Any]:
        """{"ece", "mce", "mean_confidence", "bins"}; None where nothing is there."""
        rows = zip(self.pixels.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        return {
            **{key: _plain(getattr(self, key)) for key in CALIBRATION_DEFINITIONS},
            "bins": [{"pixels": n, "confidence": _plain(c), "accuracy": _plain(a)} for n, c, a in rows],
        }


def calibration_scores(counts: ArrayLike) -> Calibration:
    """Scores of a (B, 3) table, or of a sum of several.

    Raises:
        InputError: another shape.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or table.shape[1] != 3:
        raise InputError(f"calibration counts of shape {table.shape}: give (B, 3); sum several over their first axis")
    pixels = table[:, 0].astype(np.int64)
    means = np.full((2, len(table)), np.nan)
    there = pixels > 0
    means[0, there] = table[there, 2] / pixels[there] / _ONE
    means[1, there] = table[there, 1] / pixels[there]
    return Calibration(pixels, means[0], means[1])


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
