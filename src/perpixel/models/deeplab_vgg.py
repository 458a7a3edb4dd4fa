"""VGG16 as DeepLab v1 and v2 change it: stride 8, 3x3 pools, and a classifier's fully connected layers thinned out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from perpixel.layers import conv_weight
from perpixel.models.fcn_weights import VGG_LINEAR, copy_vgg16, read_classifier
from perpixel.models.vgg import VGG16_WIDTH, vgg16_blocks, vgg_block

CONV5_DILATION = 2
FC6_TAPS = 7  # of the classifier's first fully connected layer, on each side


class DeepLabVGG(nn.Module):
    """image (B, C, 8h + 1, 8w + 1) -> (B, 512, h + 1, w + 1), other sizes rounded up.

    All pools are 3x3 with padding 1, so that every cell lies on a pixel of the image: pools 1 to 3 halve, 4 and 5 have
    stride 1, and conv5 is dilated by 2 instead. Convolutions are padded.

    Args:
        width: channels of conv1; the others in proportion, 512 for the paper's 64.
    """

    def __init__(self, in_channels: int, width: int = VGG16_WIDTH) -> None:
        super().__init__()
        before = in_channels
        for number, widths in enumerate(vgg16_blocks(width), start=1):
            pool = nn.MaxPool2d(3, 2 if number <= 3 else 1, 1, ceil_mode=True)
            dilation = CONV5_DILATION if number == 5 else 1
            block = vgg_block(number, before, widths, padding=dilation, dilation=dilation, pool=pool)
            self.add_module(f"conv{number}", block)
            before = widths[-1]
        self.out_channels = before

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        for block in self.children():
            image = block(image)
        return image


@torch.no_grad()
def load_thinned(trunk: nn.Module, heads: list[nn.Sequential], weights: str | Path) -> None:
    """Copy torchvision's vgg16 into the trunk and, thinned out, into fc6 and fc7 of every head.

    Args:
        weights: "imagenet" downloads it, otherwise a file.
    Raises:
        InputError: the file is another network's.
    """
    state, where = read_classifier("vgg16", weights)
    for head in heads:
        copy_vgg16(trunk, head, thinned(state, head), where)


def thinned(state: dict[str, Tensor], head: nn.Sequential) -> dict[str, Tensor]:
    """`state` with fc6 and fc7 cut to the head's kernel and channels: evenly spaced taps and channels of the 7x7x4096.

    A 3x3 kernel gets taps 0, 3, 6, which under dilation 12 lie where they lay under dilation 4; a 4x4 one gets 0, 2,
    4, 6 (dilation 8). Values are kept, not rescaled. Chen et al. 2015 call it decimation.
    """
    fc6, fc7 = head.get_submodule("fc6"), head.get_submodule("fc7")
    assert isinstance(fc6, nn.Conv2d) and isinstance(fc7, nn.Conv2d)
    names = [f"{VGG_LINEAR[layer]}.{part}" for layer in ("fc6", "fc7") for part in ("weight", "bias")]
    if any(name not in state for name in names) or state[names[0]].shape[0] < fc6.out_channels:
        return state  # `copy_vgg16` says what is wrong
    first, first_bias, second, second_bias = (state[name] for name in names)
    channels = _evenly(first.shape[0], fc6.out_channels)
    taps = torch.arange(fc6.kernel_size[0]) * (FC6_TAPS - 1) // (fc6.kernel_size[0] - 1)
    kernel = conv_weight(first, fc6.in_channels, (FC6_TAPS, FC6_TAPS))[channels]
    cut = (
        kernel[:, :, taps][:, :, :, taps],
        first_bias[channels],
        second[channels][:, channels],
        second_bias[channels],
    )
    return state | dict(zip(names, cut))


def _evenly(have: int, want: int) -> Tensor:
    """`want` of the indices below `have`: 0, 4, 8, ... for 1024 of 4096."""
    return torch.arange(want) * have // want
