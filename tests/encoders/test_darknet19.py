"""Darknet-19 at stride 16: its sizes, its dilation, and the padding of LiteSeg's release."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perpixel.encoders.darknet19 import Darknet19, darknet19_encoder


def sizes(legacy_padding: bool, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width behind every convolution."""
    with torch.device("meta"):
        net = Darknet19(3, legacy_padding=legacy_padding)
        seen: list[tuple[int, int]] = []
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda part, args, out: seen.append(tuple(out.shape[2:])))
        net(torch.zeros(1, 3, *size))
    return seen


def convolutions(legacy_padding: bool) -> list[nn.Conv2d]:
    with torch.device("meta"):
        net = Darknet19(3, legacy_padding=legacy_padding)
    return [part for part in net.modules() if isinstance(part, nn.Conv2d)]


def test_layout():
    convs = convolutions(False)
    assert [conv.out_channels for conv in convs] == [
        32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 256, 512, 1024, 512, 1024, 512, 1024
    ]  # fmt: skip
    assert [conv.dilation[0] for conv in convs] == [1] * 13 + [2] * 5
    slopes = {part.negative_slope for part in Darknet19(3, legacy_padding=False).modules()
              if isinstance(part, nn.LeakyReLU)}  # fmt: skip
    assert slopes == {0.1}


def test_clean_padding_keeps_every_size():
    assert sizes(False, (32, 48))[8:] == [(2, 3)] * 10
    assert sizes(False, (70, 45))[-1] == (5, 3)


def test_legacy_padding_grows_and_shrinks_the_map():
    """Padded 1x1 convolutions add two rows, 3x3 ones of dilation 2 padded by one take two away."""
    rows = [size[0] for size in sizes(True, (64, 64))[8:]]
    assert rows == [4, 6, 6, 8, 8, 6, 8, 6, 6, 4]
    padded = [conv.padding[0] for conv in convolutions(True) if conv.kernel_size == (1, 1)]
    assert padded == [0, 0, 1, 1, 1, 0]


@torch.no_grad()
@pytest.mark.slow
def test_both_paddings_agree_far_from_the_border():
    """Where no border is seen, the padding cannot matter; near it, it does."""
    torch.manual_seed(0)
    clean, legacy = Darknet19(3, legacy_padding=False).eval(), Darknet19(3, legacy_padding=True).eval()
    legacy.load_state_dict(clean.state_dict())
    image = torch.randn(1, 3, 640, 640)
    one, other = clean(image)[-1], legacy(image)[-1]
    middle = (..., slice(16, 24), slice(16, 24))
    assert torch.allclose(one[middle], other[middle], atol=1e-4)
    assert not torch.allclose(one[..., :2, :2], other[..., :2, :2], atol=1e-3)


def test_encoder_features():
    with torch.device("meta"):
        encoder = darknet19_encoder(5)
        features: list[Tensor] = encoder.eval()(torch.zeros(1, 5, 33, 47))
    assert [each.shape[1] for each in features] == encoder.channels == [32, 64, 128, 256, 512, 1024]
    assert [tuple(each.shape[2:]) for each in features] == [
        (-(-33 // stride), -(-47 // stride)) for stride in encoder.strides
    ]
    assert sum(parameter.numel() for parameter in darknet19_encoder(3).parameters()) == 19_817_376
