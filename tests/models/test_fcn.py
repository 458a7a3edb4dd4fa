"""FCN: offsets and counts of the authors' release, the trunk against torchvision, staged training, dense weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import GoogLeNet
from torchvision.models.vgg import VGG, cfgs, make_layers

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, conv_size, pool_size, transposed_size
from perpixel.models import FCN, create_model, fcn8s, fcn8s_atonce, fcn16s, fcn32s
from perpixel.models.fcn import FCN8S_CARD, FCN16S_CARD, FCN32S_CARD
from perpixel.models.fcn_trunks import AlexNetTrunk, GoogLeNetTrunk, VGG16Trunk

SMALL = {"fc_channels": 8}
FROZEN = {"learned_upsampling": False}  # as in the release


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
        ("fcn16s", FROZEN, 134_357_354, 134.82),
        ("fcn8s", FROZEN, 134_362_751, 134.49),
        ("fcn8s_atonce", FROZEN, 134_362_751, 134.49),
        ("fcn32s", {"backbone": "alexnet"}, 56_954_261, 58.70),
        # Each skip adds one 1x1 convolution: 21 (channels + 1).
        ("fcn16s", FROZEN | {"backbone": "alexnet"}, 56_954_261 + 21 * 257, 57.39),
        ("fcn8s", FROZEN | {"backbone": "alexnet"}, 56_954_261 + 21 * (257 + 97), 57.07),
        ("fcn16s", FROZEN | {"backbone": "googlenet"}, 5_621_429 + 21 * 833, 6.07),
        ("fcn8s", FROZEN | {"backbone": "googlenet"}, 5_621_429 + 21 * (833 + 481), 5.76),
    ],
)
def test_published_parameter_counts(name, options, trainable, dense_millions):
    model = on_meta(name, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == trainable
    assert round(with_dense_upsamplers(model) / 1e6, 2) == dense_millions


@pytest.mark.parametrize("card", [FCN32S_CARD, FCN16S_CARD, FCN8S_CARD], ids=lambda card: card.title)
def test_counts_of_the_cards(card):
    for counted in card.counts:
        model = on_meta(card.title.lower().replace("-", ""), **counted.options)
        assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


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


@pytest.mark.parametrize(("name", "kernel"), [("fcn32s", 63), ("fcn16s", 31), ("fcn8s", 15)])
def test_alexnet_needs_odd_kernels_and_offset_18(name, kernel):
    model = on_meta(name, backbone="alexnet")
    assert (model.offset, model.upsample.kernel_size) == (18, kernel)


@pytest.mark.parametrize(
    ("backbone", "names", "taps", "cuts", "offsets"),
    [
        ("vgg16", ["pool4", "pool3"], [4, 4], [0, 0], [5, 9]),
        ("alexnet", ["pool2", "pool1"], [3, 3], [0, 0], [5, 10]),
        ("googlenet", ["inception4e", "inception3b"], [4, 3], [1, 0], [0, 0]),
    ],
)
def test_skips_of_every_backbone(backbone, names, taps, cuts, offsets):
    skips = on_meta("fcn8s", backbone=backbone).skips
    assert list(skips) == names
    assert [skip.upsample.kernel_size for skip in skips.values()] == taps
    assert [skip.cut for skip in skips.values()] == cuts
    assert [skip.offset for skip in skips.values()] == offsets


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_upsampled_cells_lie_exactly_on_the_cells_that_they_are_added_to(name, backbone):
    """Every score is the position of its cell on the image: sums of two maps are twice the position, logits it."""
    model = create_model(name, num_classes=1, backbone=backbone, **SMALL).eval()
    grids = model.trunk.grids()
    deep = grids["deep"].after((model.trunk.fc_kernel or 1, 1, 0))

    def ramp(grid, cells, channels=1):
        line = grid.centre + grid.step * torch.arange(cells, dtype=torch.float32)
        return line.expand(1, channels, cells, cells)

    scores, cells = ramp(deep, 9), 9
    for key, skip in model.skips.items():
        cells = 2 * cells + (12 if skip.offset else 0)
        skip.score.weight[0, 0] = 1 / skip.scale
        scores = skip(scores, ramp(grids[key], cells, model.trunk.skips[key])) / 2
        cells = scores.shape[-1]
    logits = model.upsample(scores)[..., model.offset :, model.offset :]
    middle = logits.shape[-1] // 2 - 40, logits.shape[-1] // 2 + 40
    expected = torch.arange(*middle, dtype=torch.float32)
    assert torch.allclose(logits[0, 0, middle[0], slice(*middle)], expected, atol=1e-3)


def test_scales_of_the_at_once_variant():
    assert [skip.scale for skip in on_meta("fcn8s_atonce").skips.values()] == [0.01, 0.0001]
    assert [skip.scale for skip in on_meta("fcn8s").skips.values()] == [1, 1]


def alexnet_sides(size: int) -> dict[str, int]:
    pool1 = pool_size(conv_size(size, 11, 4, 100), 3, 2, ceil_mode=True)
    pool2 = pool_size(pool1, 3, 2, ceil_mode=True)
    return {"pool1": pool1, "pool2": pool2, "deep": pool_size(pool2, 3, 2, ceil_mode=True)}


def googlenet_sides(size: int) -> dict[str, int]:
    side = pool_size(conv_size(size, 7, 2, 100), 3, 2, ceil_mode=True)
    third = pool_size(side, 3, 2, ceil_mode=True)
    fourth = pool_size(third, 3, 2, ceil_mode=True)
    return {"inception3b": third, "inception4e": fourth, "deep": pool_size(fourth, 2, 2, ceil_mode=True)}


@pytest.mark.parametrize(("backbone", "sides_of"), [("alexnet", alexnet_sides), ("googlenet", googlenet_sides)])
def test_other_backbones_leave_enough_for_every_image_size(backbone, sides_of):
    model = on_meta("fcn8s", backbone=backbone)
    coarser = [on_meta(name, backbone=backbone) for name in ("fcn32s", "fcn16s")]
    with torch.device("meta"):
        maps = model.trunk(torch.empty(1, 3, 37, 37))
    assert {name: each.shape[-1] for name, each in maps.items()} == sides_of(37)
    for size in range(1, 701):
        sides = sides_of(size)
        side = sides["deep"] - (model.trunk.fc_kernel or 1) + 1
        for number, (name, skip) in enumerate(model.skips.items()):
            last = coarser[number]
            assert transposed_size(side, last.upsample.kernel_size, last.stride) >= last.offset + size
            upsampled = transposed_size(side, skip.upsample.kernel_size, 2)
            if skip.offset:
                assert sides[name] >= skip.offset + upsampled
                side = upsampled
            else:
                assert upsampled >= skip.cut + sides[name]
                side = sides[name]
        assert transposed_size(side, model.upsample.kernel_size, 8) >= model.offset + size


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
@pytest.mark.parametrize("build", [fcn32s, fcn16s, fcn8s, fcn8s_atonce])
def test_other_backbones(build, backbone):
    model = build(1, 3, backbone=backbone, **SMALL).eval()
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


def test_upsamplers_are_learned_but_the_last_one():
    learned = {name for name, _ in fcn8s(3, 2, **SMALL).named_parameters() if "upsample" in name}
    frozen = fcn8s(3, 2, **FROZEN, **SMALL)
    assert not any("upsample" in name for name, _ in frozen.named_parameters())
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
@pytest.mark.parametrize("backbone", ["vgg16", "alexnet", "googlenet"])
def test_a_child_equals_its_parent_on_constant_scores(backbone):
    parent = fcn32s(3, 2, backbone=backbone, **SMALL).eval()
    parent.score.bias.copy_(torch.tensor([1.5, -2.0]))
    image = torch.randn(1, 3, 80, 80)
    inside = (..., slice(32, -32), slice(32, -32))
    for build in (fcn16s, fcn8s):
        child = build(3, 2, backbone=backbone, **SMALL).eval().from_parent(parent)
        assert torch.allclose(parent(image)[inside], child(image)[inside], atol=1e-5)
        parent = child


def test_a_wrong_parent_is_named():
    with pytest.raises(InputError, match="an FCN of stride 16 cannot start from FCN of stride 8"):
        fcn16s(3, 2, **SMALL).from_parent(fcn8s(3, 2, **SMALL))
    with pytest.raises(InputError, match=r"parent's 'score.weight' is \(3, 8, 1, 1\), here \(2, 8, 1, 1\)"):
        fcn16s(3, 2, **SMALL).from_parent(fcn32s(3, 3, **SMALL))
    with pytest.raises(InputError, match="cannot start from Linear"):
        fcn16s(3, 2, **SMALL).from_parent(nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"cannot start from FCN of stride 32 over alexnet: .*backbone='vgg16'"):
        fcn16s(3, 2, **SMALL).from_parent(fcn32s(3, 2, backbone="alexnet", **SMALL))
    with pytest.raises(InputError, match=r"parent scales its skips by 1, this FCN by 0\.01: .* trained in one stage"):
        fcn8s_atonce(3, 2, **SMALL).from_parent(fcn16s(3, 2, **SMALL))


def test_a_refused_parent_changes_nothing():
    child, parent = fcn16s(3, 2, width=4, **SMALL), fcn32s(3, 3, width=4, **SMALL)  # the trunk would fit
    before = {name: value.clone() for name, value in child.state_dict().items()}
    with pytest.raises(InputError, match="build both with the same num_classes"):
        child.from_parent(parent)
    assert all(torch.equal(value, before[name]) for name, value in child.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg19"}, "option backbone='vgg19' of fcn: choose vgg16, alexnet, googlenet"),
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


def caffenet_state() -> dict[str, torch.Tensor]:
    """CaffeNet's tensors under Caffe's names, with 8 instead of 4096 channels in fc6 and fc7."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
              "conv5": (256, 192, 3, 3), "fc6": (8, 256 * 36), "fc7": (8, 8), "fc8": (1000, 8)}  # fmt: skip
    state = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}


@torch.no_grad()
def test_caffenets_weights_load_under_their_names(tmp_path):
    state = caffenet_state()
    torch.save(state, tmp_path / "caffenet.pth")
    model = fcn16s(3, 2, backbone="alexnet", weights=tmp_path / "caffenet.pth", **SMALL).eval()
    blocks = (model.trunk.block1, model.trunk.block2, model.trunk.block3, model.trunk.block4, model.trunk.block5)
    for number, block in enumerate(blocks, start=1):
        assert torch.equal(block[0].weight, state[f"conv{number}.weight"])
        assert torch.equal(block[0].bias, state[f"conv{number}.bias"])
    maps = torch.randn(2, 256, 6, 6)
    hidden = (maps.flatten(1) @ state["fc6.weight"].T + state["fc6.bias"]).relu()
    expected = (hidden @ state["fc7.weight"].T + state["fc7.bias"]).relu()
    assert torch.allclose(model.head(maps)[..., 0, 0], expected, atol=1e-2, rtol=1e-4)
    state["fc6.weight"] = state["fc6.weight"].reshape(
        8, 256, 6, 6
    )  # as in files of nets that are convolutional already
    torch.save(state, tmp_path / "kernels.pth")
    again = fcn16s(3, 2, backbone="alexnet", weights=tmp_path / "kernels.pth", **SMALL)
    assert torch.equal(again.head.fc6.weight, model.head.fc6.weight)


def test_other_weights_for_alexnet_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"torchvision's AlexNet is another network .*: give a file of CaffeNet's"):
        fcn32s(3, 2, backbone="alexnet", weights="imagenet", **SMALL)
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alexnet.pth")
    with pytest.raises(InputError, match=r"alexnet\.pth: torchvision's AlexNet is another network"):
        fcn32s(3, 2, backbone="alexnet", weights=tmp_path / "alexnet.pth", **SMALL)
    torch.save({**caffenet_state(), "conv2.weight": torch.zeros(256, 96, 5, 5)}, tmp_path / "ungrouped.pth")
    with pytest.raises(InputError, match=r"'conv2.weight' is \(256, 96, 5, 5\), the model needs \(256, 48, 5, 5\)"):
        fcn32s(3, 2, backbone="alexnet", weights=tmp_path / "ungrouped.pth", **SMALL)
    torch.save({"conv1.weight": torch.zeros(96, 3, 11, 11)}, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"less\.pth: lacks 'conv1.bias'"):
        fcn32s(3, 2, backbone="alexnet", weights=tmp_path / "less.pth", **SMALL)
    assert AlexNetTrunk(3).block2[0].groups == 2


@torch.no_grad()
def test_googlenets_maps_are_torchvisions():
    """The same weights give the same maps, once torchvision's first padding is FCN's."""
    torch.manual_seed(0)
    reference = GoogLeNet(num_classes=2, aux_logits=False, init_weights=False).eval()
    reference.conv1.conv.padding = (100, 100)
    trunk = GoogLeNetTrunk(3).eval()
    trunk.net.load_state_dict({n: v for n, v in reference.state_dict().items() if not n.startswith("fc.")})
    image = torch.randn(1, 3, 21, 10)
    maps = trunk(image)
    parts = list(reference.children())[:-3]  # without pool, dropout and linear layer
    for name, part in zip((name for name, _ in reference.named_children()), parts):
        image = part(image)
        if name in maps:
            assert torch.equal(maps[name], image)
    assert torch.equal(maps["deep"], image)
