"""LR-ASPP: torchvision's count, the two taps, the weighting, other encoders."""

from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.models import LRASPP
from perpixel.models.lraspp import CARD


def test_count_of_the_card():
    with torch.device("meta"):
        model = LRASPP()
    assert sum(parameter.numel() for parameter in model.parameters()) == CARD.counts[0].expected


@torch.no_grad()
def test_the_wiring_by_hand():
    torch.manual_seed(0)
    model = LRASPP(num_classes=3, encoder="mobilenet_v3_small", channels=4).eval()
    features = [torch.randn(1, wide, 8 // (stride // 4), 8 // (stride // 4))
                for wide, stride in zip(model.encoder.channels, (4, 4, 8, 16, 16))]  # fmt: skip
    model.encoder.forward = lambda image: features
    low, high = features[2], features[4]
    maps = model.project(high)
    weights = torch.sigmoid(model.weighting[1].weight[..., 0, 0] @ high.mean((2, 3))[0])
    scores = model.low_classifier(low) + model.classifier(
        torch.nn.functional.interpolate(maps * weights[None, :, None, None], (4, 4), mode="bilinear")
    )
    expected = torch.nn.functional.interpolate(scores, (32, 32), mode="bilinear")
    assert torch.allclose(model(torch.zeros(1, 3, 32, 32)), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenetv3_small_050"])
def test_other_encoders_are_tapped_by_stride(encoder):
    model = LRASPP(2, 3, encoder=encoder).eval()
    assert model.encoder.strides[model.low_index] == 8
    assert model(torch.zeros(1, 2, 33, 47)).shape == (1, 3, 33, 47)


def test_a_batch_of_one_trains():
    assert LRASPP(encoder="mobilenet_v3_small").train()(torch.randn(1, 3, 32, 32)).requires_grad


def test_mistakes_are_named():
    with pytest.raises(InputError, match="option channels=0 of lraspp"):
        LRASPP(channels=0)
    with pytest.raises(InputError, match="output_stride 8 of encoder 'mobilenet_v3_large': choose 16 or 32"):
        LRASPP(output_stride=8)
