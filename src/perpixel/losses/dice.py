"""Soft Dice: one minus the overlap of probabilities and truth, class by class.

Milletari et al., "V-Net", 3DV 2016, squares the terms of the denominator; here that is the option `squared`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perpixel.losses.overlap import OverlapLoss, check_classes, mean_over_classes, overlap_sums
from perpixel.losses.target import prepare


def soft_dice(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    classes: str = "present",
    batch: bool = True,
    squared: bool = False,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of 1 - (2 sum p y + s) / (sum p + sum y + s).

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out of all sums.
        smooth: s, in numerator and denominator, so that a class empty in both costs 0. With s = 0 it costs 1.
        classes: average over the classes "present" in the truth, or "all" (an absent class then costs about 1 for any
            probability mass at all, which is why it is not the default).
        batch: one ratio over the whole batch; else one a sample, and the mean over samples in which a class is counted.
        squared: sum p^2 + sum y^2 below, as V-Net has it.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        overlap, predicted, truth = overlap_sums(prepared, squared=squared, batch=batch)  # (B, K) or (K,) each
        below = (predicted + truth + smooth).clamp_min(torch.finfo(predicted.dtype).tiny)
        costs = 1 - (2 * overlap + smooth) / below
        return mean_over_classes(costs, truth, prepared, classes=classes, include_background=include_background)


class Dice(OverlapLoss):
    """`soft_dice` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights: each
    class counts the same however many pixels it has."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        smooth: float = 1e-5,
        classes: str = "present",
        batch: bool = True,
        squared: bool = False,
        include_background: bool = True,
    ) -> None:
        super().__init__(
            soft_dice,
            ignore_index=ignore_index,
            smooth=smooth,
            classes=classes,
            batch=batch,
            squared=squared,
            include_background=include_background,
        )
