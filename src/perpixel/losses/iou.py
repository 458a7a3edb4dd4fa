"""Soft IoU: one minus intersection over union of probabilities and truth, class by class.

Rahman, Wang, "Optimizing intersection-over-union in deep neural networks for image segmentation", ISVC 2016; a term
of UNet 3+'s hybrid loss (Huang et al., ICASSP 2020), whose release takes one ratio a sample (`batch=False`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from perpixel.losses.overlap import OverlapLoss, check_classes, mean_over_classes, overlap_sums
from perpixel.losses.target import prepare


def soft_iou(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    classes: str = "present",
    batch: bool = True,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of 1 - (sum p y + s) / (sum p + sum y - sum p y + s).

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out of all sums.
        smooth: s, in numerator and denominator, so that a class empty in both costs 0. With s = 0 it costs 1.
        classes: average over the classes "present" in the truth, or "all" (an absent class then costs about 1 for any
            probability mass at all).
        batch: one ratio over the whole batch; else one a sample, and the mean over samples in which a class is counted.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        overlap, predicted, truth = overlap_sums(prepared, batch=batch)  # (B, K) or (K,) each
        union = (predicted + truth - overlap + smooth).clamp_min(torch.finfo(predicted.dtype).tiny)
        costs = 1 - (overlap + smooth) / union
        return mean_over_classes(costs, truth, prepared, classes=classes, include_background=include_background)


class IoU(OverlapLoss):
    """`soft_iou` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights: each
    class counts the same however many pixels it has."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        smooth: float = 1e-5,
        classes: str = "present",
        batch: bool = True,
        include_background: bool = True,
    ) -> None:
        super().__init__(
            soft_iou,
            ignore_index=ignore_index,
            smooth=smooth,
            classes=classes,
            batch=batch,
            include_background=include_background,
        )
