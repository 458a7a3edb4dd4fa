"""LiteSeg: published counts with and without the dead classifier, the pyramid and both skips wired by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.errors import InputError
from perpixel.models import LiteSeg, create_model
from perpixel.models.describe import describe
from perpixel.models.liteseg import CARD, DASPP

CLASSIFIER = {"mobilenetv2": 1280 * 1000 + 1000, "shufflenet": 1536 * 1000 + 1000}


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_parameter_counts(expected):
    with torch.device("meta"):
        model = create_model("liteseg", num_classes=expected.num_classes, **expected.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected.expected


@pytest.mark.parametrize(
    ("encoder", "without", "published"), [("mobilenetv2", "3.10", "4.38"), ("shufflenet", "1.97", "3.51")]
)
def test_published_millions_include_the_unused_classifier(encoder, without, published):
    with torch.device("meta"):
        parameters = sum(each.numel() for each in LiteSeg(3, 19, encoder=encoder).parameters())
    assert f"{parameters / 1e6:.2f}" == without
    assert f"{(parameters + CLASSIFIER[encoder]) / 1e6:.2f}" == published


@torch.no_grad()
def test_pyramid_by_hand():
    torch.manual_seed(0)
    daspp = DASPP(6, 4, (3, 6, 9)).eval()
    maps = torch.randn(2, 6, 8, 5)
    first = daspp.rate1.pointwise.norm(daspp.rate1.pointwise.conv(daspp.rate1.depthwise(maps)))
    views = [maps, first]
    for rate, branch in zip((3, 6, 9), daspp.dilated.values()):
        dilated, deeper = branch
        view = F.conv2d(maps, dilated.depthwise.weight, padding=rate, dilation=rate, groups=6)
        view = dilated.pointwise.norm(dilated.pointwise.conv(view))
        view = deeper.pointwise.norm(deeper.pointwise.conv(deeper.depthwise(view))).relu()
        views.append(view)
    pooling = daspp.image_pooling.project
    mean = pooling.norm(pooling.conv(maps.mean((2, 3), keepdim=True))).relu()
    views.append(mean.expand(-1, -1, 8, 5))
    assert daspp.project.depthwise.weight.shape == (6 + 5 * 4, 1, 1, 1)
    assert torch.allclose(daspp(maps), daspp.project(torch.cat(views, 1)), atol=1e-6)
    assert (first < 0).any()  # no activation on rate 1
    assert (daspp(maps) >= 0).all()


@pytest.mark.parametrize(
    ("encoder", "deep", "stride", "low", "used"),
    [
        ("mobilenetv2", (1280, 32), 4, 24, 24),
        ("shufflenet", (1536, 32), 8, 384, 48),
        ("darknet19", (1024, 16), 4, 128, 32),
    ],
)
def test_which_maps_of_the_backbones_are_used(encoder, deep, stride, low, used):
    with torch.device("meta"):
        model = LiteSeg(encoder=encoder)
    assert (model.encoder.channels[-1], model.encoder.strides[-1]) == deep
    assert (model.encoder.channels[model.low], model.encoder.strides[model.low]) == (low, stride)
    assert model.conv1.depthwise.in_channels == 96 + used
    assert isinstance(model.reduce, nn.Identity) == (used == low)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["mobilenetv2", "shufflenet"])
def test_the_whole_is_wired_as_the_release(encoder):
    torch.manual_seed(0)
    model = LiteSeg(3, 2, encoder=encoder, width=8).eval()
    image = torch.randn(1, 3, 70, 45)
    features = model.encoder(image)
    stride = 4 if encoder == "mobilenetv2" else 8
    size = (-(-70 // stride), -(-45 // stride))  # as the release computes it
    maps = F.interpolate(model.daspp(features[-1]), size, mode="bilinear", align_corners=True)
    maps = torch.cat([maps, model.reduce(features[model.low])], 1)
    scores = model.score(model.conv2(model.conv1(maps)))
    expected = F.interpolate(scores, (70, 45), mode="bilinear", align_corners=True)
    assert torch.allclose(model(image), expected, atol=1e-6)


def test_description_tells_the_mean_of_the_whole_image():
    with torch.device("meta"):
        model = LiteSeg()
    rows = {row.name: row for row in describe(model, in_channels=3, size=(512, 1024)).rows}
    assert (rows["DASPP mean"].stride, rows["DASPP mean"].receptive_field) == (32, None)
    assert [rows[f"DASPP rate {rate}"].receptive_field for rate in (1, 3)] == [491, 491 + 32 * (6 + 2)]


def test_one_image_cannot_be_trained_on_and_the_error_says_why():
    model = LiteSeg(3, 2, width=8).train()
    with pytest.raises(InputError, match=r"batch of 1.*use batches of 2 or more"):
        model(torch.randn(1, 3, 64, 64))
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 2, 64, 64)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "resnet18"])
def test_other_encoders(encoder):
    model = LiteSeg(1, 2, encoder=encoder, width=8).eval()
    assert model.reduce.pointwise.conv.out_channels == 48
    assert model(torch.zeros(1, 1, 37, 50)).shape == (1, 2, 37, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of liteseg"),
        ({"rates": []}, r"option rates=\[\] of liteseg"),
        ({"rates": [3, 3]}, r"option rates=\[3, 3\] of liteseg: give different dilations"),
        ({"legacy_padding": True}, "option legacy_padding=True of liteseg with encoder='mobilenetv2'"),
        ({"encoder": "shufflenet", "weights": "imagenet"}, "weights='imagenet' of encoder 'shufflenet': nobody offers"),
        ({"encoder": "darknet19", "weights": "imagenet"}, "weights='imagenet' of encoder 'darknet19': nobody offers"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        LiteSeg(3, 2, **options)
