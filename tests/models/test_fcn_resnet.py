"""The dilated FCN: torchvision's counts, its dilations, the auxiliary head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.models import FCNResNet, create_model
from perpixel.models.fcn_resnet import CARD


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(counted):
    with torch.device("meta"):
        model = create_model("fcn_resnet", num_classes=counted.num_classes, **counted.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


def test_dilations_are_torchvision_s():
    from torchvision.models.segmentation import fcn_resnet50

    with torch.device("meta"):
        mine = FCNResNet().encoder.net
        theirs = fcn_resnet50(weights=None, weights_backbone=None).backbone

    def convs(net: nn.Module) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        parts = net.named_modules()
        return [(name, part.stride, part.dilation) for name, part in parts if isinstance(part, nn.Conv2d)]

    assert convs(mine) == convs(theirs)


def test_the_auxiliary_head_stands_on_stage_3_and_acts_in_training_only():
    model = FCNResNet(num_classes=4, encoder="resnet18", aux=True)
    assert (model.aux_weights, model.aux_head.conv.conv.in_channels) == ((0.5,), 256)
    main, aux = model.train()(torch.randn(1, 3, 33, 47))
    assert main.shape == aux.shape == (1, 4, 33, 47)
    assert isinstance(model.eval()(torch.randn(1, 3, 33, 47)), torch.Tensor)
    assert FCNResNet(encoder="resnet18").aux_weights == ()


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"option dropout=1\.0 of fcn_resnet"):
        FCNResNet(encoder="resnet18", dropout=1.0)
    with pytest.raises(InputError, match="output_stride 4 of encoder 'resnet18': choose 8, 16 or 32"):
        FCNResNet(encoder="resnet18", output_stride=4)
