"""FC-DenseNet: exact counts, widths of the stacks, what goes up and what is skipped, both ways to normalise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.errors import InputError
from perpixel.models import FCDenseNet, create_model, fc_densenet56
from perpixel.models.cards import CARDS
from perpixel.models.describe import describe
from perpixel.models.fc_densenet import DenseBlock, DenseNorm

SMALL = {"layers": [1, 2, 2, 1, 1], "growth": 3, "first_channels": 5}


def on_meta(name: str, num_classes: int = 11, **options) -> FCDenseNet:
    with torch.device("meta"):
        return create_model(name, num_classes=num_classes, **options)


@pytest.mark.parametrize(
    ("name", "trainable", "printed"),
    [
        ("fc_densenet56", 1_376_795, 1.398),
        ("fc_densenet67", 3_463_243, 3.503),
        ("fc_densenet103", 9_322_091, 9.425),
    ],
)
def test_published_parameter_counts(name, trainable, printed):
    """The paper's numbers count means and variances too."""
    model = on_meta(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(value.numel() for key, value in model.named_buffers() if "num_batches" not in key)
    assert parameters == trainable
    assert round((parameters + statistics) / 1e6, 3) == printed
    assert [count.expected for count in CARDS[name].counts] == [parameters, parameters + statistics]


def test_stacks_of_the_103_are_the_releases():
    model = on_meta("fc_densenet103")
    blocks = [*model.down, model.bottleneck, *model.up]
    assert [block.stack_channels for block in blocks] == [112, 192, 304, 464, 656, 896, 1088, 816, 576, 384, 256]
    assert [block.out_channels for block in model.up] == [192, 160, 112, 80, 256]
    assert model.bottleneck.out_channels == 240
    assert [(up.in_channels, up.out_channels) for up in model.transitions_up] == [
        (width, width) for width in (240, 192, 160, 112, 80)
    ]


def test_56_and_67_count_their_convolutions():
    for name, layers in (("fc_densenet56", 56), ("fc_densenet67", 67), ("fc_densenet103", 103)):
        convs = [part for part in on_meta(name).modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
        assert len(convs) == layers
        assert all(conv.bias is not None for conv in convs)


@torch.no_grad()
@pytest.mark.parametrize("keeps_input", [True, False])
def test_dense_block_by_hand(keeps_input):
    """Every layer sees the input and all maps made so far, in this order; new maps alone leave where asked."""
    torch.manual_seed(0)
    block = DenseBlock(2, 3, 2, keeps_input=keeps_input, dropout=0.2, bn_eval="running").eval()
    image = torch.randn(2, 2, 5, 4)
    stack = image
    for layer in block.layers:
        assert [name for name, _ in layer.named_children()] == ["norm", "act", "conv", "dropout"]
        new = F.conv2d(layer.norm(stack).relu(), layer.conv.weight, layer.conv.bias, padding=1)
        stack = torch.cat([stack, new], 1)
    expected = stack if keeps_input else stack[:, 2:]
    assert block(image).shape == (2, block.out_channels, 5, 4)
    assert torch.allclose(block(image), expected, atol=1e-6)


@torch.no_grad()
def test_it_is_the_papers_figure_wired_by_hand():
    torch.manual_seed(0)
    model = fc_densenet56(3, 4, **SMALL).eval()
    image = torch.randn(1, 3, 21, 34)  # 21 -> 10 -> 5 and back through 11 and 21: one crop and none
    first = model.down[0](model.first(image))
    second = model.down[1](F.max_pool2d(model.transitions_down[0].layer(first), 2))
    up = model.bottleneck(F.max_pool2d(model.transitions_down[1].layer(second), 2))
    assert up.shape[1] == 2 * 3
    up = model.transitions_up[0](up)[..., :10, :17]
    up = model.up[0](torch.cat([up, second], 1))
    assert up.shape[1] == 1 * 3
    up = model.transitions_up[1](up)[..., :21, :34]
    up = model.up[1](torch.cat([up, first], 1))
    expected = model.classifier(up)
    assert expected.shape == (1, 4, 21, 34)
    assert torch.allclose(model(image), expected, atol=1e-5)


@torch.no_grad()
def test_small_images_are_padded_with_zeros_at_the_end():
    torch.manual_seed(0)
    model = fc_densenet56(1, 2, **SMALL).eval()
    assert model.least == 8
    image = torch.randn(1, 1, 3, 9)
    padded = F.pad(image, (0, 0, 0, 5))
    assert torch.equal(model(image), model(padded)[..., :3, :])
    assert on_meta("fc_densenet56").least == 64


def test_dropout_drops_single_values():
    """Not whole maps, as some ports do; and not behind the first convolution or the classifier."""
    model = fc_densenet56(3, 2, **SMALL)
    drops = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    assert len(drops) == sum(SMALL["layers"]) + 2
    assert {drop.p for drop in drops} == {0.2}
    assert not [part for part in model.modules() if isinstance(part, nn.Dropout2d)]


def test_initial_weights_are_he_uniform():
    torch.manual_seed(0)
    model = fc_densenet56(3, 2, layers=[1, 1, 1], growth=16, first_channels=32)
    for conv in (model.down[0].layers[0].conv, model.transitions_up[0], model.classifier):
        fan = conv.weight[0].numel()
        assert conv.weight.abs().max() <= math.sqrt(6 / fan)
        if conv.weight.numel() > 1000:
            assert conv.weight.abs().max() > 0.98 * math.sqrt(6 / fan)
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.05)
        assert not conv.bias.any()


@torch.no_grad()
def test_batch_statistics_are_each_images_own():
    torch.manual_seed(0)
    norm = DenseNorm(3, "batch").eval()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    maps = 5 + 2 * torch.randn(2, 3, 4, 5)
    alone = F.batch_norm(maps[:1], None, None, norm.weight, norm.bias, training=True, eps=1e-4)
    assert torch.allclose(norm(maps)[:1], alone, atol=1e-5)
    assert not norm.running_mean.any()  # eval mode leaves them alone
    norm.train()(maps)
    assert norm.running_mean.all()


@torch.no_grad()
def test_both_ways_share_their_weights_and_differ():
    torch.manual_seed(0)
    running, batch = fc_densenet56(3, 2, **SMALL).eval(), fc_densenet56(3, 2, bn_eval="batch", **SMALL).eval()
    batch.load_state_dict(running.state_dict())
    image = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(running(image), batch(image), atol=1e-3)
    assert torch.allclose(batch(image), torch.cat([batch(image[:1]), batch(image[1:])]), atol=1e-5)
    assert batch(torch.zeros(1, 3, 1, 1)).shape == (1, 2, 1, 1)
    # What the model answers in training without dropout, with a batch of one.
    for part in batch.modules():
        if isinstance(part, DenseNorm):
            part.train()
    assert torch.allclose(batch(image[:1]), batch.eval()(image[:1]), atol=1e-5)


def test_size_of_the_paper_builds():
    rows = {row.name: row for row in describe(on_meta("fc_densenet103"), in_channels=3, size=(360, 480)).rows}
    assert (rows["bottleneck"].height, rows["bottleneck"].width) == (11, 15)
    assert (rows["transition up 1"].height, rows["dense up 1"].height) == (23, 22)
    assert (rows["classifier"].channels, rows["classifier"].height, rows["classifier"].width) == (11, 360, 480)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [4, 4]}, r"option layers=\[4, 4\] of fc_densenet: give an odd number of blocks"),
        ({"layers": [4, 0, 4]}, "option layers"),
        ({"layers": [4]}, "option layers"),
        ({"layers": 4}, "option layers=4"),
        ({"layers": [1.5, 1, 1]}, "option layers"),
        ({"growth": 0}, "option growth=0 of fc_densenet: it must be at least 1"),
        ({"first_channels": 0}, "option first_channels=0"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
        ({"bn_eval": "moving"}, "option bn_eval='moving' of fc_densenet: choose 'running' or 'batch'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("fc_densenet56", **options)
