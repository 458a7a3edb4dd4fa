"""Conv-norm-act, batch normalisation with one value, and initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.layers import BatchNorm2d, ConvNormAct, classifier_normal_, he_normal_


def test_conv_norm_act_has_a_bias_only_without_norm_unless_asked():
    assert ConvNormAct(2, 3).conv.bias is None
    assert ConvNormAct(2, 3, norm=False).conv.bias is not None
    assert ConvNormAct(2, 3, bias=True).conv.bias is not None
    assert ConvNormAct(2, 3, norm=False, bias=False).conv.bias is None
    assert [name for name, _ in ConvNormAct(2, 3).named_children()] == ["conv", "norm", "act"]
    assert [name for name, _ in ConvNormAct(2, 3, norm=False, activation=None).named_children()] == ["conv"]


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_conv_norm_act_keeps_the_size_by_default(dilation):
    assert ConvNormAct(2, 3, 5, dilation=dilation)(torch.zeros(2, 2, 7, 9)).shape == (2, 3, 7, 9)


def test_batch_norm_says_what_is_wrong_with_a_single_value():
    norm = BatchNorm2d(4)
    with pytest.raises(InputError, match="batch of 1 with a 1x1 feature map"):
        norm(torch.zeros(1, 4, 1, 1))
    assert norm.eval()(torch.zeros(1, 4, 1, 1)).shape == (1, 4, 1, 1)
    assert norm.train()(torch.zeros(2, 4, 1, 1)).shape == (2, 4, 1, 1)


def test_batch_norm_is_torchs():
    maps = torch.randn(2, 4, 5, 3)
    assert torch.equal(BatchNorm2d(4)(maps), nn.BatchNorm2d(4)(maps))


@pytest.mark.parametrize(
    ("conv", "fan", "values"),
    [
        (nn.Conv2d(64, 128, 3), "in", 64 * 9),
        (nn.Conv2d(64, 128, 3), "out", 128 * 9),
        (nn.ConvTranspose2d(256, 64, 2, 2), "in", 256),
    ],
)
def test_he_normal_has_the_papers_deviation(conv, fan, values):
    torch.manual_seed(0)
    he_normal_(conv, fan=fan)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / values), rel=0.03)
    assert not conv.bias.any()


def test_classifier_normal():
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 64, 1)
    classifier_normal_(conv)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not conv.bias.any()
