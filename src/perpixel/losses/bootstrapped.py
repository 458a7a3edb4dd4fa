"""Bootstrapped cross entropy: in each image only the pixels that cost most.

Wu, Shen, van den Hengel, "Bridging category-level and instance-level semantic image segmentation", arXiv 1605.06885;
Pohlen et al., "Full-resolution residual networks for semantic segmentation in street scenes", CVPR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perpixel.losses.cross_entropy import target_entropy
from perpixel.losses.ohem import check_kept, smallest_kept
from perpixel.losses.target import check_class_weights, prepare


def bootstrapped_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    kept: float = 0.25,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Weighted mean over the samples' `kept` valid pixels with the largest -log p(target).

    Args:
        logits: (B, K, *S) float, unnormalised; K = 1 is the binary form: one logit of class 1.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        kept: pixels of each sample; below 1 a share of its valid ones. All where there are fewer. Ties are kept
            together. Papers state a number for their own image size; the default share is ours.
        class_weights: (K,) float, (2,) where K is 1, for the mean; which pixels are kept does not depend on them.
        ignore_index: target value left out.
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored or weighs 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        entropy = target_entropy(prepared).flatten(1)  # (B, N)
        valid = torch.ones_like(entropy, dtype=torch.bool) if prepared.valid is None else prepared.valid.flatten(1)
        least = torch.stack([smallest_kept(each.detach(), seen, kept) for each, seen in zip(entropy, valid)])
        weights = (valid & (entropy >= least.unsqueeze(1))).to(entropy)
        if class_weights is not None:
            weights = weights * check_class_weights(class_weights, prepared.logits)[prepared.target.flatten(1)]
        count = weights.sum()
        return (weights * entropy).sum() / torch.where(count > 0, count, torch.ones_like(count))


class Bootstrapped(nn.Module):
    """`bootstrapped_cross_entropy` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar."""

    class_weights: Tensor | None

    def __init__(
        self, *, class_weights: Tensor | None = None, ignore_index: int | None = None, kept: float = 0.25
    ) -> None:
        super().__init__()
        check_kept("kept", kept)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.ignore_index = ignore_index
        self.kept = kept

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return bootstrapped_cross_entropy(
            logits, target, kept=self.kept, class_weights=self.class_weights, ignore_index=self.ignore_index
        )
