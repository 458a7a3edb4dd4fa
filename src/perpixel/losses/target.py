"""What every loss does first: check the shapes, leave half precision, set the ignored pixels aside."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perpixel.errors import InputError


class Prepared(NamedTuple):
    """Checked inputs of a loss; S stands for the spatial axes, two or three of them."""

    logits: Tensor  # (B, K, *S) float32, or float64 where the caller works in it
    target: Tensor  # (B, *S) int64, values 0..K-1 (0..1 where K is 1); ignored pixels read 0
    valid: Tensor | None  # (B, *S) bool, False where ignored; None where nothing can be ignored


def prepare(logits: Tensor, target: Tensor, ignore_index: int | None) -> Prepared:
    """Check `logits` (B, K, *S) against `target` (B, *S) and split off the ignored pixels.

    The values of `target` are checked on the CPU only: on a GPU that would stall the queue at each step.

    Raises:
        InputError: shapes disagree, `target` is not of whole numbers, or it holds a value outside 0..K-1.
    """
    if logits.ndim < 3 or not logits.is_floating_point():
        raise InputError(
            f"logits {tuple(logits.shape)} {logits.dtype}: a loss needs floats of (B, K, H, W) or (B, K, D, H, W)"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise InputError(
            f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: give a target of shape {expected}"
        )
    if target.is_floating_point() or target.is_complex():
        raise InputError(f"target is {target.dtype}: give class ids as whole numbers (int64)")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    target = target.long()
    valid = None if ignore_index is None else target != ignore_index
    if target.device.type == "cpu":
        _check_values(target, valid, max(logits.shape[1], 2), ignore_index)
    if valid is not None:
        target = target * valid
    return Prepared(logits, target, valid)


def _check_values(target: Tensor, valid: Tensor | None, num_classes: int, ignore_index: int | None) -> None:
    wrong = (target < 0) | (target >= num_classes)
    if valid is not None:
        wrong &= valid
    if wrong.any():
        value = int(target[wrong][0])
        raise InputError(
            f"target holds {value}, outside 0..{num_classes - 1} ({num_classes} classes, ignore_index={ignore_index}): "
            "fix the label map, or name that value as ignore_index"
        )


def check_class_weights(class_weights: Tensor, logits: Tensor) -> Tensor:
    """`class_weights` in the dtype and device of `logits` (B, K, *S): (K,), or (2,) where K is 1.

    Raises:
        InputError: another length.
    """
    expected = max(logits.shape[1], 2)
    if tuple(class_weights.shape) != (expected,):
        raise InputError(
            f"class_weights has shape {tuple(class_weights.shape)} for logits of {logits.shape[1]} channels: "
            f"give {expected} weights, one a class"
        )
    return class_weights.to(logits)


def valid_count(prepared: Prepared) -> Tensor:
    """Number of pixels that count, as a scalar in the dtype of the logits."""
    if prepared.valid is None:
        return prepared.logits.new_tensor(prepared.target.numel())
    return prepared.valid.sum().to(prepared.logits)


def one_logit(logits: Tensor) -> Tensor:
    """The logit of class 1 against class 0, (B, 1, *S), of one channel or of two.

    Raises:
        InputError: more channels.
    """
    if logits.shape[1] not in (1, 2):
        raise InputError(
            f"logits {tuple(logits.shape)}: the binary losses take two classes, as one channel or two: "
            "take a loss for several classes, such as ce"
        )
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]
