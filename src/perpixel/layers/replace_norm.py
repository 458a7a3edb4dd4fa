"""Batch normalisation taken out of a network for what detectors use instead, since their batches are small: frozen
statistics, which are right for pretrained weights only, or group normalisation, which learns from nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError

NORMS = ("frozen", "batch", "group")
GROUPS = 32  # Wu, He, "Group normalization", ECCV 2018


class _Scaling(torch.autograd.Function):
    """Frozen batch normalisation that keeps nothing but its scale for the gradient.

    torch's own would keep its input too, for gradients that nobody asks for, and take two to four times as long
    backwards.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(weight * (var + eps).rsqrt())
        return F.batch_norm(maps, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,), (gradient,) = ctx.saved_tensors, gradients
        return (gradient * scale.to(gradient.dtype)[:, None, None], None, None, None, None, None)


class FrozenBatchNorm2d(nn.Module):
    """(B, C, H, W) -> the same shape: batch normalisation whose statistics and affine parameters never change.

    All four are buffers, so that no optimiser moves them and no count of parameters includes them.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        super().__init__()
        self.eps, self.act = eps, act
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, same dtype."""
        numbers = (self.running_mean, self.running_var, self.weight, self.bias)
        if maps.requires_grad and torch.is_grad_enabled():
            normalised = _Scaling.apply(maps, *numbers, self.eps)
        else:  # the plain function, which exports
            normalised = F.batch_norm(maps, *numbers, eps=self.eps)
        return normalised if self.act is None else self.act(normalised)

    def is_new(self) -> bool:
        """Whether no statistics were ever loaded: it then passes its input on as it is."""
        return bool((self.running_mean == 0).all() and (self.running_var == 1).all() and (self.bias == 0).all())


class GroupNormAct(nn.GroupNorm):
    """Group normalisation and an activation behind it: (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int, *, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        super().__init__(math.gcd(GROUPS, channels), channels, eps=eps)
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, same dtype."""
        normalised = super().forward(input)
        return normalised if self.act is None else self.act(normalised)


def replace_batch_norm(net: nn.Module, norm: str, *, eps: float | None = None) -> int:
    """Replace every batch normalisation inside `net`, in place, its weights kept; how many there are.

    Args:
        norm: "frozen", "group", or "batch", which leaves them.
        eps: of the new ones; None keeps that of each.
    Raises:
        InputError: an unknown norm.
    """
    if norm not in NORMS:
        raise InputError(f"norm {norm!r}: choose one of {', '.join(NORMS)}")
    found = [(name, part) for name, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)]
    for name, part in found:
        if norm == "batch":
            part.eps = part.eps if eps is None else eps
        else:
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, _replaced(part, norm, part.eps if eps is None else eps))
    return len(found)


@torch.no_grad()
def _replaced(part: nn.BatchNorm2d, norm: str, eps: float) -> nn.Module:
    # timm's batch normalisation has the dropout and the activation behind it inside.
    inside = [getattr(part, name) for name in ("drop", "act") if isinstance(getattr(part, name, None), nn.Module)]
    acts = [each for each in inside if not isinstance(each, nn.Identity)]
    kind = FrozenBatchNorm2d if norm == "frozen" else GroupNormAct
    made = kind(part.num_features, eps=eps, act=nn.Sequential(*acts) if acts else None)
    own = made.state_dict()
    for name, value in part.state_dict().items():
        if name in own:
            own[name].copy_(value)
    return made.train(part.training)
