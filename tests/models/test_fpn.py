"""FPN: counts, the pyramid by hand, how many convolutions bring each level to stride 4."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.errors import InputError
from perpixel.models import FPN, create_model
from perpixel.models.fpn import CARD, Pyramid, levels_of

SMALL = {"encoder": "resnet18", "channels": 8, "head_channels": 64}


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(counted):
    with torch.device("meta"):
        model = create_model("fpn", in_channels=counted.in_channels, num_classes=counted.num_classes, **counted.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


def test_the_count_is_the_arithmetic_of_the_paper():
    trunk, laterals = 23_508_032, (256 + 512 + 1024 + 2048) * 256 + 4 * 256
    smooth, into_128, again = 4 * (9 * 256 * 256 + 256), 4 * (9 * 256 * 128 + 2 * 128), 3 * (9 * 128 * 128 + 2 * 128)
    assert CARD.counts[0].expected == trunk + laterals + smooth + into_128 + again + 128 * 21 + 21


@torch.no_grad()
def test_the_pyramid_by_hand():
    pyramid = Pyramid([1, 1, 1], 1, smooth=False)
    for lateral, weight in zip(pyramid.lateral, (1.0, 10.0, 100.0)):
        nn.init.constant_(lateral.weight, weight)
        nn.init.zeros_(lateral.bias)
    fine, middle, coarse = torch.ones(1, 1, 3, 4), torch.ones(1, 1, 2, 2), torch.arange(2.0).reshape(1, 1, 1, 2)
    levels = pyramid([fine, middle, coarse])
    assert levels[2].flatten().tolist() == [0, 100]
    assert levels[1][0, 0].tolist() == [[10, 110], [10, 110]]
    assert levels[0][0, 0].tolist() == [[11, 11, 111, 111]] * 3


def test_every_level_has_a_convolution_for_each_doubling_and_at_least_one():
    model = FPN(**SMALL)
    assert [len(level.convs) for level in model.levels] == [1, 1, 2, 3]
    assert [level.doublings for level in model.levels] == [0, 1, 2, 3]
    assert all(conv[1].num_groups == 32 for level in model.levels for conv in level.convs)


@torch.no_grad()
def test_levels_take_the_sizes_of_the_finer_ones():
    model = FPN(**SMALL).eval()
    sizes = []
    for level in model.levels:
        level.register_forward_hook(lambda part, args, output: sizes.append(tuple(output.shape[2:])))
    assert model(torch.zeros(1, 3, 75, 101)).shape == (1, 21, 75, 101)
    assert sizes == [(19, 26)] * 4


@torch.no_grad()
def test_merging_by_concatenation_puts_the_coarsest_first():
    model = FPN(**SMALL, merge="cat").eval()
    seen = []
    for level in model.levels:
        level.register_forward_hook(lambda part, args, output: seen.append(output))
    model.classifier.register_forward_hook(lambda part, args, output: seen.append(args[0]))
    model(torch.randn(1, 3, 32, 32))
    assert torch.equal(seen[4], torch.cat(seen[3::-1], dim=1))


@torch.no_grad()
def test_the_scores_are_interpolated_four_times():
    model = FPN(**SMALL).eval()
    coarse = []
    model.classifier.register_forward_hook(lambda part, args, output: coarse.append(output))
    logits = model(torch.randn(1, 3, 32, 64))
    assert coarse[0].shape == (1, 21, 8, 16)
    assert torch.equal(logits, F.interpolate(coarse[0], scale_factor=4, mode="bilinear", align_corners=False))


def test_levels_are_asked_for_by_stride():
    assert levels_of("x", [2, 4, 8, 16, 32]) == [1, 2, 3, 4]
    assert levels_of("x", [4, 8, 8]) == [0, 2]
    assert levels_of("x", [1, 2, 4, 8]) == [2, 3]
    for strides in ([4, 16], [8, 16], [2, 4]):
        with pytest.raises(InputError, match=r"fpn needs features at strides 4, 8, ..., encoder 'x' gives strides"):
            levels_of("x", strides)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "option channels=0"),
        ({"head_channels": 32}, "option head_channels=32 of fpn: give a multiple of 32 from 64 on"),
        ({"head_channels": 100}, "option head_channels=100"),
        ({"merge": "max"}, "option merge='max' of fpn: choose 'add' or 'cat'"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("fpn", **SMALL | options)
