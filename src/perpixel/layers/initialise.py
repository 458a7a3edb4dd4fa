"""Initial weights as the papers give them."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def he_normal_(module: nn.Module, *, fan: str = "in") -> None:
    """Gaussian of std sqrt(2 / N) in every 2-D and 3-D convolution inside `module`; bias 0.

    Args:
        fan: "in" keeps the size of the signal forwards: N = values that one output sums, for a transposed
            convolution of kernel k and stride s in_channels * (k / s)^axes. "out" keeps that of the gradient:
            N = kernel area * out_channels.
    Reference:
        He et al., "Delving deep into rectifiers", ICCV 2015; Ronneberger et al., "U-Net", MICCAI 2015.
    """
    for part in module.modules():
        if isinstance(part, nn.ConvTranspose2d | nn.ConvTranspose3d):
            taps = math.prod(part.kernel_size) / (math.prod(part.stride) if fan == "in" else 1)
        elif isinstance(part, nn.Conv2d | nn.Conv3d):
            taps = math.prod(part.kernel_size)
        else:
            continue
        channels = part.in_channels if fan == "in" else part.out_channels
        nn.init.normal_(part.weight, std=math.sqrt(2 / (taps * channels / part.groups)))
        if part.bias is not None:
            nn.init.zeros_(part.bias)


@torch.no_grad()
def classifier_normal_(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Normal(0, 0.01) weights and zero bias: the start of a last, class-scoring convolution."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
