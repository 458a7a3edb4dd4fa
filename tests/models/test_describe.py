"""Descriptions against published receptive fields, counts by hand, and the real pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.models import create_model
from perpixel.models.describe import describe


def row(description, name: str):
    return next(each for each in description.rows if each.name == name)


def test_a_tiny_network_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, dilation=2, padding=2)
    )
    described = describe(model, in_channels=2, size=(16, 8))
    facts = [
        (r.name, r.channels, r.height, r.width, r.stride, r.receptive_field, r.parameters, r.multiply_adds)
        for r in described.rows
    ]
    assert facts == [
        ("0", 4, 8, 4, 2, 3, 4 * 2 * 9 + 4, 8 * 4 * 4 * 2 * 9),
        ("2", 4, 4, 2, 4, 5, 0, 0),
        ("3", 3, 4, 2, 4, 5 + 2 * 2 * 4, 3 * 4 * 9 + 3, 4 * 2 * 3 * 4 * 9),
    ]
    assert described.multiply_adds == 8 * 4 * 4 * 2 * 9 + 4 * 2 * 3 * 4 * 9
    assert described.parameters == sum(each.numel() for each in model.parameters())


def test_fcn_has_vggs_published_receptive_fields():
    with torch.device("meta"):
        model = create_model("fcn8s")
    described = describe(model, in_channels=3, size=(480, 360))
    fields = [(r.name, r.stride, r.receptive_field) for r in described.rows]
    assert fields[:6] == [
        ("block1", 2, 6),
        ("block2", 4, 16),
        ("block3", 8, 44),
        ("block4", 16, 100),
        ("block5", 32, 212),
        ("fc6", 32, 404),
    ]
    assert [name for name, _, _ in fields[6:]] == ["fc7", "score", "skip pool4", "skip pool3", "upsample"]
    assert row(described, "fc6").parameters == 512 * 49 * 4096 + 4096
    assert described.parameters == 134_362_751 + 2 * 21 * 21 * 4 * 4  # with the learned x2 upsamplers
    assert described.frozen == 21 * 16 * 16
    assert sum(r.parameters for r in described.rows) == described.parameters


def test_unet_valid_shows_the_papers_figure():
    with torch.device("meta"):
        model = create_model("unet_valid", in_channels=1, num_classes=2)
    described = describe(model, in_channels=1, size=(572, 572))
    sizes = [(r.name, r.channels, r.height) for r in described.rows]
    assert sizes == [
        ("down 1", 64, 568), ("down 2", 128, 280), ("down 3", 256, 136), ("down 4", 512, 64), ("down 5", 1024, 28),
        ("up 1", 512, 52), ("up 2", 256, 100), ("up 3", 128, 196), ("up 4", 64, 388), ("head", 2, 388),
    ]  # fmt: skip
    assert row(described, "down 5").receptive_field == 140
    assert described.parameters == 31_030_658


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 2, "depth": 3}),
        ("unet", {"width": 8, "encoder": "resnet18", "head_stride": 2}),
        ("fcn16s", {"fc_channels": 4}),
    ],
)
def test_rows_are_those_of_the_real_pass(name, options):
    model = create_model(name, num_classes=3, **options)
    described = describe(model, in_channels=3, size=(37, 50))
    assert sum(r.parameters for r in described.rows) == sum(each.numel() for each in model.parameters())
    shapes = {}
    for stage, part in model.stages().items():
        part.register_forward_hook(lambda module, args, output, stage=stage: shapes.update({stage: output.shape[1:]}))
    model.eval()(torch.zeros(1, 3, 37, 50))
    for r in described.rows:
        if r.name in shapes:
            assert (r.channels, r.height, r.width) == tuple(shapes[r.name])


def test_receptive_field_is_where_the_gradient_reaches():
    """All-positive weights: the pixels with a gradient are exactly the receptive field."""
    model = create_model("unet", in_channels=1, num_classes=1, width=1, depth=3, norm=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    image = torch.ones(1, 1, 96, 96, requires_grad=True)
    model(image)[0, 0, 48:52, 48:52].sum().backward()
    # Max pooling passes a gradient to the first of equal pixels only, so this is a lower bound; four cells at once.
    reached = image.grad[0, 0].ne(0).any(0).sum().item()
    described = describe(model, in_channels=1, size=(96, 96))
    assert row(described, "up 2").receptive_field == 44
    assert reached <= 44 + 3


def test_squeeze_and_excitation_sees_the_whole_image():
    model = create_model("unet", encoder="mobilenetv3_small_050", width=4, num_classes=2)
    described = describe(model, in_channels=3, size=(64, 64))
    assert row(described, "encoder conv_stem").receptive_field == 3
    assert described.rows[-1].receptive_field is None


@pytest.mark.slow
def test_token_encoders_keep_their_strides():
    model = create_model("unet", encoder="swin_tiny_patch4_window7_224", width=4)
    described = describe(model, in_channels=3, size=(64, 64))
    assert [r.stride for r in described.rows] == [32, 16, 8, 4, 2, 1, 1]


def test_nothing_of_the_model_changes():
    model = create_model("unet", width=2, depth=2).train()
    model.head.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    describe(model, in_channels=3, size=(9, 9))
    assert model.training
    assert not model.head.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_json_and_text():
    described = describe(create_model("unet", width=2, depth=2, num_classes=2), in_channels=3, size=(8, 8))
    loaded = json.loads(json.dumps(described.to_json()))
    assert loaded["rows"][0]["name"] == "down 1"
    assert loaded["multiply_adds"] == described.multiply_adds
    lines = described.to_text().splitlines()
    assert lines[0].split() == ["stage", "output", "stride", "sees", "parameters", "multiply-adds"]
    assert lines[1].startswith("down 1  2 x 8 x 8")
    assert lines[-1].startswith("total")


def test_a_wrong_image_is_named():
    model = create_model("unet", width=2, depth=2)
    with pytest.raises(InputError, match="UNet does not take an image of 4 x 8 x 8"):
        describe(model, in_channels=4, size=(8, 8))
    with pytest.raises(InputError, match="image height 100 does not fit"):
        describe(create_model("unet_valid", width=1), in_channels=3, size=(100, 188))
