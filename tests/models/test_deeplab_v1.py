"""DeepLab v1: counts of the paper's table, torchvision's VGG16, taps of fc6, exact placement, thinned weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from perpixel.errors import InputError
from perpixel.models import DeepLabV1, create_model
from perpixel.models.deeplab_v1 import CARD
from perpixel.models.deeplab_vgg import DeepLabVGG, thinned
from perpixel.models.vgg import fc_layers

SMALL = {"fc_channels": 4}


def on_meta(**options) -> nn.Module:
    with torch.device("meta"):
        return create_model("deeplab_v1", **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("field", "expected", "millions"),
    [("large", 20_505_429, 20.5), ("4x4", 65_140_565, 65.1), ("small", 65_140_565, 65.1), ("7x7", 134_346_581, 134.3)],
)
def test_published_parameter_counts(field, expected, millions):
    assert count(on_meta(field_of_view=field)) == expected
    assert round(expected / 1e6, 1) == millions


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda counted: counted.label)
def test_counts_of_the_card(counted):
    assert count(on_meta(**counted.options)) == counted.expected


@pytest.mark.parametrize(("side", "cells"), [(321, 41), (513, 65), (1, 1), (9, 2), (320, 41), (313, 40), (314, 41)])
def test_8k_plus_1_pixels_give_k_plus_1_cells(side, cells):
    """Other sizes round up: Caffe's pools let a last window hang over the end."""
    with torch.device("meta"):
        assert DeepLabVGG(3)(torch.empty(1, 3, side, side)).shape == (1, 512, cells, cells)


@pytest.mark.parametrize("field", ["large", "4x4", "7x7", "small"])
def test_fc6_keeps_the_size(field):
    model = on_meta(field_of_view=field, **SMALL)
    assert model.head(torch.empty(1, 512, 41, 30, device="meta")).shape == (1, 4, 41, 30)


@pytest.mark.parametrize(
    ("field", "taps"),
    [
        ("large", [-12, 0, 12]),
        ("4x4", [-12, -4, 4, 12]),
        ("7x7", [-12, -8, -4, 0, 4, 8, 12]),
        ("small", [-6, -2, 2, 6]),
    ],
)
def test_cells_that_fc6_reaches(field, taps):
    """The first three span the same 25 cells; the even kernels lie evenly around their own cell."""
    fc6 = DeepLabV1(1, 2, field_of_view=field, **SMALL).head.fc6
    maps = torch.zeros(1, 512, 31, 31, requires_grad=True)
    fc6(maps)[0, 0, 15, 15].backward()
    rows, cols = maps.grad[0].abs().sum(0).nonzero().T
    assert sorted(set((rows - 15).tolist())) == taps == sorted(set((cols - 15).tolist()))


@torch.no_grad()
def test_trunk_is_torchvisions_vgg16_with_other_pools():
    torch.manual_seed(0)
    reference = make_layers(cfgs["D"]).eval()
    for index in (4, 9, 16):
        reference[index] = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    for index in (23, 30):
        reference[index] = nn.MaxPool2d(3, 1, 1)
    for index in (24, 26, 28):
        reference[index].dilation, reference[index].padding = (2, 2), (2, 2)
    trunk = DeepLabVGG(3).eval()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), reference.state_dict().values(), strict=True)))
    image = torch.randn(1, 3, 36, 49)
    assert torch.allclose(trunk(image), reference(image), atol=1e-5)


@torch.no_grad()
def test_the_whole_is_the_papers_net_wired_by_hand():
    torch.manual_seed(0)
    model = DeepLabV1(2, 3, **SMALL).eval()
    image = torch.randn(1, 2, 30, 41)
    maps = F.avg_pool2d(model.trunk(F.pad(image, (0, 0, 0, 3))), 3, 1, 1)  # 33 x 41
    fc6 = F.conv2d(maps, model.head.fc6.weight, model.head.fc6.bias, padding=12, dilation=12).relu()
    scores = model.score(model.head.fc7(fc6).relu())
    assert scores.shape == (1, 3, 5, 6)
    expected = F.interpolate(scores, (33, 41), mode="bilinear", align_corners=True)[:, :, :30]
    assert expected.any()
    assert torch.allclose(model(image), expected, atol=1e-6)


def test_the_average_counts_the_padding_as_caffe_does():
    model = DeepLabV1(1, 2, **SMALL)
    assert model.pool(torch.ones(1, 1, 3, 3))[0, 0, 0].tolist() == pytest.approx([4 / 9, 6 / 9, 4 / 9])
    assert DeepLabV1(1, 2, average_pool=False, **SMALL).pool is None


class Sampler(nn.Module):
    """In place of the network: the image where the cells lie."""

    def forward(self, image: Tensor) -> Tensor:
        return image[..., ::8, ::8]


@pytest.mark.parametrize("size", [(33, 41), (35, 47), (64, 8)])
def test_logits_lie_where_the_scores_came_from(size):
    """Interpolation keeps a ramp as it is: up to the last cell inside the image it comes back exactly."""
    model = DeepLabV1(1, 1, average_pool=False, **SMALL).eval()
    model.trunk, model.head, model.score = Sampler(), nn.Sequential(), nn.Identity()
    height, width = size
    ramp = torch.arange(height)[:, None] * 3.0 + torch.arange(width)[None]
    logits = model(ramp[None, None])[0, 0]
    assert logits.shape == size
    inside = (slice((height - 1) // 8 * 8 + 1), slice((width - 1) // 8 * 8 + 1))
    assert torch.allclose(logits[inside], ramp[inside], atol=1e-4)


def test_start_of_the_class_scores():
    torch.manual_seed(0)
    model = DeepLabV1(1, 21, fc_channels=100)
    assert model.score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not model.score.bias.any()


def small_vgg(channels: int) -> VGG:
    with torch.device("meta"):
        net = VGG(nn.Sequential(), init_weights=False)
    net.features = make_layers(cfgs["D"])
    layers = (nn.Linear(512 * 49, channels), nn.ReLU(), nn.Dropout(), nn.Linear(channels, channels))
    net.classifier = nn.Sequential(*layers, nn.ReLU(), nn.Dropout(), nn.Linear(channels, 5))
    return net.eval()


def test_thinning_takes_evenly_spaced_taps_and_channels():
    """Values that say where they come from: 10000 * output + 100 * row + column, all inputs alike."""
    rows, cols, outputs = torch.arange(7.0)[:, None], torch.arange(7.0), torch.arange(8.0)[:, None, None, None]
    kernel = (10_000 * outputs + 100 * rows + cols).expand(8, 2, 7, 7)
    mixing = 10.0 * torch.arange(8)[:, None] + torch.arange(8)
    state = {
        "classifier.0.weight": kernel.flatten(1),
        "classifier.0.bias": torch.arange(8.0),
        "classifier.3.weight": mixing,
        "classifier.3.bias": -torch.arange(8.0),
    }
    cut = thinned(state, fc_layers(2, 4, 3, dilation=12, padding=12, dropout=0.5))
    assert cut["classifier.0.weight"].shape == (4, 2, 3, 3)
    assert cut["classifier.0.weight"][1, 0].tolist() == [[20_000, 20_003, 20_006], [20_300, 20_303, 20_306],
                                                         [20_600, 20_603, 20_606]]  # fmt: skip
    assert cut["classifier.0.bias"].tolist() == [0, 2, 4, 6]
    assert cut["classifier.3.weight"].tolist() == [[0, 2, 4, 6], [20, 22, 24, 26], [40, 42, 44, 46], [60, 62, 64, 66]]
    four = thinned(state, fc_layers(2, 8, 4, dilation=8, padding=12, dropout=0.5))["classifier.0.weight"]
    assert four[0, 0, 0].tolist() == [0, 2, 4, 6]
    whole = thinned(state, fc_layers(2, 8, 7, dilation=4, padding=12, dropout=0.5))["classifier.0.weight"]
    assert torch.equal(whole, kernel)


@torch.no_grad()
def test_weights_of_the_classifier(tmp_path):
    """Undecimated (7x7, all channels) the head answers as the classifier does."""
    torch.manual_seed(0)
    net = small_vgg(8)
    torch.save(net.state_dict(), tmp_path / "vgg16.pth")
    seven = DeepLabV1(3, 2, field_of_view="7x7", fc_channels=8, weights=tmp_path / "vgg16.pth").eval()
    maps = torch.randn(1, 512, 7, 7)
    spread = torch.zeros(1, 512, 25, 25)
    spread[..., ::4, ::4] = maps
    assert torch.allclose(seven.head(spread)[..., 12, 12], net.classifier[:6](maps.flatten(1)), atol=1e-5)
    large = DeepLabV1(3, 2, weights=tmp_path / "vgg16.pth", **SMALL)
    assert torch.equal(large.head.fc6.weight, seven.head.fc6.weight[::2, :, ::3, ::3])
    assert torch.equal(large.head.fc7.weight, seven.head.fc7.weight[::2, ::2])
    assert torch.equal(large.trunk.conv5.conv5_3.weight, net.features[28].weight)
    with pytest.raises(InputError, match=r"has 8 channels, fc6 of the model 9: use fc_channels=8"):
        DeepLabV1(3, 2, fc_channels=9, weights=tmp_path / "vgg16.pth")
    state = {name: value for name, value in net.state_dict().items() if name != "classifier.3.bias"}
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"fc6 of the model 4|lacks 'classifier.3.bias'"):
        DeepLabV1(3, 2, weights=tmp_path / "less.pth", **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"field_of_view": "huge"},
            "option field_of_view='huge' of deeplab_v1: choose 'large', '4x4', '7x7' or 'small'",
        ),
        ({"fc_channels": 0}, "option fc_channels=0 of deeplab_v1"),
        ({"fc_channels": "8"}, "option fc_channels='8' of model 'deeplab_v1': give a whole number, or none"),
        ({"dropout": -0.5}, r"option dropout=-0\.5"),
        ({"width": 0}, "option width=0 of deeplab_v1"),
        ({"width": 4, "weights": "vgg.pth"}, "option width=4 of deeplab_v1 with weights: they have 64"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("deeplab_v1", **options)
