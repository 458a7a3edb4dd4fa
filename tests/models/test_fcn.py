"""FCN: offsets and counts of the authors' release, the trunk against torchvision, staged training, dense weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, conv_size, pool_size, transposed_size
from perpixel.models import FCN, create_model, fcn8s, fcn8s_atonce, fcn16s, fcn32s
from perpixel.models.fcn_trunks import AlexNetTrunk, VGG16Trunk

SMALL = {"fc_channels": 8}


def on_meta(name: str, **options) -> FCN:
    with torch.device("meta"):
        return create_model(name, **options)


def with_dense_upsamplers(model: FCN) -> int:
    """Parameters as the authors count them: upsamplers stored as full (C, C, k, k) matrices."""
    dense = sum(
        part.channels**2 * part.kernel_size**2 for part in model.modules() if isinstance(part, BilinearUpsample)
    )
    return sum(parameter.numel() for parameter in model.parameters()) + dense


@pytest.mark.parametrize(
    ("name", "options", "trainable", "dense_millions"),
    [
        ("fcn32s", {}, 134_346_581, 136.15),
        ("fcn16s", {}, 134_357_354, 134.82),
        ("fcn8s", {}, 134_362_751, 134.49),
        ("fcn8s_atonce", {}, 134_362_751, 134.49),
        ("fcn32s", {"backbone": "alexnet"}, 56_954_261, 58.70),
    ],
)
def test_published_parameter_counts(name, options, trainable, dense_millions):
    model = on_meta(name, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == trainable
    assert round(with_dense_upsamplers(model) / 1e6, 2) == dense_millions


def test_googlenet_is_the_6_million_row():
    assert round(sum(each.numel() for each in on_meta("fcn32s", backbone="googlenet").parameters()) / 1e6) == 6


@pytest.mark.parametrize(
    ("name", "offset", "skips", "kernel"),
    [("fcn32s", 19, [], 64), ("fcn16s", 27, [5], 32), ("fcn8s", 31, [5, 9], 16), ("fcn8s_atonce", 31, [5, 9], 16)],
)
def test_offsets_of_the_release_follow_from_the_geometry(name, offset, skips, kernel):
    model = on_meta(name)
    assert (model.offset, model.upsample.kernel_size) == (offset, kernel)
    assert [skip.offset for skip in model.skips.values()] == skips


def test_alexnet_needs_the_odd_kernel_and_offset_18():
    model = on_meta("fcn32s", backbone="alexnet")
    assert (model.offset, model.upsample.kernel_size) == (18, 63)


def test_scales_of_the_at_once_variant():
    assert [skip.scale for skip in on_meta("fcn8s_atonce").skips.values()] == [0.01, 0.0001]
    assert [skip.scale for skip in on_meta("fcn8s").skips.values()] == [1, 1]


def test_offsets_leave_enough_for_every_image_size():
    """The sizes of the whole net by arithmetic, for every side up to 700."""
    for size in range(1, 701):
        side = conv_size(size, 3, padding=100)
        sides = []
        for _ in range(5):
            side = pool_size(side, 2, 2, ceil_mode=True)
            sides.append(side)
        deep = conv_size(sides[4], 7)
        assert transposed_size(deep, 64, 32) >= 19 + size
        twice = transposed_size(deep, 4, 2)
        assert sides[3] >= 5 + twice
        assert transposed_size(twice, 32, 16) >= 27 + size
        four_times = transposed_size(twice, 4, 2)
        assert sides[2] >= 9 + four_times
        assert transposed_size(four_times, 16, 8) >= 31 + size


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (37, 90)])
@pytest.mark.parametrize("build", [fcn32s, fcn16s, fcn8s])
def test_any_size_comes_back(build, size):
    assert build(2, 3, **SMALL).eval()(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["alexnet", "googlenet"])
def test_other_backbones(backbone):
    model = fcn32s(1, 3, backbone=backbone, **SMALL).eval()
    for size in ((1, 1), (33, 70)):
        assert model(torch.zeros(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
def test_scores_land_where_they_came_from(backbone):
    """A bright spot in the score map shows in the logits at the position that the grid states."""
    model = fcn32s(1, 1, backbone=backbone, **SMALL).eval()
    centre = model.trunk.grids()["deep"].after((model.trunk.fc_kernel or 1, 1, 0)).centre
    scores = torch.zeros(1, 1, 12, 12)
    cell = 6
    scores[..., cell, cell] = 1
    with torch.no_grad():
        line = model.upsample(scores)[0, 0, :, model.offset + round(centre + 32 * cell)][model.offset :]
    position = (line * torch.arange(len(line))).sum() / line.sum()
    assert position.item() == pytest.approx(centre + 32 * cell, abs=1e-3)


@torch.no_grad()
def test_trunk_is_torchvisions_vgg16():
    """The same weights give the same maps, once torchvision's first padding and its pools are FCN's."""
    torch.manual_seed(0)
    reference = make_layers(cfgs["D"]).eval()
    reference[0].padding = (100, 100)
    for part in reference:
        if isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True
    trunk = VGG16Trunk(3).eval()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), reference.state_dict().values())))
    image = torch.randn(1, 3, 21, 10)
    maps = trunk(image)
    assert torch.allclose(maps["pool3"], reference[:17](image), atol=1e-5)
    assert torch.allclose(maps["pool4"], reference[:24](image), atol=1e-5)
    assert torch.allclose(maps["deep"], reference(image), atol=1e-5)


@torch.no_grad()
def test_fcn8s_is_the_papers_figure_wired_by_hand():
    torch.manual_seed(0)
    model = fcn8s_atonce(3, 4, **SMALL).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    image = torch.randn(1, 3, 20, 31)
    maps = model.trunk(image)
    fc7 = model.head.fc7(model.head.fc6(maps["deep"]).relu()).relu()
    up = model.skips["pool4"].upsample(model.score(fc7))
    rows, cols = up.shape[2:]
    up = up + model.skips["pool4"].score(0.01 * maps["pool4"])[:, :, 5 : 5 + rows, 5 : 5 + cols]
    up = model.skips["pool3"].upsample(up)
    rows, cols = up.shape[2:]
    up = up + model.skips["pool3"].score(0.0001 * maps["pool3"])[:, :, 9 : 9 + rows, 9 : 9 + cols]
    expected = model.upsample(up)[:, :, 31 : 31 + 20, 31 : 31 + 31]
    assert expected.abs().max() > 0
    assert torch.allclose(model(image), expected, atol=1e-5)


def test_scores_start_at_zero_and_the_trunk_does_not():
    model = fcn8s(3, 4, **SMALL)
    assert not model.eval()(torch.randn(1, 3, 9, 9)).any()
    assert all(parameter.any() for name, parameter in model.trunk.named_parameters() if name.endswith("weight"))


def test_upsamplers_are_frozen_unless_asked_and_the_last_one_always():
    assert not any("upsample" in name for name, _ in fcn8s(3, 2, **SMALL).named_parameters())
    learned = {
        name for name, _ in fcn8s(3, 2, learned_upsampling=True, **SMALL).named_parameters() if "upsample" in name
    }
    assert learned == {"skips.pool4.upsample.weight", "skips.pool3.upsample.weight"}


@torch.no_grad()
def test_staged_training_takes_over_the_parent():
    torch.manual_seed(0)
    parent = fcn32s(3, 2, **SMALL)
    for parameter in parent.parameters():
        nn.init.normal_(parameter, std=0.1)
    child = fcn16s(3, 2, **SMALL).from_parent(parent)
    assert torch.equal(child.score.weight, parent.score.weight)
    assert torch.equal(child.head.fc6.weight, parent.head.fc6.weight)
    assert not child.skips["pool4"].score.weight.any()
    nn.init.normal_(child.skips["pool4"].score.weight)
    grandchild = fcn8s(3, 2, **SMALL).from_parent(child)
    assert torch.equal(grandchild.skips["pool4"].score.weight, child.skips["pool4"].score.weight)


@torch.no_grad()
def test_a_child_equals_its_parent_on_constant_scores():
    parent, child = fcn32s(3, 2, **SMALL).eval(), fcn16s(3, 2, **SMALL).eval()
    parent.score.bias.copy_(torch.tensor([1.5, -2.0]))
    child.from_parent(parent)
    image = torch.randn(1, 3, 80, 80)
    inside = (..., slice(24, -24), slice(24, -24))
    assert torch.allclose(parent(image)[inside], child(image)[inside], atol=1e-5)


def test_a_wrong_parent_is_named():
    with pytest.raises(InputError, match="an FCN of stride 16 cannot start from FCN of stride 8"):
        fcn16s(3, 2, **SMALL).from_parent(fcn8s(3, 2, **SMALL))
    with pytest.raises(InputError, match=r"parent's 'score.weight' is \(3, 8, 1, 1\), here \(2, 8, 1, 1\)"):
        fcn16s(3, 2, **SMALL).from_parent(fcn32s(3, 3, **SMALL))
    with pytest.raises(InputError, match="cannot start from Linear"):
        fcn16s(3, 2, **SMALL).from_parent(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg19"}, "option backbone='vgg19' of fcn: choose vgg16, alexnet, googlenet"),
        ({"backbone": "alexnet"}, "option backbone='alexnet' has no pool4 to skip from"),
        ({"fc_channels": 0}, "option fc_channels=0"),
        ({"dropout": -0.1}, r"option dropout=-0\.1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        fcn8s(3, 2, **{**SMALL, **options})


@pytest.fixture(scope="module")
def vgg16() -> VGG:
    """torchvision's VGG16 with 8 instead of 4096 channels in its fully connected layers."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = VGG(nn.Sequential(), init_weights=False)
    rest = (nn.ReLU(True), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))
    net.features = make_layers(cfgs["D"])
    net.classifier = nn.Sequential(nn.Linear(512 * 49, 8), *rest)
    return net.eval()


@torch.no_grad()
def test_the_classifiers_weights_become_fc6_and_fc7(vgg16, tmp_path):
    torch.save(vgg16.state_dict(), tmp_path / "vgg16.pth")
    model = fcn32s(3, 2, weights=tmp_path / "vgg16.pth", **SMALL).eval()
    features = [each for each in vgg16.features if isinstance(each, nn.Conv2d)]
    convs = [each for each in model.trunk.modules() if isinstance(each, nn.Conv2d)]
    assert all(torch.equal(mine.weight, theirs.weight) for mine, theirs in zip(convs, features, strict=True))
    assert all(torch.equal(mine.bias, theirs.bias) for mine, theirs in zip(convs, features, strict=True))
    maps = torch.randn(2, 512, 7, 7)
    assert torch.allclose(model.head(maps)[..., 0, 0], vgg16.classifier[:6](maps.flatten(1)), atol=1e-5)
    assert not model.score.weight.any()
    grey = fcn32s(1, 2, weights=tmp_path / "vgg16.pth", **SMALL)
    assert torch.allclose(grey.trunk.block1.conv1_1.weight[:, 0], features[0].weight.sum(1), atol=1e-6)


def test_weights_that_do_not_fit_are_named(vgg16, tmp_path):
    state = vgg16.state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(InputError, match=r"'classifier.*weight' has 8 channels, fc6 of the model 9: use fc_channels=8"):
        fcn32s(3, 2, fc_channels=9, weights=tmp_path / "vgg16.pth")
    torch.save({name: value for name, value in state.items() if name != "features.0.bias"}, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"less\.pth: lacks 'features.0.bias'"):
        fcn32s(3, 2, weights=tmp_path / "less.pth", **SMALL)
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: has 0 convolutions under 'features', VGG16 .* has 13"):
        fcn32s(3, 2, weights=tmp_path / "other.pth", **SMALL)


def test_alexnet_has_no_weights_to_load():
    with pytest.raises(InputError, match="torchvision's AlexNet is another network"):
        fcn32s(3, 2, backbone="alexnet", weights="imagenet", **SMALL)
    assert AlexNetTrunk(3).block2[0].groups == 2
