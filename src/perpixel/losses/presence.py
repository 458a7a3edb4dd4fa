"""Which classes does the image hold? The loss of the answer, for nets that tell it beside their label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def presence_loss(logits: Tensor, target: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """Mean binary cross entropy of `logits` against "the class occurs in `target`".

    Args:
        logits: (B, K) float; K = 1 is the binary form: one logit of class 1.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value that is no class; samples that hold nothing else are left out.
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        num_classes = max(scores.shape[1], 2)
        ids = target.flatten(1).long()
        if ignore_index is not None:
            ids = ids.masked_fill(ids == ignore_index, num_classes)  # a place of its own, cut off below
        found = scores.new_zeros(len(scores), num_classes + 1).scatter(1, ids, 1.0)[:, :num_classes]
        truth = found[:, 1:] if scores.shape[1] == 1 else found
        costs = F.binary_cross_entropy_with_logits(scores, truth, reduction="none").mean(1)
        is_seen = found.any(1)
        return (costs * is_seen).sum() / is_seen.sum().clamp_min(1)
