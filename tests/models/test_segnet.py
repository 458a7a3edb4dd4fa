"""SegNet: counts, sizes of the release, places instead of skips, where dropout stands, VGG16 in the encoder."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import SegNet, bayesian_segnet, create_model, segnet, segnet_basic
from perpixel.models.card import Card
from perpixel.models.cards import CARDS
from perpixel.models.describe import describe

NAMES = ("segnet", "segnet_basic", "bayesian_segnet")


def on_meta(name: str, num_classes: int = 11, **options) -> SegNet:
    with torch.device("meta"):
        return create_model(name, num_classes=num_classes, **options)


def kinds(model: nn.Module, kind: type) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part, kind)]


@pytest.mark.parametrize("name", NAMES)
def test_published_parameter_counts(name):
    card: Card = CARDS[name]
    for count in card.counts:
        model = on_meta(name, count.num_classes, **count.options)
        assert sum(parameter.numel() for parameter in model.parameters()) == count.expected


@pytest.mark.parametrize(("name", "convs", "norms"), [("segnet", 26, 25), ("segnet_basic", 9, 8)])
def test_every_convolution_has_a_bias_and_all_but_the_last_a_norm(name, convs, norms):
    model = on_meta(name)
    assert len(kinds(model, nn.Conv2d)) == convs
    assert all(conv.bias is not None for conv in kinds(model, nn.Conv2d))
    assert len(kinds(model, nn.BatchNorm2d)) == norms


def test_channels_shrink_at_the_end_of_each_decoder_block():
    widths = [[conv.out_channels for conv in kinds(block, nn.Conv2d)] for block in on_meta("segnet").decoder]
    assert widths == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64]]


def test_sizes_of_the_release():
    """360x480 meets pools at 45, 23 rows; floor pools would lose rows there."""
    rows = {row.name: row for row in describe(on_meta("segnet"), in_channels=3, size=(360, 480)).rows}
    sizes = [(rows[f"encoder {number}"].height, rows[f"encoder {number}"].width) for number in range(1, 6)]
    assert sizes == [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]
    assert [(rows[f"decoder {number}"].height, rows[f"decoder {number}"].width) for number in range(1, 6)] == sizes
    assert [rows[f"decoder {number}"].stride for number in range(5, 0, -1)] == [16, 8, 4, 2, 1]


@torch.no_grad()
@pytest.mark.parametrize("size", [(45, 70), (32, 32), (3, 17)])
@pytest.mark.parametrize("build", [segnet, segnet_basic])
def test_it_is_the_papers_figure_in_torchs_own_pooling(build, size):
    torch.manual_seed(0)
    model = build(3, 4, width=4).eval()
    image = torch.randn(2, 3, *size)
    maps, pools = model.norm(image), []
    for block in model.encoder:
        maps = block(maps)
        before = maps.shape[-2:]
        maps, indices = F.max_pool2d(maps, 2, 2, ceil_mode=True, return_indices=True)
        pools.append((indices, before))
    for block in model.decoder:
        indices, before = pools.pop()
        maps = block(F.max_unpool2d(maps, indices, 2, 2, output_size=before))
    expected = model.classifier(maps)
    assert expected.shape == (2, 4, *size)
    assert torch.allclose(model(image), expected, atol=1e-5)


@torch.no_grad()
def test_logits_are_not_cut_at_zero():
    torch.manual_seed(0)
    for build in (segnet, segnet_basic):
        assert build(3, 8, width=4).eval()(torch.randn(1, 3, 32, 32)).min() < 0


@torch.no_grad()
def test_basic_normalises_the_image_as_the_release():
    """x / (1 + 1e-4 / 5 * sum of squares over five channels) ** 0.75, by hand on values of 0 to 255."""
    image = torch.tensor([200.0, 100.0, 50.0]).view(1, 3, 1, 1)
    scale = (1 + 1e-4 / 5 * (200.0**2 + 100.0**2 + 50.0**2)) ** 0.75
    assert torch.allclose(segnet_basic(3, 2, width=2).norm(image), image / scale)


def test_basic_has_relu_in_the_encoder_only_and_starts_as_the_release():
    model = segnet_basic(3, 2, width=2)
    assert all(kinds(block, nn.ReLU) for block in model.encoder)
    assert not kinds(model.decoder, nn.ReLU)
    assert all(torch.all(norm.bias == 0.001) for norm in kinds(model, nn.BatchNorm2d))
    assert all(conv.kernel_size == (7, 7) for conv in kinds(model, nn.Conv2d) if conv is not model.classifier)
    assert model.classifier.kernel_size == (1, 1)


def dropped_shapes(model: SegNet, image: Tensor) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    model.dropout.register_forward_hook(lambda part, args, output: shapes.append(tuple(output.shape[1:])))
    model.train()(image)
    return shapes


def test_dropout_stands_behind_the_central_blocks():
    """Behind pools 3, 4, 5 and decoder blocks 5, 4, 3, as in the release; of the basic net behind two and two."""
    image = torch.randn(2, 3, 64, 64)
    assert dropped_shapes(bayesian_segnet(3, 2, width=2), image) == [
        (8, 8, 8), (16, 4, 4), (16, 2, 2), (16, 4, 4), (8, 8, 8), (4, 16, 16),
    ]  # fmt: skip
    assert dropped_shapes(segnet_basic(3, 2, width=2, dropout=0.5), image) == [
        (2, 8, 8), (2, 4, 4), (2, 8, 8), (2, 16, 16),
    ]  # fmt: skip


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = bayesian_segnet(3, 2, width=4).eval()
    plain = segnet(3, 2, width=4).eval()
    plain.load_state_dict(model.state_dict())  # the same tensors: dropout has none
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(image), plain(image))
    model.dropout.train()
    assert not torch.equal(model(image), model(image))


@pytest.fixture(scope="module")
def vgg16_bn() -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    features = make_layers(cfgs["D"], batch_norm=True).eval()
    for part in kinds(features, nn.BatchNorm2d):
        nn.init.uniform_(part.running_mean, -0.1, 0.1)
        nn.init.uniform_(part.running_var, 0.5, 1.5)
    return features


def state_of(features: nn.Module) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in features.state_dict().items()}


@torch.no_grad()
def test_encoder_is_torchvisions_vgg16_bn(vgg16_bn, tmp_path):
    torch.save(state_of(vgg16_bn), tmp_path / "vgg16_bn.pth")
    model = segnet(3, 2, weights=tmp_path / "vgg16_bn.pth").eval()
    image = torch.randn(1, 3, 32, 64)
    maps = image
    for block in model.encoder:
        maps = F.max_pool2d(block(maps), 2)
    expected = vgg16_bn(image)
    assert expected.abs().max() > 1e-4
    assert torch.allclose(maps, expected, atol=1e-5)
    grey = segnet(1, 2, weights=tmp_path / "vgg16_bn.pth")
    first, theirs = kinds(grey, nn.Conv2d)[0], kinds(vgg16_bn, nn.Conv2d)[0]
    assert torch.allclose(first.weight[:, 0], theirs.weight.sum(1), atol=1e-6)


@torch.no_grad()
def test_plain_vgg16_fills_the_convolutions_as_in_the_paper(tmp_path):
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"])
    torch.save(state_of(features), tmp_path / "vgg16.pth")
    model = segnet(3, 2, weights=tmp_path / "vgg16.pth")
    mine, theirs = kinds(model.encoder, nn.Conv2d), kinds(features, nn.Conv2d)
    assert all(torch.equal(own.weight, other.weight) for own, other in zip(mine, theirs, strict=True))
    assert all(torch.equal(own.bias, other.bias) for own, other in zip(mine, theirs, strict=True))
    assert all(torch.all(norm.running_var == 1) for norm in kinds(model, nn.BatchNorm2d))


def test_weights_that_do_not_fit_are_named(vgg16_bn, tmp_path):
    state = state_of(vgg16_bn)
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: has 0 convolutions and 0 normalisations .* VGG16 has 13 and 0"):
        segnet(3, 2, weights=tmp_path / "other.pth")
    torch.save(
        {name: value for name, value in state.items() if name != "features.1.running_var"}, tmp_path / "less.pth"
    )
    with pytest.raises(InputError, match=r"less\.pth: a layer lacks a running_var where VGG16 has one of \(64,\)"):
        segnet(3, 2, weights=tmp_path / "less.pth")
    torch.save(state | {"features.3.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "thin.pth")
    with pytest.raises(
        InputError, match=r"a layer has a weight of \(64, 32, 3, 3\) where VGG16 has one of \(64, 64, 3"
    ):
        segnet(3, 2, weights=tmp_path / "thin.pth")
    with pytest.raises(InputError, match=r"option width=8 of segnet with weights='imagenet': VGG16 is 64 wide"):
        segnet(3, 2, width=8, weights="imagenet")


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (segnet, {"width": 0}, "option width=0 of segnet: it must be at least 1"),
        (bayesian_segnet, {"dropout": 1.0}, r"option dropout=1\.0 of segnet"),
        (segnet_basic, {"dropout": -0.5}, r"option dropout=-0\.5 of segnet"),
        (segnet_basic, {"width": -1}, "option width=-1 of segnet"),
    ],
)
def test_mistakes_are_named(build, options, message):
    with pytest.raises(InputError, match=message):
        build(3, 2, **options)
