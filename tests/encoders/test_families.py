"""Backbones of many families under the models that take any: two channels, odd sizes, the sizes they say they have."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perpixel.encoders import create_encoder
from perpixel.errors import InputError
from perpixel.models import create_model

# Name -> whether it can be dilated to stride 16.
FAMILIES = {
    "resnet18": True,
    "resnext50_32x4d": True,
    "efficientnet_b0": True,
    "tf_efficientnet_lite0": True,
    "mobilenetv3_small_050": True,
    "convnext_atto": True,
    "regnety_002": True,
    "repvgg_a0": True,
    "mobileone_s0": True,
    "swin_tiny_patch4_window7_224": False,
    "hrnet_w18_small": False,
    "densenet121": False,
    "vgg11": False,
    "pvt_v2_b0": False,
}
SIZES = ((65, 49), (1, 1))


def models(can_dilate: bool) -> list[tuple[str, dict[str, Any]]]:
    stride = 16 if can_dilate else 32
    return [
        ("unet", {"width": 8}),
        ("fpn", {"channels": 8, "head_channels": 64}),
        ("deeplab_v3", {"channels": 8, "output_stride": stride}),
        ("deeplab_v3_plus", {"channels": 8, "output_stride": stride}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_model_over_every_family(family: str) -> None:
    for name, options in models(FAMILIES[family]):
        model = create_model(name, in_channels=2, num_classes=3, encoder=family, **options).eval()
        for size in SIZES:
            logits = model(torch.randn(1, 2, *size))
            assert logits.shape == (1, 3, *size), name
            assert logits.isfinite().all(), name


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name, can_dilate in FAMILIES.items() if can_dilate])
@torch.no_grad()
def test_dilated_families_have_the_sizes_they_say(family: str) -> None:
    encoder = create_encoder(family, in_channels=2, output_stride=16).eval()
    assert encoder.strides[-1] == 16
    features = encoder(torch.zeros(1, 2, 64, 96))
    assert [tuple(each.shape[1:]) for each in features] == [
        (channels, 64 // stride, 96 // stride) for channels, stride in zip(encoder.channels, encoder.strides)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name, can_dilate in FAMILIES.items() if not can_dilate])
def test_what_cannot_be_dilated_says_what_to_use(family: str) -> None:
    with pytest.raises(InputError, match=rf"'{family}' cannot be built .*or output_stride=32"):
        create_model("deeplab_v3", encoder=family)
