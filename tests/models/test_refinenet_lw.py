"""Light-weight RefineNet: published counts, 1x1 convolutions only, both decoders wired by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import LightWeightRefineNet, create_model
from perpixel.models.refinenet_lw import CARD


def up(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_published_parameter_counts(expected):
    with torch.device("meta"):
        model = create_model("refinenet_lw", num_classes=expected.num_classes, **expected.options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == expected.expected
    digits = len(expected.printed.rpartition(".")[2]) - 1 if "." in expected.printed else 0
    assert f"{parameters / 1e6:.{digits}f}M" == expected.printed


def test_the_decoder_by_hand():
    """Over ResNet-50: reductions, four 1x1 a chain, three ways down, three adaptations, the 3x3 classifier."""
    with torch.device("meta"):
        model = LightWeightRefineNet()
    reduce = 2048 * 512 + (1024 + 512 + 256) * 256
    pools = 4 * (512**2 + 3 * 256**2)
    lower = 512 * 256 + 2 * 256**2
    adapt = 3 * 256**2
    assert sum(each.numel() for each in model.blocks.parameters()) == reduce + pools + lower + adapt
    kernels = {part.kernel_size for part in model.blocks.modules() if isinstance(part, nn.Conv2d)}
    assert kernels == {(1, 1)}
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.blocks.modules())


@torch.no_grad()
def test_decoder_over_a_resnet():
    torch.manual_seed(0)
    model = LightWeightRefineNet(3, 2, encoder="resnet18", width=4).eval()
    image = torch.randn(1, 3, 70, 45)
    features = model.encoder(image)
    first = model.blocks[0]
    maps = first.pooling(first.reduce[0](features[4]).relu())
    assert maps.shape[1] == 8
    for block, tap in zip(model.blocks[1:], (3, 2, 1)):
        own = block.adapt(block.reduce[0](features[tap]))
        maps = block.pooling((own + up(block.lower(maps), own)).relu())
    assert torch.allclose(model(image), up(model.score(maps), image), atol=1e-6)


@torch.no_grad()
def test_decoder_over_mobilenet_sums_both_taps_of_a_stride():
    torch.manual_seed(0)
    model = LightWeightRefineNet(3, 2, encoder="mobilenetv2", width=4).eval()
    image = torch.randn(1, 3, 70, 45)
    features = dict(zip((16, 24, 32, 64, 96, 160, 320), model.encoder(image), strict=True))
    maps = None
    for block, channels in zip(model.blocks, ((160, 320), (64, 96), (32,), (24,)), strict=True):
        own = sum(reduce(features[each]) for reduce, each in zip(block.reduce, channels, strict=True))
        maps = block.pooling(F.relu6(own if maps is None else own + up(block.lower(maps), own)))
        assert isinstance(block.adapt, nn.Identity)
    assert torch.allclose(model(image), up(model.score(maps), image), atol=1e-6)


def test_activation_follows_the_release_unless_named():
    resnet = {"encoder": "resnet18", "width": 4}
    mobile = {"encoder": "mobilenetv2", "width": 4}
    assert LightWeightRefineNet(3, 2, **resnet).blocks[0].activation is F.relu
    assert LightWeightRefineNet(3, 2, **mobile).blocks[0].activation is F.relu6
    assert LightWeightRefineNet(3, 2, **resnet, activation="relu6").blocks[0].activation is F.relu6


def test_no_weight_of_mobilenets_last_convolution_is_left_unused():
    names = dict(LightWeightRefineNet(3, 2, encoder="mobilenetv2", width=4).named_parameters())
    assert not any("last" in name for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of refinenet_lw"),
        ({"activation": "gelu"}, "option activation='gelu' of refinenet_lw: choose 'relu', 'relu6' or None"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        LightWeightRefineNet(3, 2, **{"encoder": "resnet18", **options})
