"""Tversky loss: an overlap whose false positives and false negatives have a price each.

Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional deep networks",
MLMI 2017. Papers swap the names alpha and beta; ours say what they weigh. 0.5 and 0.5 is Dice, 1 and 1 is IoU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perpixel.losses.overlap import OverlapLoss, check_classes, mean_over_classes, overlap_sums
from perpixel.losses.target import Prepared, prepare


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    classes: str = "present",
    batch: bool = True,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of 1 - (TP + s) / (TP + a FP + b FN + s), TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y.

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        fp_weight, fn_weight: a and b; b above a makes a missed pixel dearer than a false one.
        ignore_index: target value left out of all sums.
        smooth: s, in numerator and denominator, so that a class empty in both costs 0. With s = 0 it costs 1.
        classes: average over the classes "present" in the truth, or "all".
        batch: one ratio over the whole batch; else one a sample, and the mean over samples in which a class is counted.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        costs, truth = tversky_costs(prepared, fp_weight, fn_weight, smooth=smooth, batch=batch)
        return mean_over_classes(costs, truth, prepared, classes=classes, include_background=include_background)


def tversky_costs(
    prepared: Prepared, fp_weight: float, fn_weight: float, *, smooth: float, batch: bool
) -> tuple[Tensor, Tensor]:
    """(one minus the Tversky index, pixels of truth) of each class, (B, K) or (K,) each."""
    overlap, predicted, truth = overlap_sums(prepared, batch=batch)
    missed = fp_weight * (predicted - overlap) + fn_weight * (truth - overlap)
    # One minus a ratio near 1 would lose its last digits; this form is the same and does not. The sums are positive
    # but for rounding.
    below = (overlap + missed + smooth).clamp_min(torch.finfo(missed.dtype).tiny)
    empty = (overlap + missed + smooth) <= 0
    return torch.where(empty, torch.ones_like(missed), missed.clamp_min(0) / below), truth


class Tversky(OverlapLoss):
    """`tversky` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights: each
    class counts the same however many pixels it has."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        fp_weight: float = 0.3,
        fn_weight: float = 0.7,
        smooth: float = 1e-5,
        classes: str = "present",
        batch: bool = True,
        include_background: bool = True,
    ) -> None:
        super().__init__(
            tversky,
            ignore_index=ignore_index,
            fp_weight=fp_weight,
            fn_weight=fn_weight,
            smooth=smooth,
            classes=classes,
            batch=batch,
            include_background=include_background,
        )
