"""U-Net++: exact counts, the order of concatenation, pruning, the modes of its heads, and backbones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import UNetPlusPlus, create_model, load_weights, save_weights
from perpixel.models.unet_plus_plus import CARD
from perpixel.models.unet_plus_plus_parts import mean_probs_as_logits


def on_meta(in_channels: int, num_classes: int, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model("unet_plus_plus", in_channels=in_channels, num_classes=num_classes, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(expected):
    assert count(on_meta(expected.in_channels, expected.num_classes, **expected.options)) == expected.expected


def test_counts_of_the_authors_code():
    assert [count(on_meta(1, 1, prune_level=level)) for level in (1, 2, 3, 4)] == [
        100_961,
        511_105,
        2_204_961,
        9_041_601,
    ]
    assert count(on_meta(1, 1)) == 9_041_601
    assert count(on_meta(1, 1, deep_supervision=True)) == 9_041_601 + 3 * (32 + 1)
    # Each of the 30 3x3 convolutions trades its bias for a scale and a shift.
    channels = 32 * 5 + 64 * 4 + 128 * 3 + 256 * 2 + 512
    assert count(on_meta(1, 1, norm=True)) == 9_041_601 + 2 * channels


def twin(image: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """U-Net++ wired by hand, node by node as the authors' code writes them; the logits of heads 1 to 4."""

    def convs(name: str, maps: Tensor) -> Tensor:
        for number in (0, 2):
            prefix = f"{name}.{number}.conv"
            maps = F.conv2d(maps, state[f"{prefix}.weight"], state[f"{prefix}.bias"], padding=1).relu()
        return maps

    def node(row: int, column: int, below: Tensor, *left: Tensor) -> Tensor:
        name = f"nodes.x{row}_{column}"
        up = F.conv_transpose2d(below, state[f"{name}.up.weight"], state[f"{name}.up.bias"], stride=2)
        up = F.pad(up, (0, left[0].shape[3] - up.shape[3], 0, left[0].shape[2] - up.shape[2]))
        return convs(f"{name}.convs", torch.cat([up, *left], 1))

    x00 = convs("encoder.stages.0", image)
    x10 = convs("encoder.stages.1", F.max_pool2d(x00, 2))
    x01 = node(0, 1, x10, x00)
    x20 = convs("encoder.stages.2", F.max_pool2d(x10, 2))
    x11 = node(1, 1, x20, x10)
    x02 = node(0, 2, x11, x00, x01)
    x30 = convs("encoder.stages.3", F.max_pool2d(x20, 2))
    x21 = node(2, 1, x30, x20)
    x12 = node(1, 2, x21, x10, x11)
    x03 = node(0, 3, x12, x00, x01, x02)
    x40 = convs("encoder.stages.4", F.max_pool2d(x30, 2))
    x31 = node(3, 1, x40, x30)
    x22 = node(2, 2, x31, x20, x21)
    x13 = node(1, 3, x22, x10, x11, x12)
    x04 = node(0, 4, x13, x00, x01, x02, x03)
    maps = {1: x01, 2: x02, 3: x03, 4: x04}
    return [
        F.conv2d(each, state[f"heads.{level}.weight"], state[f"heads.{level}.bias"]) for level, each in maps.items()
    ]


def small(**options) -> UNetPlusPlus:
    torch.manual_seed(0)
    return UNetPlusPlus(2, 3, **{"width": 4, "deep_supervision": True, "dropout": 0.0} | options)


@pytest.mark.parametrize("size", [(32, 48), (37, 53)])
def test_equals_a_hand_wired_twin(size):
    model = small().eval()
    image = torch.randn(2, 2, *size)
    with torch.no_grad():
        expected = twin(image, model.state_dict())
        for logits, each in zip(model.head_logits(image), expected, strict=True):
            torch.testing.assert_close(logits, each, atol=1e-5, rtol=1e-5)


def test_training_gives_the_deepest_head_first():
    model = small().train()
    image = torch.randn(1, 2, 32, 32)
    outputs = model(image)
    expected = twin(image, model.state_dict())[::-1]
    assert model.aux_weights == (1.0, 1.0, 1.0)
    assert len(outputs) == 4
    for logits, each in zip(outputs, expected):
        torch.testing.assert_close(logits, each, atol=1e-5, rtol=1e-5)
    assert isinstance(small(deep_supervision=False).train()(image), Tensor)
    assert small(deep_supervision=False).aux_weights == ()


@pytest.mark.parametrize("classes", [1, 3])
def test_accurate_mode_is_the_mean_of_the_probabilities(classes):
    torch.manual_seed(1)
    model = UNetPlusPlus(2, classes, width=4, deep_supervision=True).eval()
    image = torch.randn(1, 2, 20, 24)
    with torch.no_grad():
        heads, logits = model.head_logits(image), model(image)
    to_probs = (lambda each: each.sigmoid()) if classes == 1 else (lambda each: each.softmax(1))
    expected = torch.stack([to_probs(each) for each in heads]).mean(0)
    torch.testing.assert_close(to_probs(logits), expected)
    assert not torch.allclose(to_probs(heads[3]), expected, atol=1e-3)


def test_mean_of_extreme_logits_by_hand():
    sure, unsure = torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    mean = mean_probs_as_logits([sure, unsure])
    torch.testing.assert_close(mean.softmax(1).flatten(), torch.tensor([0.75, 0.25]))
    mean = mean_probs_as_logits([sure[:, :1], unsure[:, :1]])
    torch.testing.assert_close(mean.sigmoid().flatten(), torch.tensor([0.75]))


def test_fast_mode_is_the_last_head():
    model = small(mode="fast").eval()
    image = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(image), model.head_logits(image)[3])


@pytest.mark.parametrize("size", [(32, 48), (37, 53), (1, 1), (5, 19)])
@pytest.mark.parametrize("norm", [False, True])
def test_a_pruned_net_answers_bitwise_as_the_head_of_the_full_one(norm, size, tmp_path):
    full = small(norm=norm, dropout=None).eval()
    save_weights(full, tmp_path / "full.safetensors")
    image = torch.randn(1, 2, *size)
    with torch.no_grad():
        heads = full.head_logits(image)
        for level in (1, 2, 3, 4):
            pruned = UNetPlusPlus(2, 3, width=4, norm=norm, prune_level=level).eval()
            assert load_weights(pruned, tmp_path / "full.safetensors") == ()
            assert torch.equal(pruned(image), heads[level - 1])


def test_a_pruned_net_has_its_nodes_and_no_others():
    parts = on_meta(3, 2, prune_level=2).stages()
    assert list(parts) == ["x0_0", "x1_0", "x2_0", "x0_1", "x1_1", "x0_2", "head 2"]
    assert len(on_meta(3, 2, deep_supervision=True).stages()) == 15 + 4


def test_a_pruned_net_does_not_take_another_nets_weights(tmp_path):
    save_weights(small(deep_supervision=False), tmp_path / "one_head.safetensors")
    with pytest.raises(InputError, match=r"2 missing \(first 'heads\.2\.weight'\)"):
        load_weights(UNetPlusPlus(2, 3, width=4, prune_level=2), tmp_path / "one_head.safetensors")
    with pytest.raises(InputError, match="of another shape"):
        load_weights(UNetPlusPlus(2, 3, width=8, prune_level=4), tmp_path / "one_head.safetensors")
    pruned = UNetPlusPlus(2, 3, width=4, prune_level=4)
    load_weights(pruned, tmp_path / "one_head.safetensors")
    assert set(pruned.keep_own({"stranger": torch.zeros(1), "nodes.x9_9": torch.zeros(1)})) == {"stranger"}


def test_dropout_follows_every_convolution_of_the_paper():
    model = on_meta(1, 1)
    convs = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    drops = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    assert len(convs) == len(drops) == 30
    assert {part.p for part in drops} == {0.5}


# Backbones


def copy_from_smp(theirs: nn.Module, ours: UNetPlusPlus) -> None:
    """Weights of segmentation_models_pytorch's UnetPlusPlus; its rows stand newest first, ours oldest first."""
    ours.encoder.net.load_state_dict(theirs.encoder.state_dict())
    rows = len(ours.encoder.channels) - 1

    def copy_block(block: nn.Module, node: nn.Module, row_channels: int, columns: int) -> None:
        for mine, other in ((node.convs[0], block.conv1), (node.convs[2], block.conv2)):
            mine.conv.weight.copy_(other[0].weight)
            mine.norm.load_state_dict(other[1].state_dict())
        up = node.convs[0].conv.in_channels - row_channels * columns
        given = block.conv1[0].weight
        row = given[:, up:].unflatten(1, (columns, row_channels)).flip(1).flatten(1, 2) if columns else given[:, up:]
        node.convs[0].conv.weight.copy_(torch.cat([given[:, :up], row], 1))

    for name, node in ours.nodes.items():
        row, column = (int(each) for each in name[1:].split("_"))
        layer = rows - 1 - row
        block = theirs.decoder.blocks[f"x_{layer + 1 - column}_{layer}"]
        copy_block(block, node, ours.encoder.channels[row], column)
    copy_block(theirs.decoder.blocks[f"x_0_{rows}"], ours.final[0], 0, 0)
    ours.heads[str(rows)].load_state_dict(theirs.segmentation_head[0].state_dict())


@torch.no_grad()
def test_over_resnet18_it_is_the_net_of_segmentation_models():
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    options = {"decoder_channels": (24, 20, 16, 12, 8), "classes": 3}
    theirs = smp.UnetPlusPlus("resnet18", encoder_weights=None, **options).eval()
    theirs.segmentation_head[0] = nn.Conv2d(8, 3, 1)  # theirs is 3x3, the paper's 1x1
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    ours = UNetPlusPlus(3, 3, encoder="resnet18", up="nearest", decoder_channels=[24, 20, 16, 12, 8]).eval()
    copy_from_smp(theirs, ours)
    assert count(ours) == count(theirs)
    image = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "beyond"), [("resnet18", 1), ("convnext_atto", 2)])
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_over_an_encoder_the_size_is_the_images(name, beyond, up):
    model = UNetPlusPlus(3, 4, encoder=name, width=4, up=up, deep_supervision=True).eval()
    assert len(model.final) == beyond
    assert list(model.heads) == [str(level) for level in range(1, len(model.encoder.channels))]
    with torch.no_grad():
        for size in ((64, 32), (33, 70), (1, 1)):
            assert [each.shape for each in model.head_logits(torch.zeros(1, 3, *size))] == [(1, 4, *size)] * len(
                model.heads
            )


def test_over_an_encoder_norm_is_on_and_dropout_off_unless_said():
    default = UNetPlusPlus(3, 2, encoder="resnet18", width=2)
    assert hasattr(default.nodes["x0_1"].convs[0], "norm")
    assert default.nodes["x0_1"].convs[1].p == 0
    said = UNetPlusPlus(3, 2, encoder="resnet18", width=2, norm=False, dropout=0.25)
    assert not hasattr(said.nodes["x0_1"].convs[0], "norm")
    assert said.nodes["x0_1"].convs[1].p == 0.25
    ends = [UNetPlusPlus(3, 2, encoder="resnet18", width=4).nodes[f"x{row}_{4 - row}"].convs[2] for row in (3, 2, 1, 0)]
    assert [end.conv.out_channels for end in ends] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slow"}, "option mode='slow' of unet_plus_plus: choose one of 'accurate', 'fast'"),
        ({"up": "x"}, "option up='x' of unet_plus_plus: choose one of 'transposed', 'nearest', 'bilinear'"),
        ({"width": 0}, "option width=0"),
        ({"norm": "batch"}, "option norm='batch' of unet_plus_plus: give true, false or none"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
        ({"dropout": "much"}, "option dropout='much'"),
        ({"prune_level": 0}, "option prune_level=0 of unet_plus_plus: choose 1 to 4"),
        ({"prune_level": 5}, "option prune_level=5"),
        ({"prune_level": True}, "option prune_level=True"),
        ({"prune_level": 2, "deep_supervision": True}, "a pruned net has one head: train the full net"),
        (
            {"prune_level": 2, "encoder": "resnet18"},
            "option prune_level=2 .* over encoder 'resnet18': only the paper's",
        ),
        ({"weights": "imagenet"}, "weights and decoder_channels of unet_plus_plus need an encoder"),
        ({"decoder_channels": [8]}, "weights and decoder_channels of unet_plus_plus need an encoder"),
        ({"decoder_channels": [], "encoder": "resnet18"}, r"option decoder_channels=\[\]"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        UNetPlusPlus(3, 2, **options)
