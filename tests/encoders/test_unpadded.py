"""The smallest image of networks with unpadded layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.encoders import create_encoder
from perpixel.encoders.unpadded import least_side
from perpixel.models import create_model


@pytest.mark.parametrize(
    ("layers", "least"),
    [
        ([nn.Conv2d(2, 4, 3, padding=1)], 4),
        ([nn.Conv2d(2, 4, 4, 4)], 4),  # patches lose nothing
        ([nn.Conv2d(2, 4, 9)], 12),  # nine pixels, so the third multiple of four
        ([nn.Conv2d(2, 4, 3, 2), nn.MaxPool2d(3, 1)], 8),  # 8 -> 3 -> 1
    ],
)
def test_the_least_side_is_found_by_trying(layers, least):
    assert least_side(nn.Sequential(*layers), 2, 4) == least


def test_a_padding_network_takes_its_multiple():
    assert create_encoder("mobilenetv3_small_050").least == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "torchvision/inception_v3"])
@torch.no_grad()
def test_inception_labels_small_images(name):
    assert create_encoder(name).least == 96
    for architecture in ("unet", "unet_plus_plus"):
        model = create_model(architecture, in_channels=2, num_classes=3, encoder=name, width=8).eval()
        for size in ((1, 1), (65, 49)):
            assert model(torch.zeros(1, 2, *size)).shape == (1, 3, *size)
