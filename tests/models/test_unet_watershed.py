"""U-Net with watershed grouping: maps, detection on other grids, settings, size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.labels import Grouping
from perpixel.models.unet_watershed import CARD, UNetWatershed


def small(num_classes: int = 2, **options: object) -> UNetWatershed:
    torch.manual_seed(0)
    return UNetWatershed(1, num_classes, **{"width": 4, "depth": 3, **options}).eval()  # type: ignore[arg-type]


class Drawn(nn.Module):
    """Stands for the U-Net: the image's first channel is the height, the second numbers the class."""

    def forward(self, image: Tensor) -> Tensor:
        height, kind = image[:, 0], image[:, 1]
        maps = [10.0 * (kind == number) for number in range(3)]
        return torch.stack([*maps, torch.logit(height.clamp(0.001, 0.999)), torch.full_like(height, -9.0)], dim=1)


def drawn_image() -> Tensor:
    rows, cols = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    image = torch.zeros(1, 2, 20, 30)
    for kind, row, col, radius in ((1, 8, 8, 6), (2, 10, 20, 7), (1, 2, 27, 2)):
        hill = (1 - torch.hypot(rows - row, cols - col) / radius).clamp(0, 1)
        image[0, 0] = torch.maximum(image[0, 0], hill)
        image[0, 1][hill > 0] = kind
    return image


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1)])
def test_maps_have_the_image_s_size(size: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *size)
    maps = small(3)(image)
    assert maps.shape == (2, 5, *size)
    probs, height, contact = small(3).maps(image[:1], size=(9, 11))
    assert probs.shape == (3, 9, 11) and height.shape == contact.shape == (9, 11)
    assert torch.allclose(probs.sum(0), torch.ones(9, 11)) and 0 <= float(height.min()) <= float(height.max()) <= 1


def test_objects_of_drawn_maps() -> None:
    model = small(3)
    model.unet = Drawn()
    found = model.detect(drawn_image())
    assert found.classes.tolist() == [2, 1] or found.classes.tolist() == [1, 2]  # the third is too small
    assert found.scores is not None and (np.diff(found.scores) <= 0).all() and found.scores.min() > 0.9
    assert found.size == (20, 30)
    model.grouping = Grouping(least_area=1)
    assert sorted(model.detect(drawn_image()).classes.tolist()) == [1, 1, 2]


def test_objects_on_a_finer_grid_lie_where_they_lay() -> None:
    model = small(3)
    model.unet = Drawn()
    coarse, fine = model.detect(drawn_image()), model.detect(drawn_image(), size=(40, 60))
    assert fine.size == (40, 60) and len(fine) >= len(coarse)
    ours = coarse.boxes[np.argsort(coarse.boxes[:, 0])]
    theirs = fine.take(fine.masks.areas > 100).boxes
    assert np.allclose(theirs[np.argsort(theirs[:, 0])] / 2, ours, atol=1)


def test_an_untrained_net_and_an_empty_image_give_objects_or_none() -> None:
    found = small().detect(torch.zeros(1, 1, 24, 24))
    assert found.size == (24, 24) and found.scores is not None and len(found.scores) == len(found)
    model = small()
    nn.init.zeros_(model.unet.head.weight)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        model.unet.head.bias.copy_(torch.tensor([9.0, 0, 0, 0]))  # type: ignore[union-attr, operator]
    assert len(model.detect(torch.rand(1, 1, 24, 24))) == 0


def test_grouping_goes_through_options() -> None:
    values = Grouping(persistence=0.3).to_json()
    assert small(grouping=values).grouping == Grouping(persistence=0.3)
    assert small(grouping=Grouping(least_area=3).to_json()).grouping.least_area == 3
    with pytest.raises(InputError, match="unknown setting 'marker'"):
        small(grouping={"marker": 1})


def test_bf16_and_gradients() -> None:
    model = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(torch.rand(2, 1, 32, 32))
    maps.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.eval().detect(torch.rand(1, 1, 24, 24)).size == (24, 24)


def test_parts_and_count() -> None:
    assert list(small().stages()) == ["down 1", "down 2", "down 3", "up 1", "up 2", "head", "final"]
    count = CARD.counts[0]
    model = UNetWatershed(count.in_channels, count.num_classes, **count.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count.expected
