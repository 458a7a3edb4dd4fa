"""Measured receptive fields against arithmetic, closed forms, and the description's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.layers.unpool import max_pool_places, unpool_places
from perpixel.models import create_model
from perpixel.models.describe import describe
from perpixel.models.receptive_field import measured_receptive_field


def theoretical(model: nn.Module, in_channels: int, size: tuple[int, int]) -> int | None:
    return describe(model, in_channels=in_channels, size=size).rows[-1].receptive_field


@pytest.mark.parametrize(
    ("layers", "side"),
    [
        ([nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=4, dilation=4)], 3 + 8),
        ([nn.Conv2d(1, 2, 5, padding=2), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)], 5),
        ([nn.Conv2d(1, 1, 3, 2, 1), nn.ReLU6(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 1, 3, padding=1)], 3 + 4 + 8),
        ([nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(3, 1, 1, dilation=2)], 3 + 4),
    ],
)
def test_plain_networks_by_hand(layers, side):
    model = nn.Sequential(*layers)
    field = measured_receptive_field(model, in_channels=1, size=(48, 56))
    assert (field.width, field.height) == (side, side)
    assert theoretical(model, 1, (48, 56)) == side
    assert not field.is_clipped
    assert (field.row, field.col) == (24, 28)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("unet", (80, 97), {"width": 2, "depth": 3}),
        ("unet", (80, 80), {"width": 2, "depth": 3, "norm": False}),
        ("unet_valid", (60 + 16 * 8, 60 + 16 * 8), {"width": 2, "depth": 3}),
        ("unet", (64, 64), {"width": 2, "depth": 2}),
    ],
)
def test_measured_is_theoretical_in_small_u_nets(name, size, options):
    model = create_model(name, in_channels=2, num_classes=2, **options)
    field = measured_receptive_field(model, in_channels=2, size=size, samples=1)
    assert field.width == field.height == theoretical(model, 2, size)


@pytest.mark.slow
def test_measured_is_theoretical_in_fcn32s():
    """404 of fc6 and one more step of 32, since bilinear upsampling reads two cells."""
    model = create_model("fcn32s", in_channels=1, num_classes=1, fc_channels=2)
    field = measured_receptive_field(model, in_channels=1, size=(480, 480), samples=1)
    assert field.width == field.height == theoretical(model, 1, (480, 480)) == 436
    assert field.effective_pixels is None  # the score layers start at zero


def test_upsampled_fields_differ_by_less_than_the_coarsest_step():
    model = create_model("unet", in_channels=1, num_classes=1, width=1, depth=5)
    field = measured_receptive_field(model, in_channels=1, size=(256, 256), samples=1)
    assert theoretical(model, 1, (256, 256)) == 200
    assert abs(field.width - 200) < 16
    assert abs(field.height - 200) < 16


def test_a_global_pool_sees_everything():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            maps = self.conv(image)
            return maps * torch.sigmoid(maps.mean((2, 3), keepdim=True))

    field = measured_receptive_field(Gated(), in_channels=1, size=(20, 30))
    assert field.box == (0, 0, 30, 20)
    assert field.is_clipped


def test_unpooling_reaches_the_whole_window():
    class Unpooled(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            maps, indices = nn.functional.max_pool2d(image, 2, return_indices=True)
            return nn.functional.max_unpool2d(maps, indices, 2)

    class AtPlaces(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            maps, places = max_pool_places(image)
            return unpool_places(maps, places, (image.shape[2], image.shape[3]))

    for model in (Unpooled(), AtPlaces()):
        assert measured_receptive_field(model, in_channels=1, size=(8, 8), samples=1).box == (4, 4, 6, 6)


def test_channels_last_gradients_behind_a_norm_are_read_right():
    """torch 2.14 misreads those of a single image in the backward pass of batch_norm if their strides are unusual."""

    class Unpooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            self.head = nn.Conv2d(4, 1, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            values, places = max_pool_places(image)
            values = self.block(values)
            return self.head(unpool_places(values, places, (image.shape[2], image.shape[3])))

    field = measured_receptive_field(Unpooled(), in_channels=1, size=(48, 48))
    assert field.box == (20, 20, 28, 28)  # the head sees cells 11 and 12 of the pooled map, the block 10 to 13


def test_effective_field_of_one_flat_kernel_is_all_of_it():
    model = nn.Conv2d(1, 1, 9, padding=4)
    nn.init.constant_(model.weight, 0.3)
    field = measured_receptive_field(model, in_channels=1, size=(40, 40), samples=1)
    assert (field.effective_pixels, field.effective_side, field.mass_side) == (81, 9.0, 9)


def test_effective_field_is_smaller_than_the_theoretical_one():
    """Luo et al.: repeated kernels make a bell. Ten flat 3x3 kernels have a variance of 10 * 2 / 3 pixels."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(10)))
    for part in model:
        nn.init.constant_(part.weight, 1 / 9)
    field = measured_receptive_field(model, in_channels=1, size=(48, 48), samples=1)
    assert field.width == 21
    # A Gaussian falls to 4.55 % of its peak at 2.486 standard deviations, on a disc of radius 6.42.
    assert field.effective_pixels == pytest.approx(3.1416 * 6.42**2, rel=0.06)
    assert 9 <= field.mass_side <= 13


def test_nothing_of_the_model_changes():
    model = create_model("unet", in_channels=1, width=2, depth=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = measured_receptive_field(model, in_channels=1, size=(32, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert measured_receptive_field(model, in_channels=1, size=(32, 32)) == first


def test_json_has_plain_values():
    document = measured_receptive_field(nn.Conv2d(1, 1, 3, padding=1), in_channels=1, size=(9, 9)).to_json()
    assert document["box"] == [3, 3, 6, 6]
    assert (document["height"], document["width"]) == (3, 3)


def test_wrong_requests_are_named():
    with pytest.raises(InputError, match="samples=0"):
        measured_receptive_field(nn.Conv2d(1, 1, 1), in_channels=1, size=(9, 9), samples=0)
    with pytest.raises(InputError, match="maximum pool with dilation 2 that rounds up"):
        measured_receptive_field(nn.MaxPool2d(3, 1, 1, dilation=2, ceil_mode=True), in_channels=1, size=(9, 9))
