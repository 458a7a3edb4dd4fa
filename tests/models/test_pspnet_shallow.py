"""The shallow PSPNet of segmentation-models-pytorch: its count, its stages, the bin without normalisation."""

from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.models import ShallowPSPNet
from perpixel.models.pspnet_shallow import CARD


def test_count_of_the_card():
    counted = CARD.counts[0]
    with torch.device("meta"):
        model = ShallowPSPNet(num_classes=counted.num_classes, **counted.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


def test_it_ends_at_stride_8_and_sees_the_rest_by_its_means():
    model = ShallowPSPNet(encoder="resnet18", width=8)
    assert model.encoder.strides == [2, 4, 8]
    assert [hasattr(branch, "norm") for branch in model.branches] == [False, True, True, True]
    assert ShallowPSPNet(encoder="resnet18", width=8, depth=5).encoder.strides[-1] == 32


def test_a_batch_of_one_trains():
    assert ShallowPSPNet(encoder="resnet18", width=8).train()(torch.randn(1, 3, 32, 32)).requires_grad


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "option width=0"), ({"dropout": 1.0}, r"option dropout=1\.0")]
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        ShallowPSPNet(encoder="resnet18", **options)
