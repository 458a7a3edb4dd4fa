"""DeepLab v3+: counts, where the decoder taps the encoder, what separable means, the output strides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.encoders import create_encoder
from perpixel.errors import InputError
from perpixel.models import DeepLabV3Plus, create_model
from perpixel.models.deeplab_v3_plus import CARD
from perpixel.models.dilated_encoder import feature_at

SMALL = {"encoder": "resnet18", "channels": 8}


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(counted):
    with torch.device("meta"):
        model = create_model(
            "deeplab_v3_plus", in_channels=counted.in_channels, num_classes=counted.num_classes, **counted.options
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected


def test_the_count_is_deeplab_v3_s_and_the_decoder():
    low, first, second = 256 * 48 + 2 * 48, 9 * (256 + 48) * 256 + 2 * 256, 9 * 256 * 256 + 2 * 256
    assert CARD.counts[0].expected == 58_040_661 + low + first + second


@pytest.mark.parametrize(
    ("encoder", "index", "channels"),
    [("resnet18", 1, 64), ("convnext_atto", 0, 40), ("mobilenetv3_small_050", 1, 8), ("mobilenet_v3_small", 1, 16)],
)
def test_the_low_level_tap_is_asked_for_by_stride(encoder, index, channels):
    model = DeepLabV3Plus(encoder=encoder, channels=8)
    assert (model.low_index, model.low.conv.in_channels) == (index, channels)
    assert model.encoder.strides[index] == 4


def test_the_decoder_concatenates_the_pyramid_and_the_48_channels():
    model = DeepLabV3Plus(**SMALL).eval()
    seen = {}
    for name in ("neck", "low", "decoder"):
        model.get_submodule(name).register_forward_hook(
            lambda part, args, output, name=name: seen.update({name: (args[0].detach(), output.detach())})
        )
    model(torch.randn(1, 3, 64, 96))
    assert seen["neck"][1].shape == (1, 8, 4, 6)
    assert seen["low"][1].shape == (1, 48, 16, 24)
    joined = seen["decoder"][0]
    assert joined.shape == (1, 8 + 48, 16, 24)
    assert torch.equal(joined[:, 8:], seen["low"][1])
    corners = joined[:, :8, [0, 0, -1, -1], [0, -1, 0, -1]]  # corners lie on corners
    assert torch.allclose(corners, seen["neck"][1][:, :, [0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-6)


def test_separable_convolutions_stand_in_pyramid_and_decoder():
    dense, separable = DeepLabV3Plus(**SMALL), DeepLabV3Plus(**SMALL, separable=True)

    def depthwise(model: nn.Module) -> int:
        return sum(isinstance(part, nn.Conv2d) and part.groups > 1 for part in model.modules())

    assert (depthwise(dense), depthwise(separable)) == (0, 5)
    assert list(dict(separable.decoder.conv1.depthwise.named_children())) == ["conv", "norm", "act"]
    smp = DeepLabV3Plus(**SMALL, head="smp", separable=True)
    assert depthwise(smp) == 5  # three in the pyramid, one behind it, one in the decoder
    assert isinstance(smp.neck.refine.depthwise, nn.Conv2d)
    assert (smp.rates, len(smp.decoder)) == ([12, 24, 36], 1)


@torch.no_grad()
def test_weights_move_between_output_strides():
    model = DeepLabV3Plus(**SMALL, separable=True).eval()
    finer = model.with_output_stride(8)
    assert (finer.rates, finer.encoder.strides[-1]) == ([12, 24, 36], 8)
    mine, theirs = model.state_dict(), finer.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    image = torch.randn(1, 3, 33, 50)
    assert finer(image).shape == model(image).shape
    assert not torch.allclose(finer(image), model(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "x"}, "option head='x' of deeplab_v3_plus: choose 'paper' or 'smp'"),
        ({"output_stride": None}, "give a whole number"),
        ({"output_stride": 4}, "option output_stride=4"),
        ({"low_channels": 0}, "option low_channels=0"),
        ({"dropout": -1.0}, r"option dropout=-1\.0"),
        ({"encoder": "convnext_atto", "multi_grid": [1, 2, 4]}, r"option multi_grid=\[1, 2, 4\] of deeplab_v3_plus"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        create_model("deeplab_v3_plus", **SMALL | options)


def test_an_encoder_without_the_stride_is_refused():
    encoder = create_encoder("resnet18", output_stride=8)
    assert feature_at(encoder, 8, "deeplab_v3_plus") == 3  # the deepest but the last
    with pytest.raises(InputError, match=r"x needs a feature at stride 16, encoder 'resnet18' gives strides \[2, 4, 8"):
        feature_at(encoder, 16, "x")
