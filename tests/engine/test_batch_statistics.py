"""Batch statistics recomputed over images: by hand, whatever the batches, and nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perpixel.engine.batch_statistics import recompute_batch_statistics
from perpixel.errors import InputError
from perpixel.models import create_model


def test_by_hand():
    """Two images of four pixels: 1 2 3 4 and 6 6 6 8; mean 4.5, unbiased variance (162 + 40 - 8 * 4.5^2) / 7."""
    norm = nn.BatchNorm2d(1)
    images = [torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2), torch.tensor([6.0, 6, 6, 8]).view(1, 1, 2, 2)]
    assert recompute_batch_statistics(norm, images) == 2
    assert norm.running_mean.item() == 4.5
    squares = 1 + 4 + 9 + 16 + 3 * 36 + 64
    assert norm.running_var.item() == pytest.approx((squares - 8 * 4.5**2) / 7)


@pytest.mark.parametrize("split", [[1] * 7, [7], [2, 5], [4, 3]])
def test_batches_of_any_length_count_pixel_by_pixel(split):
    images = 1000 + 3 * torch.randn(7, 3, 5, 4, generator=torch.Generator().manual_seed(0))  # far from zero
    norm = nn.BatchNorm2d(3)
    recompute_batch_statistics(norm, torch.split(images, split))
    assert torch.allclose(norm.running_mean, images.double().mean((0, 2, 3)).float())
    assert torch.allclose(norm.running_var, images.double().var((0, 2, 3)).float(), rtol=1e-5)


def test_images_of_two_sizes():
    norm = nn.BatchNorm2d(1)
    recompute_batch_statistics(norm, [torch.full((1, 1, 1, 3), 2.0), torch.full((1, 1, 2, 1), 7.0)])
    assert norm.running_mean.item() == 4.0
    assert norm.running_var.item() == pytest.approx((3 * 4 + 2 * 9) / 4)


def test_deeper_layers_see_normalised_batches():
    """As in training: what comes behind the first layer is normalised by the batch, not by old averages."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    model[0].running_mean.fill_(100)
    recompute_batch_statistics(
        model, [torch.tensor([1.0, 3.0]).view(1, 1, 1, 2), torch.tensor([5.0, 9]).view(1, 1, 1, 2)]
    )
    assert model[1].running_mean.item() == pytest.approx(0, abs=1e-6)
    assert model[1].running_var.item() == pytest.approx(4 / 3, rel=1e-4)  # -1, 1, -1, 1


def test_eval_then_answers_as_training_did_on_one_batch():
    """With all images in one batch, eval mode gives training mode's answer, but for n / (n - 1) in the variance."""
    torch.manual_seed(0)
    model = create_model("unet", num_classes=2, width=4, depth=3).eval()
    images = torch.randn(2, 3, 64, 64)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    before = model(images)
    recompute_batch_statistics(model, [images])
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    after = model(images)
    expected = model.train()(images)
    assert not torch.allclose(before, expected, atol=0.1)
    assert torch.allclose(after, expected, atol=0.05)


class Noisy(nn.Module):
    """Normalises after dropout; a layer for training only beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm, self.aux = nn.Dropout(0.9), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.norm(self.dropout(image))
        return self.aux(maps) if self.training else maps


def test_dropout_sleeps_and_layers_of_training_alone_stay():
    model = Noisy().train()
    model.aux.running_mean.fill_(7)
    recompute_batch_statistics(model, [torch.arange(4.0).view(1, 1, 2, 2)])
    assert model.norm.running_mean.item() == 1.5
    assert model.aux.running_mean.item() == 7
    assert model.training and model.norm.training and model.norm.track_running_stats
    assert model.norm.num_batches_tracked == 0


def test_bad_input_changes_nothing():
    model = Noisy().eval()
    batch = torch.arange(4.0).view(1, 1, 2, 2)
    with pytest.raises(InputError, match="images: there are none: give at least one batch"):
        recompute_batch_statistics(model, [])
    with pytest.raises(InputError, match=r"images: a batch of shape \(1, 2, 2\): give tensors"):
        recompute_batch_statistics(model, [batch, batch[0]])
    with pytest.raises(InputError, match="batch normalisation 'norm' met values that are not finite"):
        recompute_batch_statistics(model, [batch, batch / 0])
    with pytest.raises(InputError, match="Conv2d has no batch normalisation with running averages"):
        recompute_batch_statistics(nn.Conv2d(1, 1, 1), [batch])
    assert model.norm.running_mean.item() == 0 and model.norm.running_var.item() == 1
    assert not model.norm.training and model.norm.track_running_stats
