"""Focal loss: cross entropy that fades where the net is already right.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017. The paper divides the sum by the number of
positives (anchors); over dense pixels we take the mean by default and offer the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.cross_entropy import pixel_cross_entropy
from perpixel.losses.target import Prepared, check_class_weights, prepare, valid_count

DIVISORS = ("valid", "positives")
PAPER_ALPHA = 0.25


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Tensor | None = None,
    ignore_index: int | None = None,
    divide_by: str = "valid",
) -> Tensor:
    """Mean of -alpha_y (1 - p_y)^gamma log p_y over the valid pixels, y the target class and p the softmax.

    Args:
        logits: (B, K, *S) float, K >= 2.
        target: (B, *S) whole numbers, 0..K-1 or `ignore_index`.
        gamma: how fast easy pixels fade; 0 is plain cross entropy.
        alpha: (K,) weight of each class; None is 1 for all. The mean divides by the plain count all the same.
        ignore_index: target value left out.
        divide_by: "valid" (valid pixels) or "positives" (valid pixels of classes other than 0, at least 1).
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        pixels = pixel_cross_entropy(prepared, "none")  # 0 where ignored
        target_ids = prepared.target.view(pixels.shape)
        pixels = _fade(pixels, gamma)
        if alpha is not None:
            pixels = pixels * check_class_weights(alpha, prepared.logits)[target_ids]
        return pixels.sum() / _divisor(prepared, divide_by)


def binary_focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = PAPER_ALPHA,
    ignore_index: int | None = None,
    divide_by: str = "valid",
) -> Tensor:
    """Mean of -alpha (1-p)^gamma y log p - (1-alpha) p^gamma (1-y) log(1-p), p = sigmoid(logits).

    Args:
        logits: (B, 1, *S) float.
        target: (B, *S), 0 or 1 or `ignore_index`.
        gamma: how fast easy pixels fade.
        alpha: weight of the positive pixels, 0..1; 0.25 is the paper's. gamma = 0, alpha = 0.5 is half the
            binary cross entropy.
        ignore_index, divide_by: as in `focal`.
    Returns:
        Scalar; zero, with zero gradient, when every pixel is ignored.
    """
    if logits.ndim < 3 or logits.shape[1] != 1:
        raise InputError(f"logits {tuple(logits.shape)}: the binary loss takes one channel, (B, 1, H, W)")
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        truth = prepared.target.to(prepared.logits)
        pixels = F.binary_cross_entropy_with_logits(prepared.logits.squeeze(1), truth, reduction="none")
        pixels = _fade(pixels, gamma) * (truth * alpha + (1 - truth) * (1 - alpha))
        if prepared.valid is not None:
            pixels = pixels * prepared.valid
        return pixels.sum() / _divisor(prepared, divide_by)


def _fade(entropy: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma * -log p from -log p. expm1 keeps 1 - p exact where p is almost 1."""
    if gamma == 0:
        return entropy
    miss = -torch.expm1(-entropy)
    if gamma == 2:
        return miss * miss * entropy
    # Below 1 the power has an infinite slope at 0, which times 0 would be NaN.
    return miss.clamp_min(torch.finfo(miss.dtype).tiny) ** gamma * entropy


def _divisor(prepared: Prepared, divide_by: str) -> Tensor:
    if divide_by not in DIVISORS:
        raise InputError(f"divide_by is '{divide_by}': give 'valid' or 'positives'")
    if divide_by == "valid":
        return valid_count(prepared).clamp_min(1)
    return (prepared.target > 0).sum().to(prepared.logits).clamp_min(1)


class Focal(nn.Module):
    """`focal`, or `binary_focal` where the logits have one channel: (logits (B, K, *S), target (B, *S)) -> scalar.

    Args:
        alpha: one weight a class. A single number is the weight of class 1 against class 0 (1 - alpha), for one or
            two channels. Default: `class_weights`; without these 0.25 for one channel (the paper's), else 1 for all.
        class_weights: (K,) float, used as `alpha` where that is not given.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        divide_by: str = "valid",
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise InputError(f"gamma is {gamma}: give 0 or more")
        if divide_by not in DIVISORS:
            raise InputError(f"divide_by is '{divide_by}': give 'valid' or 'positives'")
        if isinstance(alpha, int | float):
            if not 0 <= alpha <= 1:
                raise InputError(f"alpha is {alpha}: give a share between 0 and 1, or one weight a class")
            class_weights = torch.tensor([1 - alpha, alpha], dtype=torch.float64)
        elif isinstance(alpha, str):
            raise InputError(f"alpha is '{alpha}': give a share between 0 and 1, or one weight a class, as 1/2/5")
        elif alpha is not None:
            class_weights = torch.tensor(tuple(alpha), dtype=torch.float64)
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Read once: reading them off a GPU in each step would wait for it.
        self.binary_weights = (1.0, 1.0)
        if class_weights is not None and tuple(class_weights.shape) == (2,):
            self.binary_weights = (float(class_weights[0]), float(class_weights[1]))
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.divide_by = divide_by

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.ndim < 3 or logits.shape[1] != 1:
            return focal(
                logits,
                target,
                gamma=self.gamma,
                alpha=self.class_weights,
                ignore_index=self.ignore_index,
                divide_by=self.divide_by,
            )
        if self.class_weights is None:
            negative, positive = 1 - PAPER_ALPHA, PAPER_ALPHA
        else:
            check_class_weights(self.class_weights, logits)
            negative, positive = self.binary_weights
        # Weights that do not add up to 1 scale the loss: binary_focal takes the share, the rest is the factor.
        scale = (negative + positive) or 1.0
        return scale * binary_focal(
            logits,
            target,
            gamma=self.gamma,
            alpha=positive / scale,
            ignore_index=self.ignore_index,
            divide_by=self.divide_by,
        )
