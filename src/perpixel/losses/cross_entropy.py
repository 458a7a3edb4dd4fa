"""Pixel-wise cross entropy: softmax over the classes, or sigmoid for a single logit.

The mean divides by the *weighted* count of valid pixels where class weights are given, as PyTorch does; Caffe's
unnormalised sum (FCN) and its `VALID` mode (plain count) differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses.class_weights import positive_weight
from perpixel.losses.target import Prepared, check_class_weights, one_logit, prepare, valid_count

# Ignored pixels carry this value inside this file: PyTorch's own default, which no class id can be.
_SKIP = -100


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted mean of -log p(target) over the valid pixels.

    Args:
        logits: (B, K, *S) float, unnormalised; S = (H, W) or (D, H, W). K = 1 is the binary form: one logit of class 1.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        class_weights: (K,) float, (2,) where K is 1.
        ignore_index: target value left out of sum and count.
        label_smoothing: share of the target spread evenly over all classes, 0..1.
    Returns:
        Scalar, float32 also under autocast. Zero, with zero gradient, when every pixel is ignored or weighs 0.
    Raises:
        InputError: shapes disagree, or `target` holds another value (checked on the CPU).
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        weights = None if class_weights is None else check_class_weights(class_weights, logits=prepared.logits)
        if logits.shape[1] == 1:
            total = _binary_sum(prepared, weights, label_smoothing)
        else:
            total = pixel_cross_entropy(prepared, "sum", class_weights=weights, label_smoothing=label_smoothing)
        return total / _weighted_count(prepared, weights)


def pixel_cross_entropy(
    prepared: Prepared, reduction: str, *, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """-log p(target): the sum over valid pixels, or with reduction "none" a map (N,) that is 0 where ignored.

    Memory in channels_last is viewed as (pixels, K) rather than copied.
    """
    logits, target = prepared.logits, prepared.target
    if prepared.valid is not None:
        target = target.masked_fill(~prepared.valid, _SKIP)
    if not logits.is_contiguous() and logits.movedim(1, -1).is_contiguous():
        logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
    else:
        logits, target = logits.flatten(2).unsqueeze(2), target.flatten(1).unsqueeze(1)
    return F.cross_entropy(
        logits, target, weight=class_weights, ignore_index=_SKIP, reduction=reduction, label_smoothing=label_smoothing
    )


def target_entropy(prepared: Prepared) -> Tensor:
    """-log p(target) of each pixel, (B, *S), 0 where ignored; K = 1 is one logit of class 1."""
    if prepared.logits.shape[1] > 1:
        return pixel_cross_entropy(prepared, "none").view(prepared.target.shape)
    truth = prepared.target.to(prepared.logits)
    pixels = F.binary_cross_entropy_with_logits(prepared.logits.squeeze(1), truth, reduction="none")
    return pixels if prepared.valid is None else pixels * prepared.valid


def _binary_sum(prepared: Prepared, weights: Tensor | None, label_smoothing: float) -> Tensor:
    truth = prepared.target.to(prepared.logits) * (1 - label_smoothing) + label_smoothing / 2
    logits = prepared.logits.squeeze(1)
    if weights is None:
        pixels = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    else:
        pixels = -weights[1] * truth * F.logsigmoid(logits) - weights[0] * (1 - truth) * F.logsigmoid(-logits)
    return pixels.sum() if prepared.valid is None else (pixels * prepared.valid).sum()


def _weighted_count(prepared: Prepared, weights: Tensor | None) -> Tensor:
    """The divisor of the mean; where it would be 0 any positive number does, for the sum is 0 as well."""
    if weights is None:
        return valid_count(prepared).clamp_min(1)
    pixels = weights[prepared.target]
    count = pixels.sum() if prepared.valid is None else (pixels * prepared.valid).sum()
    return torch.where(count > 0, count, torch.ones_like(count))


def binary_cross_entropy(
    logits: Tensor, target: Tensor, *, pos_weight: float | str = 1.0, ignore_index: int | None = None
) -> Tensor:
    """Mean of -[w y log p + (1 - y) log(1 - p)] over the valid pixels, p = sigmoid(logits).

    The mean divides by the plain count, as this weighted form is usually written.

    Args:
        logits: (B, 1, *S) float; with (B, 2, *S) the logit is the difference of the two, so that p is their softmax.
        target: (B, *S), 0 or 1 or `ignore_index`.
        pos_weight: w; N_neg / N_pos of the training set balances the two. "batch" counts them in each batch
            (1 where the batch has no positive pixel).
        ignore_index: target value left out.
    Returns:
        Scalar; zero, with zero gradient, when every pixel is ignored.
    """
    if isinstance(pos_weight, str) and pos_weight != "batch":
        raise InputError(f"pos_weight is '{pos_weight}': give a positive number or 'batch'")
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        count = valid_count(prepared)
        if isinstance(pos_weight, str):
            positives = prepared.target.sum().to(count)
            weight = torch.where(positives > 0, (count - positives) / positives.clamp_min(1), torch.ones_like(count))
        else:
            weight = count.new_tensor(pos_weight)
        pixels = F.binary_cross_entropy_with_logits(
            one_logit(prepared.logits).squeeze(1),
            prepared.target.to(prepared.logits),
            pos_weight=weight,
            reduction="none",
        )
        total = pixels.sum() if prepared.valid is None else (pixels * prepared.valid).sum()
        return total / count.clamp_min(1)


class CrossEntropy(nn.Module):
    """`cross_entropy` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar."""

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise InputError(f"label_smoothing is {label_smoothing}: give a share between 0 and 1")
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            logits,
            target,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )


class BinaryCrossEntropy(nn.Module):
    """`binary_cross_entropy` with its settings: (logits (B, 1 or 2, *S), target (B, *S)) -> scalar.

    Args:
        pos_weight: a number, or "batch". Where it is not given: the ratio of the `class_weights`; without these
            N_neg / N_pos of the `class_pixels`; without both 1.
        class_weights: (2,) float.
        class_pixels: pixels of the two classes over the training set.
    """

    def __init__(
        self,
        *,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        class_pixels: Sequence[int] | None = None,
        pos_weight: float | str | None = None,
    ) -> None:
        super().__init__()
        if pos_weight is None:
            pos_weight = _default_weight(class_weights, class_pixels)
        if isinstance(pos_weight, str) and pos_weight != "batch":
            raise InputError(f"pos_weight is '{pos_weight}': give a positive number or 'batch'")
        if not isinstance(pos_weight, str) and not pos_weight > 0:
            raise InputError(f"pos_weight is {pos_weight}: give a positive number or 'batch'")
        self.ignore_index = ignore_index
        self.pos_weight = pos_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(logits, target, pos_weight=self.pos_weight, ignore_index=self.ignore_index)


def _default_weight(class_weights: Tensor | None, class_pixels: Sequence[int] | None) -> float:
    if class_weights is not None:
        return _ratio(class_weights)
    if class_pixels is None:
        return 1.0
    if len(class_pixels) != 2:
        raise InputError(f"class_pixels of {len(class_pixels)} classes: the binary loss takes 2; take ce for several")
    return positive_weight(class_pixels[1], class_pixels[0])


def _ratio(class_weights: Tensor) -> float:
    if tuple(class_weights.shape) != (2,):
        raise InputError(f"class_weights has shape {tuple(class_weights.shape)}: the binary loss takes 2 weights")
    # Weights stand for 1 / count, so negatives over positives is the ratio turned over.
    return positive_weight(num_pos=float(class_weights[0]), num_neg=float(class_weights[1]))
