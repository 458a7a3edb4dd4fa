"""PSPNet: bins as torch's adaptive pool and the paper's windows, counts, the auxiliary head, batches of one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.errors import InputError
from perpixel.models import PSPNet, create_model
from perpixel.models.describe import describe
from perpixel.models.pspnet import CARD, PyramidPooling, adaptive_mean

SMALL = {"encoder": "resnet18", "width": 8}


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_parameter_counts(expected):
    with torch.device("meta"):
        model = create_model("pspnet", num_classes=expected.num_classes, **expected.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected.expected


def test_millions_without_the_auxiliary_head_are_the_published_ones():
    for encoder, millions in (("resnet50", 46.7), ("resnet101", 65.7)):
        with torch.device("meta"):
            model = PSPNet(encoder=encoder, aux_weight=0)
        assert round(sum(each.numel() for each in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("size", [(60, 60), (60, 90), (11, 7), (6, 13), (5, 2), (1, 1)])
@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_bins_are_those_of_torchs_adaptive_pool(size, side):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(adaptive_mean(maps, side), F.adaptive_avg_pool2d(maps, side), atol=1e-6)


def test_on_maps_of_the_papers_size_bins_are_its_windows():
    maps = torch.randn(1, 2, 60, 60, generator=torch.Generator().manual_seed(0))
    for side, window in ((1, 60), (2, 30), (3, 20), (6, 10)):
        assert torch.allclose(adaptive_mean(maps, side), F.avg_pool2d(maps, window, window), atol=1e-6)


@torch.no_grad()
def test_pyramid_by_hand():
    """The maps come first, then the bins in order, each spread with its corners on the map's corners."""
    pyramid = PyramidPooling(4, (1, 2)).eval()
    for branch in pyramid.branches.values():
        nn.init.zeros_(branch.conv.weight)
        branch.conv.weight[0, 0] = 1  # first channel to first channel
        branch.norm.eps = 0.0
    maps = torch.zeros(1, 4, 4, 4)
    maps[0, 0] = torch.arange(16.0).view(4, 4)
    answer = pyramid(maps)
    assert answer.shape == (1, 8, 4, 4)
    assert torch.equal(answer[:, :4], maps)
    assert torch.allclose(answer[0, 4], torch.full((4, 4), 7.5))
    assert answer[0, 6, 0, 0] == (0 + 1 + 4 + 5) / 4
    assert answer[0, 6, 3, 3] == (10 + 11 + 14 + 15) / 4
    assert answer[0, 6, 0].tolist() == pytest.approx([2.5, 2.5 + 2 / 3, 2.5 + 4 / 3, 4.5])


@torch.no_grad()
def test_the_whole_is_wired_as_the_paper_draws_it():
    torch.manual_seed(0)
    model = PSPNet(3, 2, **SMALL).eval()
    image = torch.randn(2, 3, 73, 50)
    features = model.encoder(image)
    assert [tuple(each.shape[2:]) for each in features[-3:]] == [(10, 7)] * 3
    deep = features[-1]
    levels = [deep]
    for side, branch in zip((1, 2, 3, 6), model.pyramid.branches.values()):
        level = branch(F.adaptive_avg_pool2d(deep, side))
        levels.append(F.interpolate(level, (10, 7), mode="bilinear", align_corners=True))
    scores = model.head.score(model.head.conv(torch.cat(levels, 1)))
    expected = F.interpolate(scores, (73, 50), mode="bilinear", align_corners=True)
    assert torch.allclose(model(image), expected, atol=1e-5)


def test_auxiliary_head_lives_in_training_only_on_the_stage_before_the_last():
    with torch.device("meta"):
        model = PSPNet()
    assert model.aux_weights == (0.4,)
    assert model.aux_head.conv.conv.weight.shape == (256, 1024, 3, 3)
    assert model.head.conv.conv.weight.shape == (512, 4096, 3, 3)
    small = PSPNet(3, 2, **SMALL)
    main, auxiliary = small.train()(torch.randn(2, 3, 40, 33))
    assert main.shape == auxiliary.shape == (2, 2, 40, 33)
    assert small.eval()(torch.randn(1, 3, 40, 33)).shape == (1, 2, 40, 33)
    without = PSPNet(3, 2, **SMALL, aux_weight=0)
    assert without.aux_weights == ()
    assert without.train()(torch.randn(2, 3, 40, 33)).shape == (2, 2, 40, 33)
    assert not any("aux" in name for name, _ in without.named_parameters())


def test_stages_three_and_four_are_dilated_and_the_stem_is_deep():
    with torch.device("meta"):
        model = PSPNet()
    net = model.encoder.net
    assert [part.dilation[0] for part in (net.layer3[0].conv2, net.layer3[5].conv2)] == [2, 2]
    assert [part.dilation[0] for part in (net.layer4[0].conv2, net.layer4[2].conv2)] == [4, 4]
    assert [tuple(part.weight.shape[:2]) for part in net.conv1 if isinstance(part, nn.Conv2d)] == [
        (64, 3), (64, 64), (128, 64)
    ]  # fmt: skip


@pytest.mark.parametrize(("image", "cells"), [(473, 60), (713, 90)])
def test_published_sizes_give_maps_that_six_divides(image, cells):
    with torch.device("meta"):
        model = PSPNet()
    described = describe(model, in_channels=3, size=(image, image))
    rows = {row.name: row for row in described.rows}
    assert rows["encoder layer4"].height == cells
    assert [rows[f"bins {side}"].stride for side in (1, 2, 3, 6)] == [8 * cells / side for side in (1, 2, 3, 6)]
    assert rows["conv"].stride == 8
    assert rows["conv"].receptive_field is None


def test_one_image_cannot_be_trained_on_and_the_error_says_why():
    model = PSPNet(3, 2, **SMALL).train()
    with pytest.raises(InputError, match=r"batch of 1: the mean of the whole image.*use batches of 2 or more"):
        model(torch.randn(1, 3, 64, 64))
    without_global_bin = PSPNet(3, 2, **SMALL, bins=[2, 3]).train()
    assert without_global_bin(torch.randn(1, 3, 64, 64))[0].shape == (1, 2, 64, 64)


@torch.no_grad()
def test_any_backbone_of_timm():
    model = create_model("pspnet", num_classes=2, encoder="mobilenetv3_small_050", width=8, output_stride=32).eval()
    assert model.aux_head.conv.conv.in_channels == model.encoder.channels[-2]
    assert model(torch.zeros(1, 3, 37, 50)).shape == (1, 2, 37, 50)
    assert type(create_model("pspnet", encoder="resnet18", variant=None, width=8).encoder.net).__module__[:4] == "timm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": []}, r"option bins=\[\] of pspnet: give different sides from 1 on"),
        ({"bins": [2, 2]}, r"option bins=\[2, 2\]"),
        ({"bins": [0, 1]}, r"option bins=\[0, 1\]"),
        ({"width": 0}, "option width=0 of pspnet"),
        ({"dropout": -1.0}, r"option dropout=-1\.0"),
        ({"aux_weight": -0.4}, r"option aux_weight=-0\.4 of pspnet: it must be 0"),
        ({"encoder": "convnext_atto", "output_stride": 4}, "output_stride 4"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        PSPNet(3, 2, **{**SMALL, **options})
