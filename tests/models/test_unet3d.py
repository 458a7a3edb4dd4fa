"""3D U-Net: the exact count, valid sizes, poolings and kernels per axis, shortcuts, deep supervision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import UNet3D, create_model, unet3d_valid
from perpixel.models.cards import CARDS
from perpixel.models.describe import describe


def on_meta(name: str, in_channels: int, num_classes: int, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, in_channels=in_channels, num_classes=num_classes, **options)


def count(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("name", ["unet3d", "unet3d_valid"])
def test_counts_of_the_cards(name):
    for each in CARDS[name].counts:
        assert count(on_meta(name, each.in_channels, each.num_classes, **each.options)) == each.expected


def test_the_papers_count():
    """Weights and biases of convolutions; those of batch normalisation are not counted."""
    model = on_meta("unet3d_valid", 3, 3)
    norms = sum(count(part) for part in model.modules() if isinstance(part, nn.BatchNorm3d))
    assert count(model) - norms == 19_069_955
    assert count(on_meta("unet3d", 3, 3)) == count(model)


def test_the_papers_sizes():
    model = on_meta("unet3d_valid", 3, 3).eval()
    assert model(torch.empty(1, 3, 116, 132, 132, device="meta")).shape == (1, 3, 28, 44, 44)
    assert model.margin == 44
    assert model.fit_size((1, 93, 132)) == (92, 100, 132)
    channels = [row.channels for row in describe(model, in_channels=3, size=(92, 92, 92)).rows]
    assert channels == [64, 128, 256, 512, 256, 128, 64, 3]


def test_other_sizes_of_the_valid_form_are_refused():
    model = unet3d_valid(1, 2, width=2)
    with pytest.raises(InputError, match=r"image depth 90 .* 8m \+ 28 from 92 on: use 92, .* take model 'unet3d'"):
        model(torch.zeros(1, 1, 90, 92, 92))
    with pytest.raises(InputError, match=r"image width 101 .* use 100 or 108"):
        model(torch.zeros(1, 1, 92, 92, 101))


def twin(volume: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Two unpadded stages with a skip, wired by hand, without normalisation."""

    def convs(name: str, maps: Tensor) -> Tensor:
        for number in (0, 1):
            prefix = f"{name}.convs.{number}.0"
            maps = F.conv3d(maps, state[f"{prefix}.weight"], state[f"{prefix}.bias"]).relu()
        return maps

    first = convs("down.0", volume)
    second = convs("down.1", F.max_pool3d(first, 2))
    up = F.conv_transpose3d(second, state["up.0.up.weight"], stride=2)
    maps = convs("up.0.stage", torch.cat([first[..., 4:-4, 4:-4, 4:-4], up], 1))
    return F.conv3d(maps, state["head.weight"], state["head.bias"])


@torch.no_grad()
def test_two_stages_are_the_papers_figure():
    torch.manual_seed(0)
    model = unet3d_valid(1, 2, width=2, depth=2, norm="none").eval()
    volume = torch.randn(1, 1, 20, 22, 24)
    assert model(volume).shape == (1, 2, 4, 6, 8)
    torch.testing.assert_close(model(volume), twin(volume, model.state_dict()))


@torch.no_grad()
def test_the_middle_of_the_padded_form_is_the_valid_form():
    """Far enough from the rim, padding changes nothing."""
    torch.manual_seed(0)
    valid, padded = unet3d_valid(1, 2, width=2, depth=2).eval(), UNet3D(1, 2, width=2, depth=2).eval()
    padded.load_state_dict(valid.state_dict())
    volume = torch.randn(1, 1, 24, 24, 24)
    torch.testing.assert_close(padded(volume)[..., 8:-8, 8:-8, 8:-8], valid(volume), atol=1e-5, rtol=1e-5)


def test_pools_and_kernels_per_axis():
    pool, kernels = [[1, 2, 2], [2, 2, 2], [1, 1, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 5]]
    model = on_meta("unet3d", 1, 2, width=2, pool=pool, kernels=kernels).eval()
    assert model.multiples == (2, 4, 8)
    sides = [row.size for row in describe(model, in_channels=1, size=(6, 16, 32)).rows]
    down = [(6, 16, 32), (6, 8, 16), (3, 4, 8), (3, 4, 4)]
    assert sides == [*down, *down[-2::-1], (6, 16, 32)]
    shapes = [tuple(part.convs[0][0].kernel_size) for part in model.down]
    assert shapes == [tuple(each) for each in kernels]
    assert [tuple(part.stage.convs[0][0].kernel_size) for part in model.up] == shapes[-2::-1]
    assert [tuple(part.up.stride) for part in model.up] == [tuple(each) for each in pool[::-1]]


@torch.no_grad()
def test_kernels_of_one_keep_slices_apart():
    """A net whose kernels and strides are 1 along the depth treats each slice alone."""
    torch.manual_seed(0)
    flat = {"pool": [[1, 2, 2]], "kernels": [[1, 3, 3]] * 2, "norm": "none"}
    model = UNet3D(1, 2, width=2, depth=2, **flat).eval()
    volume = torch.randn(1, 1, 5, 8, 6)
    torch.testing.assert_close(model(volume)[:, :, 3:4], model(volume[:, :, 3:4]))


@torch.no_grad()
def test_residual_stages_add_what_enters():
    torch.manual_seed(0)
    model = UNet3D(1, 2, width=2, depth=2, norm="none", residual=True).eval()
    stage = model.down[0]
    for each in stage.convs.parameters():
        each.zero_()
    volume = torch.randn(1, 1, 4, 4, 4)
    torch.testing.assert_close(stage(volume), stage.shortcut(volume).relu())


def test_deep_supervision_is_of_training_only():
    torch.manual_seed(0)
    model = UNet3D(1, 3, width=2, norm="none", deep_supervision=True)
    assert model.aux_weights == (0.5, 0.25)
    volume = torch.randn(1, 1, 9, 16, 12)
    outputs = model.train()(volume)
    assert [each.shape for each in outputs] == [(1, 3, 9, 16, 12)] * 3
    assert torch.equal(model.eval()(volume), outputs[0])
    assert [head.in_channels for head in model.aux_heads] == [8, 16]
    assert UNet3D(1, 3, width=2, depth=2, deep_supervision=True).aux_weights == ()


def test_channels_are_capped():
    model = on_meta("unet3d", 1, 2, width=64, depth=6)
    assert [part.convs[1][0].out_channels for part in model.down] == [128, 256, 512, 1024, 1024, 1024]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of unet3d"),
        ({"depth": 1}, "option depth=1 of unet3d: choose 2 to 7 stages"),
        ({"norm": True}, "option norm=True of unet3d: choose one of 'none', 'batch', 'instance'"),
        ({"activation": "elu"}, "option activation='elu' of unet3d: choose one of 'relu', 'leaky_relu'"),
        ({"padding": "full"}, "option padding='full' of unet3d"),
        ({"pool": [[2, 2, 2]]}, r"option pool=\[\[2, 2, 2\]\] of unet3d: give 3 lists of three"),
        ({"pool": [[2, 2], [2, 2, 2], [2, 2, 2]]}, r"option pool=.*: give 3 lists of three \(depth, height, width\)"),
        ({"pool": [2, 2, 2]}, r"option pool=\[2, 2, 2\] of unet3d"),
        ({"kernels": [[2, 3, 3]] * 4}, r"option kernels=.*each 1, 3, 5, such as \[\[3, 3, 3\]"),
        ({"padding": "valid", "residual": True}, "with padding='valid': it goes with none of them"),
        ({"padding": "valid", "kernels": [[1, 3, 3]] * 4}, "with padding='valid': it goes with none of them"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        UNet3D(1, 2, **options)


def test_options_are_checked_by_kind():
    with pytest.raises(InputError, match="option pool='2' of model 'unet3d': give a list of lists of whole numbers"):
        create_model("unet3d", pool="2")
    with pytest.raises(InputError, match=r"option kernels=.* of model 'unet3d': give a list of lists"):
        create_model("unet3d", kernels=[3, 3, 3, 3])
