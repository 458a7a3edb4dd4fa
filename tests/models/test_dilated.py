"""Dilated front end and context: geometry of unpadded layers, torchvision's VGG16, identity start, fields of view."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from perpixel.errors import InputError
from perpixel.layers import conv_size, mirror_to, pool_size
from perpixel.models import create_model
from perpixel.models.dilated import (
    CARD,
    CONTEXT_DILATIONS,
    Context,
    DilatedNet,
    FrontEndTrunk,
    grid_of_scores,
    identity_,
    margin_of,
)
from perpixel.models.fcn_trunks import IMAGE_GRID, Grid

SMALL = {"fc_channels": 8}


def on_meta(**options) -> nn.Module:
    with torch.device("meta"):
        return create_model("dilated", **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"context": "none"}, 134_346_581),
        ({}, 134_346_581 + 28_392),
        ({"context": "large"}, 134_346_581 + 6_803_139),
        ({"context_layers": 7}, 134_346_581 + 6 * (21 * 21 * 9 + 21) + 21 * 22),
        ({"context_layers": 10}, 134_346_581 + 9 * (21 * 21 * 9 + 21) + 21 * 22),
    ],
)
def test_published_parameter_counts(options, expected):
    assert count(on_meta(**options)) == expected


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda counted: counted.label)
def test_counts_of_the_card(counted):
    assert count(on_meta(num_classes=counted.num_classes, **counted.options)) == counted.expected


def test_scores_lie_in_the_middle_of_their_eight_pixels():
    """Stated once as arithmetic, once more over the layers that are really built."""
    assert grid_of_scores() == Grid(189.5, 8)
    assert margin_of(grid_of_scores()) == 186
    model, grid = on_meta(), IMAGE_GRID
    for part in [*model.trunk.modules(), *model.head.modules(), model.score]:
        if isinstance(part, nn.Conv2d):
            reach = 1 + part.dilation[0] * (part.kernel_size[0] - 1)
            grid = grid.after((reach, part.stride[0], part.padding[0]))
        elif isinstance(part, nn.MaxPool2d):
            grid = grid.after((part.kernel_size, part.stride, part.padding))
    assert grid == Grid(189.5, 8)


def test_native_sizes_are_8k_plus_372():
    """900 gives 66 in the release; every pool meets an even size."""
    for cells in range(1, 80):
        side = 8 * cells + 372
        for convs in (2, 2, 3):
            side -= 2 * convs
            assert side % 2 == 0
            side = pool_size(side, 2, 2)
        for dilation in (1, 1, 1, 2, 2, 2):
            side = conv_size(side, 3, dilation=dilation)
        assert side == cells + 24
        assert conv_size(side, 7, dilation=4) == cells
    with torch.device("meta"):
        model = create_model("dilated")
        assert model.head(model.trunk(torch.empty(1, 3, 900, 900))).shape == (1, 4096, 66, 66)


def test_width_scales_every_block():
    convs = [part for part in FrontEndTrunk(1, width=4).modules() if isinstance(part, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [4, 4, 8, 8, 16, 16, 16] + [32] * 6
    with pytest.raises(InputError, match="option width=4 of dilated with weights"):
        DilatedNet(width=4, weights="imagenet", **SMALL)


def test_no_layer_of_the_front_end_is_padded_and_two_pools_are_gone():
    trunk = on_meta().trunk
    assert all(part.padding == (0, 0) for part in trunk.modules() if isinstance(part, nn.Conv2d))
    assert sum(isinstance(part, nn.MaxPool2d) for part in trunk.modules()) == 3
    assert [part.dilation[0] for part in trunk.conv5 if isinstance(part, nn.Conv2d)] == [2, 2, 2]


class Sampler(nn.Module):
    """In place of the front end: the image where the cells lie, half way between two pixels on each axis."""

    def forward(self, framed: Tensor) -> Tensor:
        self.shape = framed.shape[-2:]
        rows = (framed[..., 189:-186:8, :] + framed[..., 190:-185:8, :]) / 2
        return (rows[..., 189:-186:8] + rows[..., 190:-185:8]) / 2


def sampling() -> DilatedNet:
    model = DilatedNet(1, 1, context="none", **SMALL).eval()
    model.trunk, model.head, model.score = Sampler(), nn.Sequential(), nn.Identity()
    return model


@pytest.mark.parametrize("size", [(40, 29), (64, 64), (17, 50)])
def test_logits_lie_where_the_scores_came_from(size):
    """Interpolation keeps a ramp as it is: between the first and the last cell it comes back exactly."""
    height, width = size
    ramp = torch.arange(height)[:, None] * 3.0 + torch.arange(width)[None]
    logits = sampling()(ramp[None, None])
    inside = (slice(4, height // 8 * 8 - 4), slice(4, width // 8 * 8 - 4))
    assert torch.allclose(logits[0, 0][inside], ramp[inside], atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (8, 9), (400, 3)])
def test_images_of_any_size_are_mirrored_to_a_native_size(size):
    model = sampling()
    assert model(torch.zeros(2, 1, *size)).shape == (2, 1, *size)
    assert all(side % 8 == 372 % 8 and side >= 380 for side in model.trunk.shape)


@torch.no_grad()
def test_trunk_is_torchvisions_vgg16():
    """The same weights give the same maps, once torchvision's network is unpadded, unpooled and dilated."""
    torch.manual_seed(0)
    reference = make_layers(cfgs["D"]).eval()
    for index, part in enumerate(reference):
        if isinstance(part, nn.Conv2d):
            part.padding = (0, 0)
            part.dilation = (2, 2) if index >= 24 else (1, 1)
    reference[23], reference[30] = nn.Identity(), nn.Identity()
    trunk = FrontEndTrunk(3).eval()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), reference.state_dict().values(), strict=True)))
    image = torch.randn(1, 3, 196, 204)
    maps = trunk(image)
    assert maps.shape == (1, 512, 2, 3)
    assert torch.allclose(maps, reference(image), atol=1e-5)


class Recorder(nn.Module):
    """In place of a part that takes seconds: gives what it gave before, and keeps what it was given."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor) -> Tensor:
        self.image = image
        return self.answer


@torch.no_grad()
def test_the_whole_is_the_papers_figure_wired_by_hand():
    torch.manual_seed(0)
    model = DilatedNet(2, 3, **SMALL).eval()
    nn.init.normal_(model.score.weight)
    image = torch.randn(1, 2, 5, 12)
    maps = torch.rand(1, 512, 1 + 24, 2 + 24)
    model.trunk = Recorder(maps)
    scores = model.score(model.head.fc7(model.head.fc6(maps).relu()).relu())
    assert scores.shape == (1, 3, 1, 2)
    for layer, dilation in zip(model.context.layers, (1, 1, 2, 4, 8, 16, 1), strict=True):
        conv = layer.conv
        scores = nn.functional.conv2d(scores, conv.weight, conv.bias, padding=dilation, dilation=dilation).relu()
    scores = model.context.final(scores)
    up = nn.functional.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)
    assert scores.any()
    assert torch.allclose(model(image), up[..., :5, :12], atol=1e-5)
    assert torch.equal(model.trunk.image, mirror_to(image, (8 + 372, 16 + 372), 186))


@torch.no_grad()
@pytest.mark.parametrize("layers", [7, 8, 10])
@pytest.mark.parametrize("kind", ["basic", "large"])
def test_context_starts_as_the_identity_on_what_is_not_negative(kind, layers):
    context = Context(3, kind, layers, noise=0.0)
    scores = torch.rand(2, 3, 9, 7)
    assert torch.allclose(context(scores), scores, atol=1e-6)
    assert not torch.allclose(context(scores - 0.5), scores - 0.5, atol=0.1)  # ReLU clips


@torch.no_grad()
def test_noise_sets_equal_channels_apart_and_hardly_moves_the_scores():
    torch.manual_seed(0)
    scores = torch.rand(1, 21, 12, 12)
    exact, noisy = Context(21, "basic"), Context(21, "large")
    assert torch.equal(exact(scores), scores)
    assert 1e-4 < (noisy(scores) - scores).abs().mean() < 0.1
    assert not torch.equal(noisy.layers[0].conv.weight[0], noisy.layers[0].conv.weight[1])


@torch.no_grad()
def test_identity_by_hand():
    conv = nn.Conv2d(2, 4, 3)
    identity_(conv, 2)
    assert conv.weight[:, :, 1, 1].tolist() == [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]]
    assert conv.weight.count_nonzero() == 4 and not conv.bias.any()
    shrinking = nn.Conv2d(4, 2, 1)
    identity_(shrinking, 2)
    assert shrinking.weight[:, :, 0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_widths_of_the_large_context():
    with torch.device("meta"):
        widths = {layers: [layer.conv.out_channels for layer in Context(1, "large", layers).layers]
                  for layers in CONTEXT_DILATIONS}  # fmt: skip
    assert widths[8] == [2, 2, 4, 8, 16, 32, 32]
    assert widths[7] == [2, 2, 4, 8, 16, 16]
    assert widths[10] == [2, 2, 4, 8, 16, 32, 32, 32, 32]


@torch.no_grad()
@pytest.mark.parametrize(("layers", "field"), [(8, 67), (7, 35), (10, 259)])
def test_receptive_field_of_the_context(layers, field):
    """One bright cell, weights of one: it shows in a square of exactly this side, and nowhere else."""
    context = Context(1, "basic", layers)
    for parameter in context.parameters():
        parameter.fill_(1.0 if parameter.ndim == 4 else 0.0)
    impulse = torch.zeros(1, 1, 271, 271)
    impulse[..., 135, 135] = 1
    rows, cols = context(impulse)[0, 0].nonzero().T
    assert [rows.min(), rows.max(), cols.min(), cols.max()] == [135 - field // 2, 135 + field // 2] * 2
    assert len(rows) == field**2


def test_start_of_the_front_end():
    torch.manual_seed(0)
    model = DilatedNet(1, 3, fc_channels=1000)
    assert model.score.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert (model.score.bias == 3).all()  # above the context's ReLUs
    assert model.trunk.conv1.conv1_2.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


@torch.no_grad()
def test_the_classifiers_weights_become_fc6_and_fc7(tmp_path):
    torch.manual_seed(0)
    with torch.device("meta"):
        net = VGG(nn.Sequential(), init_weights=False)
    net.features = make_layers(cfgs["D"])
    net.classifier = nn.Sequential(nn.Linear(512 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU())
    torch.save(net.state_dict(), tmp_path / "vgg16.pth")
    model = DilatedNet(3, 2, weights=tmp_path / "vgg16.pth", **SMALL).eval()
    maps = torch.randn(1, 512, 7, 7)
    spread = torch.zeros(1, 512, 25, 25)
    spread[..., ::4, ::4] = maps  # where the taps of dilation 4 lie
    assert torch.allclose(model.head(spread)[..., 0, 0], net.classifier.eval()(maps.flatten(1)), atol=1e-5)
    assert torch.equal(model.trunk.conv5.conv5_3.weight, net.features[28].weight)
    with pytest.raises(InputError, match=r"'classifier.*weight' has 8 channels, fc6 of the model 9"):
        DilatedNet(3, 2, weights=tmp_path / "vgg16.pth", fc_channels=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "small"}, "option context='small' of dilated: choose 'basic', 'large' or 'none'"),
        ({"context": "none", "context_layers": 7}, "option context_layers=7 of dilated with context='none'"),
        ({"context_layers": 9}, "option context_layers=9 of dilated: choose 8, 10"),
        ({"fc_channels": 0}, "option fc_channels=0"),
        ({"width": 0}, "option width=0 of dilated"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("dilated", **{**SMALL, **options})
