"""Loss of a height map: a hill on each object, nothing outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Differences of heights below which the cost is square.
BETA = 0.1


def hill_loss(logits: Tensor, height: Tensor, known: Tensor) -> Tensor:
    """Smooth L1 of sigmoid(logits) and `height`: the mean over objects plus the mean over background.

    Args:
        logits: (B, H, W) float.
        height: (B, H, W) float in 0..1, above 0 on objects.
        known: (B, H, W) bool; other pixels are left out.
    Returns:
        Scalar, float32 also under autocast. A mean over no pixels is 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        costs = F.smooth_l1_loss(logits.float().sigmoid(), height.float(), beta=BETA, reduction="none")
        inside, outside = known & (height > 0), known & (height <= 0)
        means = [(costs * part).sum() / part.sum().clamp_min(1) for part in (inside, outside)]
        return means[0] + means[1]
