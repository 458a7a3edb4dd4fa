"""DeepLab v3: counts, dilations at every output stride, the two heads, torchvision's network as twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.models import DeepLabV3, create_model
from perpixel.models.aspp import ImagePooling
from perpixel.models.deeplab_v3 import CARD, rescaled_rates

SMALL = {"encoder": "resnet18", "channels": 8}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(**options: Any) -> DeepLabV3:
    with torch.device("meta"):
        return DeepLabV3(**options)


def dilations(stage: nn.Module) -> list[int]:
    """Of every 3x3 convolution, in order."""
    convs = [part for part in stage.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert all(conv.padding == conv.dilation for conv in convs)
    return [conv.dilation[0] for conv in convs]


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(counted):
    with torch.device("meta"):
        model = create_model(
            "deeplab_v3", in_channels=counted.in_channels, num_classes=counted.num_classes, **counted.options
        )
    assert count(model) == counted.expected


def test_the_count_is_the_arithmetic_of_the_paper_s_head():
    trunk = 42_500_160  # ResNet-101 without its classifier
    pyramid = 2 * (2048 * 256 + 2 * 256) + 3 * (9 * 2048 * 256 + 2 * 256) + 5 * 256 * 256 + 2 * 256
    assert count(on_meta()) == trunk + pyramid + 256 * 21 + 21


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_output_stride_changes_dilations_only(output_stride):
    model = on_meta(encoder="resnet50", output_stride=output_stride)
    assert count(model) == count(on_meta(encoder="resnet50"))
    assert list(model.state_dict()) == list(on_meta(encoder="resnet50").state_dict())
    assert model.encoder.strides[-1] == output_stride
    unit = 32 // output_stride
    assert dilations(model.encoder.net.layer3) == [2 if output_stride == 8 else 1] * 6
    assert dilations(model.encoder.net.layer4) == [unit * factor for factor in (1, 2, 4)]
    assert dilations(model.neck) == [96 // output_stride * factor for factor in (1, 2, 3)]


def test_rates_of_the_paper():
    assert on_meta().rates == [6, 12, 18]
    assert on_meta(output_stride=8).rates == [12, 24, 36]


def test_the_cascade_doubles_its_dilation_at_every_block():
    model = on_meta(encoder="resnet50", cascaded=True)
    assert dilations(model.encoder.net.layer4) == [2, 4, 2]
    assert [dilations(block) for block in model.neck] == [[4, 8, 4], [8, 16, 8], [16, 32, 16]]
    assert [name for name, _ in model.neck.named_children()] == ["block5", "block6", "block7"]
    finer = on_meta(encoder="resnet50", cascaded=True, output_stride=8, multi_grid=[1])
    assert [dilations(block)[0] for block in finer.neck] == [8, 16, 32]
    assert all(unit.downsample is None for block in model.neck for unit in block)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"cascaded": True}, {"encoder": "mobilenetv3_small_050"}])
def test_weights_move_between_output_strides(options):
    torch.manual_seed(0)
    model = DeepLabV3(**SMALL | options).eval()
    finer = model.with_output_stride(8)
    assert (finer.output_stride, finer.rates, finer.training) == (8, [12, 24, 36], False)
    assert finer.encoder.strides[-1] == 8
    mine, theirs = model.state_dict(), finer.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    image = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(finer(image), model(image))
    assert torch.equal(finer.with_output_stride(16)(image), model(image))


def test_an_auxiliary_head_moves_along_on_a_resnet_and_is_refused_where_its_map_changes():
    model = DeepLabV3(**SMALL, aux=True)
    assert model.aux_head.conv.conv.in_channels == 256  # stage 3, at stride 16 here
    assert model.with_output_stride(8).aux_index == model.aux_index
    other = DeepLabV3(**SMALL | {"encoder": "mobilenetv3_small_050"}, aux=True)
    with pytest.raises(InputError, match="output_stride 8 of deeplab_v3 with aux=true and encoder 'mobilenetv3_small_"):
        other.with_output_stride(8)


@torch.no_grad()
def test_a_pyramid_sees_as_far_at_both_strides():
    """A smooth map sampled twice as densely, through the same weights with twice the rates: equal inside."""
    torch.manual_seed(0)
    coarse, fine = DeepLabV3(**SMALL).eval().neck.aspp, DeepLabV3(**SMALL, output_stride=8).eval().neck.aspp
    fine.load_state_dict(coarse.state_dict())
    dense = torch.randn(1, 512, 80, 80)
    for number in (1, 2, 3):
        sparse = coarse.branches[number](dense[..., ::2, ::2])
        assert torch.allclose(fine.branches[number](dense)[..., ::2, ::2], sparse, atol=1e-5)


def test_rates_that_cannot_be_halved_are_refused():
    assert rescaled_rates([12, 24], 8, 16, "x") == [6, 12]
    with pytest.raises(InputError, match=r"rates \[6, 12, 15\] of deeplab_v3 at output_stride 16 have no whole"):
        DeepLabV3(**SMALL, rates=[6, 12, 15]).with_output_stride(32)
    with pytest.raises(InputError, match="output_stride 4 of deeplab_v3"):
        DeepLabV3(**SMALL).with_output_stride(4)


@torch.no_grad()
def test_image_pooling_is_the_mean_everywhere():
    torch.manual_seed(0)
    pooling = ImagePooling(3, 4).eval()
    maps = torch.rand(2, 3, 5, 7)
    expected = (pooling.project.conv.weight[..., 0, 0] @ maps.mean((2, 3)).T).T.relu() / (1 + 1e-5) ** 0.5
    pooled = pooling(maps)
    assert pooled.shape == (2, 4, 5, 7)
    assert torch.allclose(pooled, expected[..., None, None].expand_as(pooled), atol=1e-5)


def test_a_batch_of_one_in_training_names_image_pooling():
    model = DeepLabV3(**SMALL).train()
    with pytest.raises(InputError, match="batch of 1: image pooling leaves batch normalisation one value per channel"):
        model(torch.zeros(1, 3, 64, 64))
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 21, 64, 64)
    assert DeepLabV3(**SMALL, cascaded=True).train()(torch.zeros(1, 3, 32, 32)).shape == (1, 21, 32, 32)


def test_the_auxiliary_head_stands_on_stage_3_and_acts_in_training_only():
    model = DeepLabV3(num_classes=4, **SMALL, head="torchvision", aux=True)
    assert model.aux_weights == (0.5,)
    assert model.aux_head.conv.conv.in_channels == 256
    main, aux = model.train()(torch.randn(2, 3, 33, 47))
    assert main.shape == aux.shape == (2, 4, 33, 47)
    assert isinstance(model.eval()(torch.randn(1, 3, 33, 47)), torch.Tensor)


def test_heads_say_what_goes_with_them():
    paper, theirs = on_meta(**SMALL), on_meta(**SMALL, head="torchvision")
    assert (paper.output_stride, paper.align_corners, paper.neck.aspp.dropout.p) == (16, True, 0.0)
    assert (theirs.output_stride, theirs.align_corners, theirs.neck.aspp.dropout.p) == (8, False, 0.5)
    assert dilations(theirs.encoder.net.layer4) == [2, 2, 4, 4]  # the first unit keeps stage 3's
    assert theirs.neck.refine.conv.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "x"}, "option head='x' of deeplab_v3: choose 'paper' or 'torchvision'"),
        ({"output_stride": 4}, "option output_stride=4"),
        ({"rates": []}, r"option rates=\[\] of deeplab_v3"),
        ({"rates": [6, 0]}, r"option rates=\[6, 0\]"),
        ({"channels": 0}, "option channels=0"),
        ({"dropout": 1.5}, r"option dropout=1\.5"),
        ({"cascaded": True, "head": "torchvision"}, "exclude each other"),
        ({"cascaded": True, "separable": True}, "option separable=true of deeplab_v3 with cascaded=true"),
        ({"cascaded": True, "dropout": 0.1}, r"option dropout=0\.1 of deeplab_v3 with cascaded=true"),
        ({"multi_grid": []}, r"multi_grid \(\) of encoder 'resnet18': give dilation factors"),
        ({"cascaded": True, "encoder": "convnext_atto"}, "blocks 5 to 7 copy a ResNet's last block"),
        ({"encoder": "convnext_atto", "multi_grid": [1, 2]}, r"option multi_grid=\[1, 2\] of deeplab_v3 with encoder"),
        ({"variant": None, "multi_grid": [1, 2]}, "variant=None: only the ResNets"),
        ({"encoder": "vgg11"}, "or output_stride=32"),
        ({"aux": True, "output_stride": 32, "encoder": "torchvision/resnet18", "depth": 2}, "unknown option 'depth'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("deeplab_v3", **SMALL | options)
