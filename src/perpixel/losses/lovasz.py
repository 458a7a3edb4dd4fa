"""Lovász losses: the intersection over union itself, made continuous, so that its descent follows the measure.

Berman, Triki, Blaschko, "The Lovász-Softmax loss: a tractable surrogate for the optimization of the
intersection-over-union measure in neural networks", CVPR 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.losses.overlap import check_classes, mean_over_classes
from perpixel.losses.ranking import largest_first
from perpixel.losses.target import Prepared, one_logit, prepare


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    classes: str = "present",
    batch: bool = True,
    include_background: bool = True,
) -> Tensor:
    """Mean over classes of sum_n w_n |y_n - p_n|: errors, largest first, times the Jaccard loss that each adds.

    Args:
        logits: (B, K, *S) float, unnormalised. K = 1 is the binary form: sigmoid, class 1 only.
        target: (B, *S) whole numbers, 0..K-1 (0 or 1 where K is 1) or `ignore_index`.
        ignore_index: target value left out.
        classes: average over the classes "present" in the truth, or "all" (an absent one costs its highest value of p).
        batch: one order over the whole batch; else one a sample, and the mean over samples in which a class is counted.
        include_background: count class 0; has no effect where K is 1.
    Returns:
        Scalar in [0, 1], float32 also under autocast. Zero, with zero gradient, when every pixel is ignored.
    """
    check_classes(classes)
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        probs = prepared.logits.sigmoid() if logits.shape[1] == 1 else prepared.logits.softmax(1)
        probs, target, valid = _groups(probs, prepared, batch)  # (G, K, N), (G, N), (G, N)
        values, slopes, truth = _costs_and_slopes(probs.detach(), target, valid, classes)
        # The order of the errors is a constant of the descent, so the cost is linear in p: its slopes are all that
        # has to be kept. The difference is 0 and carries the gradient.
        linear = (slopes * probs).sum(2)
        costs = values + (linear - linear.detach())
        if batch:
            costs, truth = costs[0], truth[0]
        return mean_over_classes(costs, truth, prepared, classes=classes, include_background=include_background)


def _groups(maps: Tensor, prepared: Prepared, batch: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """`maps` (B, K, *S) as (G, K, N), target and valid as (G, N): G = 1 group for a `batch`, else one a sample."""
    target, valid = prepared.target.flatten(1), None if prepared.valid is None else prepared.valid.flatten(1)
    maps = maps.flatten(2)
    if batch:
        maps = maps.movedim(1, 0).flatten(1)[None]
        target, valid = target.flatten()[None], None if valid is None else valid.flatten()[None]
    return maps, target, valid


@torch.no_grad()
def _costs_and_slopes(
    probs: Tensor, target: Tensor, valid: Tensor | None, classes: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(cost, pixels of truth) of each group and class, (G, K) each, and the cost's slope at each p, (G, K, N)."""
    costs, truths = probs.new_zeros(probs.shape[:2]), probs.new_zeros(probs.shape[:2])
    slopes = torch.zeros_like(probs)
    num_classes = probs.shape[1]
    for group in range(len(probs)):
        seen = None if valid is None else valid[group]
        for each in range(num_classes):
            truth = target[group] == (1 if num_classes == 1 else each)
            truth = truth if seen is None else truth & seen
            truths[group, each] = truth.sum()
            if classes == "present" and probs.device.type == "cpu" and not truth.any():
                continue  # it is not counted
            errors = torch.where(truth, 1 - probs[group, each], probs[group, each])
            errors = errors if seen is None else errors * seen
            weights = jaccard_weights(errors, truth)
            weights = weights if seen is None else weights * seen
            costs[group, each] = weights.dot(errors)
            slopes[group, each] = torch.where(truth, -weights, weights)
    return costs, slopes, truths


def jaccard_weights(errors: Tensor, truth: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss of its class when pixels are got wrong one by one, largest error first.

    With G pixels of truth, i of them and u others wrong so far the loss is 1 - (G - i) / (G + u). Its steps are written
    out: 1 / (G + u) where the next pixel is of the class, (G - i) / ((G + u)(G + u - 1)) where it is not. Taken as
    differences of the loss, as it is often done, steps of a millionth would lose their digits in float32.

    Args:
        errors: (N,) float of 0 or more.
        truth: (N,) bool.
    Returns:
        (N,) in the dtype of `errors`; the sum is 1.
    """
    if errors.device.type == "cpu" and truth.any():
        # Others that err less than every pixel of the class add nothing, and need no place in the order.
        matters = errors >= torch.where(truth, errors, torch.inf).min()
        if 2 * int(matters.sum()) < len(errors):
            kept = matters.nonzero().squeeze(1)
            some = _ordered_weights(errors.index_select(0, kept), truth.index_select(0, kept))
            return torch.zeros_like(errors).index_copy_(0, kept, some)
    return _ordered_weights(errors, truth)


def _ordered_weights(errors: Tensor, truth: Tensor) -> Tensor:
    order = largest_first(errors)
    is_truth = truth.index_select(0, order)  # much faster than truth[order]
    hits = is_truth.cumsum(0, dtype=torch.int32)
    left = (hits[-1:] - hits).to(errors)  # G - i
    union = left + torch.arange(1, len(order) + 1, device=order.device, dtype=errors.dtype)  # G + u = (G - i) + (i + u)
    others = left / (union * (union - 1)).clamp_min_(1)
    # Without any pixel of the class the first one wrong makes the loss 1.
    others[0] = torch.where(hits[-1] > 0, others[0], 1.0)
    return torch.empty_like(errors).scatter_(0, order, torch.where(is_truth, 1 / union, others))


def lovasz_hinge(logits: Tensor, target: Tensor, *, ignore_index: int | None = None, batch: bool = False) -> Tensor:
    """Lovász extension of the Jaccard loss over hinge errors max(0, 1 - z (2y - 1)), for two classes.

    Args:
        logits: (B, 1, *S) float; with (B, 2, *S) z is the difference of the two.
        target: (B, *S), 0 or 1 or `ignore_index`.
        ignore_index: target value left out.
        batch: one order over the whole batch; else one a sample, and the mean over samples with a valid pixel.
    Returns:
        Scalar of 0 or more; an image without class 1 costs its largest error. Zero, with zero gradient, when every
        pixel is ignored.
    """
    with torch.autocast(logits.device.type, enabled=False):
        prepared = prepare(logits, target, ignore_index)
        scores, truth, valid = _groups(one_logit(prepared.logits), prepared, batch)
        errors = F.relu(1 - scores.squeeze(1) * (2 * truth - 1).to(scores))  # (G, N)
        if valid is None:
            valid = torch.ones_like(truth, dtype=torch.bool)
        errors = errors * valid
        with torch.no_grad():
            weights = torch.stack([jaccard_weights(each, is_one) for each, is_one in zip(errors, (truth == 1) & valid)])
        seen = valid.any(1)
        return ((weights * errors).sum(1) * seen).sum() / seen.sum().clamp_min(1)


class LovaszSoftmax(nn.Module):
    """`lovasz_softmax` with its settings: (logits (B, K, *S), target (B, *S)) -> scalar. It takes no class weights:
    each class counts the same however many pixels it has."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        classes: str = "present",
        batch: bool = True,
        include_background: bool = True,
    ) -> None:
        super().__init__()
        check_classes(classes)
        self.ignore_index = ignore_index
        self.classes = classes
        self.batch = batch
        self.include_background = include_background

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return lovasz_softmax(
            logits,
            target,
            ignore_index=self.ignore_index,
            classes=self.classes,
            batch=self.batch,
            include_background=self.include_background,
        )


class LovaszHinge(nn.Module):
    """`lovasz_hinge` with its settings: (logits (B, 1 or 2, *S), target (B, *S)) -> scalar."""

    def __init__(self, *, ignore_index: int | None = None, batch: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.batch = batch

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return lovasz_hinge(logits, target, ignore_index=self.ignore_index, batch=self.batch)
