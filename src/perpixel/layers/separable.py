"""Depthwise separable convolution: one spatial filter a channel, then a 1x1 mixture of the channels."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from perpixel.layers.conv_norm_act import ConvNormAct, relu


class SeparableConv(nn.Sequential):
    """(B, C, H, W) -> (B, K, H, W) at stride 1; children `depthwise` and `pointwise`.

    Args:
        dilation: of the depthwise convolution, padded to keep the size.
        norm: batch normalisation behind the 1x1 convolution.
        activation: behind that; None leaves it out.
        inner_norm: batch normalisation and ReLU between the two as well (Xception's order in DeepLab v3+); LiteSeg
            has neither.
    Reference:
        Chollet, "Xception: Deep learning with depthwise separable convolutions", CVPR 2017.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        norm: bool = True,
        activation: Callable[[], nn.Module] | None = relu,
        inner_norm: bool = False,
    ) -> None:
        super().__init__()
        if inner_norm:
            self.depthwise: nn.Module = ConvNormAct(
                in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels
            )
        else:
            padding = dilation * (kernel_size - 1) // 2
            self.depthwise = nn.Conv2d(
                in_channels, in_channels, kernel_size, 1, padding, dilation, groups=in_channels, bias=False
            )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, norm=norm, activation=activation)
