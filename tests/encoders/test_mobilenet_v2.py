"""MobileNetV2: torchvision's numbers with torchvision's weights, at every feature."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from perpixel.encoders.mobilenet_v2 import mobilenet_v2_encoder
from perpixel.errors import InputError


def reference() -> nn.Module:
    torch.manual_seed(0)
    net = mobilenet_v2(weights=None)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    return net.eval()


@torch.no_grad()
def test_every_feature_is_torchvisions(tmp_path):
    theirs = reference()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    encoder = mobilenet_v2_encoder(3, tmp_path / "net.pth").eval()
    image = torch.randn(1, 3, 70, 45)
    features = encoder(image)
    maps, expected = image, {}
    for number, block in enumerate(theirs.features):
        maps = block(maps)
        expected[number] = maps
    for feature, block in zip(features, (1, 3, 6, 10, 13, 16, 17, 18), strict=True):
        assert torch.allclose(feature, expected[block], atol=1e-5)
    assert [each.shape[1] for each in features] == encoder.channels == [16, 24, 32, 64, 96, 160, 320, 1280]
    assert [-(-70 // stride) for stride in encoder.strides] == [each.shape[2] for each in features]


@torch.no_grad()
def test_grey_images_get_the_summed_stem(tmp_path):
    theirs = reference()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    encoder = mobilenet_v2_encoder(1, tmp_path / "net.pth", with_last=False).eval()
    grey = torch.randn(1, 1, 40, 40)
    assert torch.allclose(encoder(grey)[-1], theirs.features[:18](grey.expand(-1, 3, -1, -1)), atol=1e-4)
    assert encoder.channels[-1] == 320


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth: lacks .* tensors of encoder 'mobilenetv2'"):
        mobilenet_v2_encoder(3, tmp_path / "net.pth")
