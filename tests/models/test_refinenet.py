"""RefineNet: counts of the release, units that keep their input, chained pooling, fusion at the larger size."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import RefineNet, create_model
from perpixel.models.refinenet import CARD, ChainedPooling, Fusion, RefineNetBlock, ResidualUnit
from perpixel.models.taps import taps

SMALL = {"encoder": "resnet18", "width": 4}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def identity_(conv: nn.Conv2d, factor: float = 1.0) -> None:
    """Make a convolution multiply by `factor`."""
    nn.init.dirac_(conv.weight)
    conv.weight.data.mul_(factor)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def spike(size: int = 17) -> Tensor:
    maps = torch.zeros(1, 1, size, size)
    maps[..., size // 2, size // 2] = 1
    return maps


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_parameter_counts(expected):
    with torch.device("meta"):
        model = create_model("refinenet", num_classes=expected.num_classes, **expected.options)
    assert count(model) == expected.expected


def test_the_count_by_hand():
    """Trunk 42,500,160; then 3x3 convolutions everywhere, the second one of a unit and all others without bias."""
    with torch.device("meta"):
        model = RefineNet()
    unit = {width: 2 * 9 * width**2 + width for width in (256, 512)}
    reduce = 9 * (2048 * 512 + 1024 * 256 + 512 * 256 + 256 * 256)
    units = 5 * (unit[512] + 3 * unit[256])
    pools = 4 * 9 * (512**2 + 3 * 256**2)
    fusions = 9 * (512 * 256 + 5 * 256 * 256)
    assert count(model.blocks) == reduce + units + pools + fusions
    assert count(model.score) == 9 * 256 * 21 + 21
    assert count(model) == 42_500_160 + count(model.blocks) + count(model.score) == 118_052_437
    assert [block.out_channels for block in model.blocks] == [512, 256, 256, 256]
    assert model.blocks[0].fusion is None


def test_deepest_resnet_of_the_paper_builds():
    with torch.device("meta"):
        assert RefineNet(encoder="resnet152").encoder.strides == [2, 4, 8, 16, 32]


@torch.no_grad()
def test_a_unit_keeps_its_input_and_adds_what_lies_below_zero():
    unit = ResidualUnit(2)
    for conv in (unit.conv1, unit.conv2):
        nn.init.zeros_(conv.weight)
    unit.conv1.bias.zero_()
    maps = torch.randn(1, 2, 5, 5)
    before = maps.clone()
    assert torch.equal(unit(maps), before)
    assert torch.equal(maps, before)
    identity_(unit.conv1)
    identity_(unit.conv2)
    assert torch.equal(unit(maps), before + before.relu())


@torch.no_grad()
@pytest.mark.parametrize("conv_first", [False, True])
def test_pooling_is_a_chain(conv_first):
    """One bright cell spreads over 5, then 9, then 13 cells: parallel pools would stop at 5."""
    pooling = ChainedPooling(1, 3, conv_first=conv_first)
    for conv in pooling.convs:
        identity_(conv)
    line = pooling(spike())[0, 0, 8]
    assert line.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 3, 3, 2, 2, 1, 1, 0, 0]


@torch.no_grad()
def test_order_of_pool_and_convolution():
    """Negated behind the pool a bright cell is a dark square; negated before it, the pool passes it over."""
    paper, improved = ChainedPooling(1, 1), ChainedPooling(1, 1, conv_first=True)
    for pooling in (paper, improved):
        identity_(pooling.convs[0], -1)
    assert paper(spike()).sum() == 1 - 25
    assert torch.equal(improved(spike()), spike())
    small = {**SMALL, "poolings": 2}
    assert [block.pooling.conv_first for block in RefineNet(**small, improved_pooling=True).blocks] == [True] * 4
    assert [block.pooling.conv_first for block in RefineNet(**small).blocks] == [False] * 4


@torch.no_grad()
@pytest.mark.parametrize("is_reversed", [False, True])
def test_fusion_brings_every_path_to_the_largest_size(is_reversed):
    paths = [torch.randn(1, 3, 3, 2), torch.randn(1, 2, 6, 5)]
    if is_reversed:
        paths.reverse()
    fusion = Fusion([path.shape[1] for path in paths], 2)
    fused = fusion(paths)
    expected = sum(
        F.interpolate(conv(path), (6, 5), mode="bilinear", align_corners=True)
        for conv, path in zip(fusion.convs, paths)
    )
    assert fused.shape == (1, 2, 6, 5)
    assert torch.allclose(fused, expected, atol=1e-6)


@torch.no_grad()
def test_a_block_rectifies_once_before_its_pooling():
    block = RefineNetBlock(1, 1, 0, poolings=1, output_units=0, conv_first=False)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    identity_(block.reduce)
    maps = torch.randn(1, 1, 4, 4)
    assert torch.equal(block(maps, None), maps.relu())


@torch.no_grad()
def test_blocks_climb_from_the_coarsest_tap():
    torch.manual_seed(0)
    model = RefineNet(3, 2, **SMALL).eval()
    image = torch.randn(1, 3, 70, 45)
    features = model.encoder(image)
    maps = model.blocks[0](features[4], None)
    for number, tap in ((1, 3), (2, 2), (3, 1)):
        block = model.blocks[number]
        own = block.input_units(block.reduce(features[tap]))
        coarser = block.fusion.convs[0](maps)
        own = block.fusion.convs[1](own) + F.interpolate(coarser, own.shape[2:], mode="bilinear", align_corners=True)
        maps = block.output_units(block.pooling(own.relu()))
    assert maps.shape[2:] == (18, 12)
    expected = F.interpolate(model.score(maps), (70, 45), mode="bilinear", align_corners=True)
    assert torch.allclose(model(image), expected, atol=1e-6)


def test_new_layers_start_from_normal_hundredths():
    torch.manual_seed(0)
    model = RefineNet(3, 2, encoder="resnet18", width=32)
    weights = torch.cat(
        [parameter.flatten() for name, parameter in model.blocks.named_parameters() if "weight" in name]
    )
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)
    assert not any(parameter.any() for name, parameter in model.blocks.named_parameters() if "bias" in name)
    assert sum(isinstance(part, nn.Dropout) for part in model.modules()) == 1


@torch.no_grad()
def test_enlarged_images_come_back_at_their_size():
    model = RefineNet(3, 2, **SMALL, enlarge=1.2).eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda part, args: seen.append(tuple(args[0].shape[2:])))
    assert model(torch.zeros(1, 3, 50, 35)).shape == (1, 2, 50, 35)
    assert seen == [(60, 42)]


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["convnext_atto", "mobilenetv3_small_050"])
def test_other_encoders(encoder):
    model = RefineNet(1, 2, encoder=encoder, width=4, poolings=1, output_units=1).eval()
    assert [model.encoder.strides[tap] for tap in model.taps] == [32, 16, 8, 4]
    assert model(torch.zeros(1, 1, 37, 50)).shape == (1, 2, 37, 50)


def test_taps_are_the_last_feature_of_each_stride():
    encoder = SimpleNamespace(name="some", strides=[2, 4, 8, 16, 16, 32])
    assert taps(encoder, "refinenet") == [5, 4, 2, 1]
    gap = SimpleNamespace(name="some", strides=[4, 16, 32])
    with pytest.raises(InputError, match=r"refinenet needs features at every stride from 4 on, encoder 'some' gives"):
        taps(gap, "refinenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of refinenet"),
        ({"poolings": 0}, "option poolings=0 of refinenet: the paper has 2, the release 4"),
        ({"output_units": -1}, "option output_units=-1"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
        ({"enlarge": 0.5}, r"option enlarge=0\.5 of refinenet: choose a factor from 1 to 4"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        RefineNet(3, 2, **{**SMALL, **options})
