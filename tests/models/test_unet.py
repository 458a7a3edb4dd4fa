"""U-Net: published counts and sizes, an independent twin, odd sizes, and encoders."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import UNet, unet_valid
from perpixel.models.valid_sizes import ValidSizes

PAPER_PARAMETERS = 31_030_658


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(*arguments, **options) -> UNet:
    with torch.device("meta"):
        return UNet(*arguments, **options)


def test_published_parameter_counts():
    assert count(on_meta(1, 2, norm=False)) == PAPER_PARAMETERS
    assert count(on_meta(1, 2, norm=False, padding="valid")) == PAPER_PARAMETERS
    # The widespread port with batch norm and bias-free convolutions, transposed and bilinear.
    assert count(on_meta(3, 1)) == 31_037_633
    assert count(on_meta(3, 1, up="bilinear")) == 17_262_977


def test_23_convolutional_layers():
    layers = [each for each in on_meta(1, 2).modules() if isinstance(each, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 23


def twin(image: Tensor, state: dict[str, Tensor], *, padding: int) -> Tensor:
    """U-Net of depth 3 without norm, wired by hand from the paper's figure."""
    weights = list(state.values())

    def conv(maps: Tensor, pad: int = padding) -> Tensor:
        return F.conv2d(maps, weights.pop(0), weights.pop(0), padding=pad)

    def two(maps: Tensor) -> Tensor:
        return conv(conv(maps).relu()).relu()

    def up(maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, weights.pop(0), weights.pop(0), stride=2)

    def join(skip: Tensor, maps: Tensor) -> Tensor:
        rows, cols = skip.shape[2] - maps.shape[2], skip.shape[3] - maps.shape[3]
        if padding:
            return torch.cat([skip, F.pad(maps, (0, cols, 0, rows))], 1)
        skip = skip[:, :, rows // 2 : skip.shape[2] - rows // 2, cols // 2 : skip.shape[3] - cols // 2]
        return torch.cat([skip, maps], 1)

    first = two(image)
    second = two(F.max_pool2d(first, 2))
    deepest = two(F.max_pool2d(second, 2))
    maps = two(join(second, up(deepest)))
    maps = two(join(first, up(maps)))
    logits = conv(maps, 0)
    assert not weights
    return logits


@pytest.mark.parametrize(("padding", "size"), [("same", (16, 12)), ("same", (19, 13)), ("valid", (44, 48))])
def test_equals_a_hand_wired_twin(padding, size):
    torch.manual_seed(0)
    model = UNet(2, 3, width=4, depth=3, norm=False, padding=padding).eval()
    image = torch.randn(2, 2, *size)
    with torch.no_grad():
        expected = twin(image, model.state_dict(), padding=int(padding == "same"))
        assert torch.allclose(model(image), expected, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 5), st.sampled_from(["transposed", "bilinear"]))
def test_same_padding_returns_the_size_of_any_image(height, width, depth, up):
    model = UNet(1, 2, width=2, depth=depth, up=up).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, height, width)).shape == (1, 2, height, width)


def test_valid_sizes_of_the_paper():
    sizes = ValidSizes(pools=4)
    assert (sizes.multiple, sizes.offset, sizes.margin, sizes.smallest) == (16, 60, 92, 188)
    assert [sizes.fit(size) for size in (1, 188, 189, 205, 572, 573)] == [188, 188, 204, 220, 572, 588]


@pytest.mark.parametrize("pools", [1, 2, 3, 4])
def test_valid_sizes_are_those_that_work(pools):
    sizes = ValidSizes(pools)
    model = UNet(1, 1, width=1, depth=pools + 1, norm=False, padding="valid").eval()
    for height in range(sizes.smallest, sizes.smallest + 2 * sizes.multiple, max(1, sizes.multiple // 4)):
        image = torch.zeros(1, 1, height, sizes.smallest)
        if sizes.fit(height) == height:
            assert model(image).shape[2:] == (height - 2 * sizes.margin, sizes.smallest - 2 * sizes.margin)
        else:
            with pytest.raises(InputError, match=f"image height {height} does not fit"):
                model(image)
    below = sizes.smallest - sizes.multiple
    with pytest.raises(InputError, match=f"use {sizes.smallest}, mirroring"):
        model(torch.zeros(1, 1, below, sizes.smallest))


def test_the_papers_572_gives_388():
    model = unet_valid(1, 2, width=1).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 572, 188)).shape == (1, 2, 388, 4)
    assert model.margin == 92
    assert model.fit_size((500, 100)) == (508, 188)


def test_a_wrong_size_names_the_two_nearest():
    with pytest.raises(InputError, match=r"image width 571 .* sizes are 16m \+ 60 from 188 on: use 556 or 572"):
        unet_valid(1, 2, width=1)(torch.zeros(1, 1, 188, 571))


def test_valid_answers_shift_with_the_image_by_multiples_of_16():
    torch.manual_seed(1)
    model = unet_valid(1, 2, width=2).eval()
    image = torch.randn(1, 1, 188 + 16, 188)
    with torch.no_grad():
        whole, lower = model(image), model(image[..., 16:, :])
    assert torch.allclose(whole[..., 16:, :], lower, atol=1e-4 * whole.abs().max().item())


def test_same_and_valid_agree_in_the_middle():
    torch.manual_seed(2)
    valid = UNet(1, 2, width=2, depth=3, norm=False, padding="valid").eval()
    same = UNet(1, 2, width=2, depth=3, norm=False).eval()
    same.load_state_dict(valid.state_dict())
    image = torch.randn(1, 1, 132, 132)
    # The pools of both see the same pairs of pixels where the crop starts at 4 n + 2.
    crop, inside = slice(18, 18 + 92), slice(18 + valid.margin, 18 + 92 - valid.margin)
    with torch.no_grad():
        assert torch.allclose(same(image)[..., inside, inside], valid(image[..., crop, crop]), atol=1e-4)


def test_initial_weights_keep_the_size_of_the_signal():
    torch.manual_seed(0)
    model = UNet(1, 2, width=32, depth=2, norm=False)
    up = model.decoder[0].up
    assert up.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert model.encoder.stages[1][1].conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
@pytest.mark.parametrize(
    "options", [{}, {"head_stride": 2, "up": "bilinear"}, {"head_stride": 4, "final": "transposed"}]
)
def test_over_an_encoder_the_size_is_the_images(name, options):
    model = UNet(3, 4, encoder=name, width=8, **options).eval()
    with torch.no_grad():
        for size in ((64, 32), (33, 70), (1, 1)):
            assert model(torch.zeros(1, 3, *size)).shape == (1, 4, *size)


def test_an_encoder_of_any_size_is_not_padded():
    torch.manual_seed(0)
    model = UNet(3, 4, encoder="resnet18", variant="b", width=8, up="nearest", head_kernel=3).eval()
    with torch.no_grad():
        for size in ((64, 32), (33, 70), (1, 1)):
            assert model(torch.zeros(1, 3, *size)).shape == (1, 4, *size)
    sizes = []
    model.encoder.register_forward_hook(lambda module, args, output: sizes.append(tuple(args[0].shape[2:])))
    model(torch.zeros(1, 3, 33, 70))
    assert sizes == [(33, 70)]


def test_nearest_repeats_every_value():
    model = UNet(1, 2, width=4, depth=2, norm=False, up="nearest")
    assert model.encoder.channels == [4, 4]
    maps = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert model.decoder[0].up(maps)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_over_an_encoder_widths_scale_or_are_given():
    scaled = UNet(3, 4, encoder="resnet18", width=16)
    assert [stage.convs[1].conv.out_channels for stage in scaled.decoder] == [64, 32, 16, 8, 4]
    given_widths = UNet(3, 4, encoder="resnet18", decoder_channels=[20, 10], head_stride=4)
    assert [stage.convs[1].conv.out_channels for stage in given_widths.decoder] == [20, 10, 10]


def test_a_head_at_stride_2_is_its_stage_interpolated():
    torch.manual_seed(0)
    model = UNet(3, 4, encoder="resnet18", width=8, head_stride=2).eval()
    image = torch.randn(1, 3, 64, 64)
    coarse = {}
    model.head.register_forward_hook(lambda module, args, output: coarse.update(logits=output))
    with torch.no_grad():
        logits = model(image)
    assert coarse["logits"].shape == (1, 4, 32, 32)
    assert torch.equal(logits, F.interpolate(coarse["logits"], scale_factor=2, mode="bilinear", align_corners=False))


def test_a_transposed_final_starts_as_interpolation_inside():
    torch.manual_seed(0)
    plain = UNet(3, 4, encoder="resnet18", width=8, head_stride=2).eval()
    learned = UNet(3, 4, encoder="resnet18", width=8, head_stride=2, final="transposed").eval()
    learned.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(plain(image)[..., 2:-2, 2:-2], learned(image)[..., 2:-2, 2:-2], atol=1e-5)
    assert learned.final.weight.requires_grad


def test_training_keeps_channels_last_throughout():
    model = UNet(3, 4, width=4, depth=3).to(memory_format=torch.channels_last)
    formats = []
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            part.register_forward_hook(
                lambda module, args, output: formats.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    model(torch.randn(2, 3, 18, 22).to(memory_format=torch.channels_last))
    assert len(formats) == 13
    assert all(formats)


def test_dropout_acts_in_training_only():
    model = UNet(1, 2, width=4, depth=2, norm=False, dropout=0.9)
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert not torch.equal(model.train()(image), model(image))
        assert torch.equal(model.eval()(image), model(image))


def test_one_value_per_channel_in_training_is_an_input_error():
    with pytest.raises(InputError, match="batch of 1 with a 1x1 feature map"):
        UNet(1, 2, width=2).train()(torch.zeros(1, 1, 3, 3))
    assert UNet(1, 2, width=2, norm=False).train()(torch.zeros(1, 1, 3, 3)).shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up": "cubic"}, "option up='cubic' of unet: choose 'transposed' or 'bilinear' or 'nearest'"),
        ({"head_kernel": 2}, "option head_kernel=2"),
        ({"head_kernel": 3, "padding": "valid"}, "option head_kernel=3 of unet with padding='valid'"),
        ({"variant": "b"}, "option variant='b' of unet without an encoder"),
        ({"padding": "reflect"}, "option padding='reflect'"),
        ({"final": "x"}, "option final='x'"),
        ({"final": "transposed", "encoder": "resnet18"}, "option final='transposed' of unet without a head_stride"),
        ({"width": 0}, "option width=0"),
        ({"depth": 1}, "option depth=1"),
        ({"dropout": 1.0}, r"option dropout=1\.0"),
        ({"weights": "imagenet"}, "option weights='imagenet' of unet without an encoder: add encoder='resnet18'"),
        ({"head_stride": 2}, "need an encoder"),
        ({"head_stride": 3, "encoder": "resnet18"}, "option head_stride=3"),
        ({"decoder_channels": []}, r"option decoder_channels=\[\]"),
        ({"encoder": "resnet18", "padding": "valid"}, "option encoder='resnet18' with padding='valid'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        UNet(3, 2, **options)
