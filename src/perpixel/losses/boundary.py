"""Boundary loss: how far from the true edge the wrong probability lies. A companion of a region loss, for thin classes.

Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019 and Medical Image Analysis 2021. The
paper leaves out a constant, by which its values are negative; here it is kept, so that a perfect answer costs 0. The
slopes are the same. The paper starts the loss at a weight of 0.01 beside Dice and raises it each epoch; here the weight
is fixed, as in "dice+0.01*boundary".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.labels import signed_distance
from perpixel.losses.overlap import check_classes, mean_over_classes
from perpixel.losses.target import prepare


def boundary_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    classes: str = "present",
    include_background: bool = True,
) -> Tensor:
    """Mean over classes and samples of mean_n (p_n - y_n) f_n, f the signed distance in pixels, negative inside.

    The distances are computed on the CPU, from `target`; ignored pixels belong to no class.

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out of the means.
        classes: average over the classes "present" in the sample, or "all" (an absent one costs 0, for it has no edge).
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar of 0 or more, in pixels. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        is_binary = logits.shape[1] == 1
        probs = (prepared.logits.sigmoid() if is_binary else prepared.logits.softmax(1)).flatten(2)  # (B, K, N)
        ids = [1] if is_binary else list(range(logits.shape[1]))
        distances = _distances(target, ids).to(probs).flatten(2)
        truth = torch.stack([prepared.target == each for each in ids], 1).flatten(2)
        if prepared.valid is not None:
            valid = prepared.valid.flatten(1).unsqueeze(1)
            distances, truth = distances * valid, truth & valid
            count = valid.sum(2).clamp_min(1)
        else:
            count = torch.full_like(distances[:, :1, 0], distances.shape[2])
        costs = ((probs - truth.to(probs)) * distances).sum(2) / count
        return mean_over_classes(costs, truth.sum(2), prepared, classes=classes, include_background=include_background)


def _distances(target: Tensor, ids: list[int]) -> Tensor:
    """(B, len(ids), *S) float32 signed distances, on the CPU."""
    maps = target.detach().cpu().numpy()
    return torch.from_numpy(np.stack([[signed_distance(label_map == each) for each in ids] for label_map in maps]))


class Boundary(nn.Module):
    """`boundary_loss` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights:
    each class counts the same however many pixels it has."""

    def __init__(
        self, *, ignore_index: int | None = None, classes: str = "present", include_background: bool = True
    ) -> None:
        super().__init__()
        check_classes(classes)
        self.ignore_index = ignore_index
        self.classes = classes
        self.include_background = include_background

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return boundary_loss(
            logits,
            target,
            ignore_index=self.ignore_index,
            classes=self.classes,
            include_background=self.include_background,
        )
