"""Convolution, batch normalisation, activation: the brick of nearly every model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from perpixel.layers.norm import BatchNorm2d


def relu() -> nn.Module:
    """In place: the convolution or normalisation before it needs its input, not its output."""
    return nn.ReLU(inplace=True)


class ConvNormAct(nn.Sequential):
    """(B, C, H, W) -> (B, K, H', W'); children `conv`, and where asked for `norm` and `act`.

    Args:
        kernel_size: one side of the square kernel.
        padding: pixels on each side; None means "same" at stride 1, that is dilation * (kernel_size - 1) / 2.
        norm: batch normalisation after the convolution.
        activation: builds the activation; None leaves it out.
        bias: of the convolution; None gives it one where no normalisation follows, which would cancel it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        norm: bool = True,
        activation: Callable[[], nn.Module] | None = relu,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups,
            bias=not norm if bias is None else bias,
        )  # fmt: skip
        if norm:
            self.norm = BatchNorm2d(out_channels)
        if activation is not None:
            self.act = activation()
