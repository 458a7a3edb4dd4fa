"""Generalised Dice: one overlap of all classes at once, each weighed by the inverse square of its size.

Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations",
DLMIA 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perpixel.losses.overlap import OverlapLoss, overlap_sums
from perpixel.losses.target import prepare


def generalised_dice(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    smooth: float = 1e-5,
    batch: bool = True,
    include_background: bool = True,
) -> Tensor:
    """1 - (2 sum_c w_c sum p y + s) / (sum_c w_c sum (p + y) + s), w_c = 1 / (sum y_c)^2, scaled to a sum of 1.

    A class that is absent would weigh without bound; it is left out, as it shows in the overlaps of the others.

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form, class 1 only: there it is `soft_dice`.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out of all sums.
        smooth: s, in numerator and denominator, in pixels since the weights are scaled.
        batch: one ratio over the whole batch; else one a sample, and the mean over samples that hold a counted class.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when no class is there to be counted.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        overlap, predicted, truth = map(torch.atleast_2d, overlap_sums(prepared, batch=batch))  # (B or 1, K)
        if not include_background and truth.shape[1] > 1:
            overlap, predicted, truth = overlap[:, 1:], predicted[:, 1:], truth[:, 1:]
        weights = torch.where(truth > 0, truth.clamp_min(1) ** -2, torch.zeros_like(truth))
        weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        below = (weights * (predicted + truth)).sum(1) + smooth
        costs = 1 - (2 * (weights * overlap).sum(1) + smooth) / below.clamp_min(torch.finfo(below.dtype).tiny)
        counted = (truth > 0).any(1)
        return (costs * counted).sum() / counted.sum().clamp_min(1)


class GeneralisedDice(OverlapLoss):
    """`generalised_dice` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights:
    it has its own."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        smooth: float = 1e-5,
        batch: bool = True,
        include_background: bool = True,
    ) -> None:
        super().__init__(
            generalised_dice,
            ignore_index=ignore_index,
            smooth=smooth,
            batch=batch,
            include_background=include_background,
        )
