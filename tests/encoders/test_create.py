"""Encoders by name: pyramids, channel counts, output strides, and every mistake named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.encoders import Encoder, create_encoder
from perpixel.errors import InputError

FIVE = [2, 4, 8, 16, 32]
CASES = [
    ("resnet18", [64, 64, 128, 256, 512], FIVE),
    ("mobilenetv3_small_050", [16, 8, 16, 24, 288], FIVE),
    ("convnext_atto", [40, 80, 160, 320], [4, 8, 16, 32]),
    ("torchvision/resnet18", [64, 64, 128, 256, 512], FIVE),
    ("torchvision/shufflenet_v2_x0_5", [24, 24, 48, 96, 1024], FIVE),
]
SLOW_CASES = [
    ("vgg11", [64, 128, 256, 512, 512, 512], [1, *FIVE]),
    ("torchvision/vgg11", [64, 128, 256, 512, 512, 512], [1, *FIVE]),
    ("swin_tiny_patch4_window7_224", [96, 192, 384, 768], [4, 8, 16, 32]),
    ("torchvision/densenet121", [64, 128, 256, 512, 1024], FIVE),
    ("torchvision/convnext_tiny", [96, 192, 384, 768], [4, 8, 16, 32]),
    ("torchvision/googlenet", [64, 192, 480, 832, 1024], FIVE),
    ("torchvision/efficientnet_b0", [96, 144, 240, 672, 1280], FIVE),
]


def check_pyramid_of(encoder: Encoder, channels: list[int], strides: list[int], in_channels: int) -> None:
    assert (encoder.channels, encoder.strides, encoder.multiple) == (channels, strides, strides[-1])
    with torch.no_grad():
        features = encoder.eval()(torch.zeros(2, in_channels, 64, 96))
    expected = [(2, width, 64 // stride, 96 // stride) for width, stride in zip(channels, strides)]
    assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize(("name", "channels", "strides"), CASES)
def test_features_have_the_channels_and_strides_that_are_said(name, channels, strides):
    check_pyramid_of(create_encoder(name, in_channels=2), channels, strides, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels", "strides"), SLOW_CASES)
def test_features_of_larger_networks(name, channels, strides):
    check_pyramid_of(create_encoder(name, in_channels=4), channels, strides, 4)


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])], ids=["os16", "os8"]
)
def test_output_stride_dilates(output_stride, strides):
    encoder = create_encoder("resnet18", output_stride=output_stride)
    check_pyramid_of(encoder, [64, 64, 128, 256, 512], strides, 3)


def test_depth_leaves_the_coarse_features_out():
    encoder = create_encoder("resnet18", depth=3)
    check_pyramid_of(encoder, [64, 64, 128], [2, 4, 8], 3)
    assert not any("layer3" in name for name, _ in encoder.named_parameters())
    assert create_encoder("torchvision/resnet18", depth=2).strides == [2, 4]


def test_every_parameter_is_used():
    for name in ("resnet18", "torchvision/resnet18"):
        encoder = create_encoder(name)
        sum(feature.mean() for feature in encoder(torch.randn(2, 3, 64, 64))).backward()
        assert [each for each, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_one_value_per_channel_in_training_is_an_input_error():
    encoder = create_encoder("resnet18").train()
    with pytest.raises(InputError, match="batch of 1 with a 1x1 feature map"):
        encoder(torch.zeros(1, 3, 32, 32))
    assert len(encoder(torch.zeros(2, 3, 32, 32))) == 5


def test_one_value_per_channel_inside_an_encoder_is_an_input_error_too():
    """Some normalise the mean of a whole image."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

        def forward(self, image):
            return [image[..., ::2, ::2], (image * self.gate(image))[..., ::4, ::4]]

    encoder = Encoder("gated", Gated(), [1, 1], [2, 4]).train()
    with pytest.raises(InputError, match=r"batch of 1: encoder 'gated' .* at 32x32 pixels: use batches of 2 or more"):
        encoder(torch.zeros(1, 1, 32, 32))
    assert len(encoder(torch.zeros(2, 1, 32, 32))) == 2
    assert len(encoder.eval()(torch.zeros(1, 1, 32, 32))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "unknown encoder 'resnet19'; nearest: resnet18"),
        ({"name": "torchvision/resnet19"}, "unknown encoder 'torchvision/resnet19'; nearest: torchvision/resnet18"),
        ({"name": "hf-hub:someone/something"}, "unknown encoder 'hf-hub:someone/something'"),
        ({"name": "vit_tiny_patch16_224"}, r"'vit_tiny_patch16_224' gives features at strides \[16, 16, 16\]"),
        ({"name": "torchvision/vit_b_16"}, "'torchvision/vit_b_16' cannot be cut into features"),
        ({"name": "maxvit_rmlp_pico_rw_256"}, "'maxvit_rmlp_pico_rw_256' is built for one image size only"),
        ({"name": "vgg11", "output_stride": 8}, "'vgg11' cannot be built with in_chans=3, output_stride=8"),
        ({"name": "torchvision/vgg11", "output_stride": 8}, "'torchvision/vgg11' cannot run at output_stride 8"),
        ({"name": "resnet18", "output_stride": 4}, "output_stride 4 of encoder 'resnet18': choose 8, 16 or 32"),
        ({"name": "resnet18", "depth": 6}, "depth 6 of encoder 'resnet18': choose 2 to 5"),
        ({"name": "resnet18", "in_channels": 0}, "in_channels 0 of encoder 'resnet18'"),
        ({"name": "resnet18", "weights": "nowhere.safetensors"}, "nowhere.safetensors: no such weights file"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        create_encoder(**arguments)
