"""Cross entropy of the hardest pixels of the batch: those whose own class has a low probability (OHEM).

Shrivastava, Gupta, Girshick, "Training region-based object detectors with online hard example mining", CVPR 2016; in
its form for pixels with a threshold and a least number of them, as Cityscapes nets are commonly trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.cross_entropy import target_entropy
from perpixel.losses.ranking import largest_first
from perpixel.losses.target import check_class_weights, prepare


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 100_000,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Weighted mean of -log p(target) over the valid pixels with p(target) < threshold, and no fewer than `min_kept`.

    Args:
        logits: (B, K, *S) float, unnormalised; K = 1 is the binary form: one logit of class 1.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        threshold: probability of the true class from which a pixel is easy.
        min_kept: pixels of the batch that are kept at least, the hardest; below 1 a share of the valid ones.
            All are kept where there are fewer. Ties are kept together.
        class_weights: (K,) float, (2,) where K is 1, for the mean; which pixels are hard does not depend on them.
        ignore_index: target value left out.
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored or weighs 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        entropy = target_entropy(prepared).flatten()
        valid = torch.ones_like(entropy, dtype=torch.bool) if prepared.valid is None else prepared.valid.flatten()
        least = smallest_kept(entropy.detach(), valid, min_kept).clamp_max(-math.log(threshold))
        kept = (valid & (entropy >= least)).to(entropy)
        if class_weights is not None:
            kept = kept * check_class_weights(class_weights, prepared.logits)[prepared.target.flatten()]
        count = kept.sum()
        return (kept * entropy).sum() / torch.where(count > 0, count, torch.ones_like(count))


def smallest_kept(costs: Tensor, valid: Tensor, kept: float) -> Tensor:
    """The smallest of the `kept` largest `costs` (N,) among the `valid` ones; a share of them where below 1.

    It does not wait for a GPU, so the number of valid pixels stays a tensor.
    """
    ranked = (costs * valid)[largest_first(costs * valid)]  # those not valid are 0, at the end
    count = valid.sum()
    wanted = torch.ceil(kept * count) if kept < 1 else torch.full_like(count, math.ceil(kept))
    return ranked[(wanted.long().minimum(count) - 1).clamp_min(0)]


def check_kept(name: str, kept: float) -> None:
    """Refuse a number of pixels, or a share, that is not positive."""
    if not kept > 0:
        raise InputError(f"{name} is {kept}: give a number of pixels, or a share below 1")


class OHEM(nn.Module):
    """`ohem_cross_entropy` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar."""

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        threshold: float = 0.7,
        min_kept: float = 100_000,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise InputError(f"threshold is {threshold}: give a probability above 0, up to 1")
        check_kept("min_kept", min_kept)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.ignore_index = ignore_index
        self.threshold = threshold
        self.min_kept = min_kept

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return ohem_cross_entropy(
            logits,
            target,
            threshold=self.threshold,
            min_kept=self.min_kept,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
        )
