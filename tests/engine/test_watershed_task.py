"""Training for objects: batches of maps, the loss, validation, the choice of the grouping; a net that learns it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perpixel.data import InstanceDataset, open_instances
from perpixel.data.instance_crops import InstanceCrops
from perpixel.data.object_targets import UNKNOWN
from perpixel.data.transforms import Augmentation
from perpixel.engine.tune_grouping import ObjectMaps, tune_grouping
from perpixel.engine.watershed import WatershedBatch, WatershedLoss, WatershedTask
from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.labels import Grouping, Instances
from perpixel.models.unet_watershed import UNetWatershed

NORMALISATION = Normalisation((0.0,), (255.0,), (0.3,), (0.3,))


def draw_cells(seed: int, *, count: int = 7, size: tuple[int, int] = (48, 56)) -> tuple[np.ndarray, np.ndarray]:
    """Grey discs that touch, brighter in their middles, and their numbers."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: size[0], : size[1]]
    numbers, image = np.zeros(size, np.uint16), np.full(size, 30.0)
    for number in range(1, count + 1):
        row, col, radius = rng.uniform(5, size[0] - 5), rng.uniform(5, size[1] - 5), rng.uniform(4, 7)
        away = np.hypot(rows - row, cols - col) / radius
        free = (away < 1) & (numbers == 0)
        numbers[free], image[free] = number, (210 - 110 * away**2)[free]
    return np.clip(image + rng.normal(0, 6, size), 0, 255).astype(np.uint8), numbers


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> InstanceDataset:
    root: Path = tmp_path_factory.mktemp("cells")
    for split, count in (("train", 8), ("val", 3), ("test", 1)):
        for index in range(count):
            image, numbers = draw_cells(10 * len(split) + index)
            write_png(root / split / "images" / f"{index}.png", image)
            write_png(root / split / "labels" / f"{index}.png", numbers)
    return open_instances(root)


def task_of(cells: InstanceDataset, **settings: object) -> WatershedTask:
    crops = InstanceCrops(
        cells,
        cells.split("train"),
        crop=(32, 32),
        normalisation=NORMALISATION,
        augmentation=Augmentation(flip_vertical=True),
        seed=0,
    )
    values = {"crops": crops, "batch_size": 4, "dataset": cells, "samples": cells.split("val")}
    return WatershedTask(**{**values, **settings})  # type: ignore[arg-type]


def first_batch(task: WatershedTask, **settings: int) -> WatershedBatch:
    values = {"start_step": 0, "end_step": 1, "shrink": 1, "rank": 0, "world_size": 1}
    return next(task.batches(**{**values, **settings}))


def perfect_maps(batch: WatershedBatch, kinds: int = 2) -> torch.Tensor:
    classes = torch.stack([20.0 * (batch.target == kind) for kind in range(kinds)], dim=1)
    height = torch.logit(batch.height.clamp(1e-4, 1 - 1e-4))[:, None]
    return torch.cat([classes, height, torch.where(batch.contact == 1, 20.0, -20.0)[:, None]], dim=1)


def test_batches(cells: InstanceDataset) -> None:
    batch = first_batch(task_of(cells))
    assert batch.image.shape == (4, 1, 32, 32) and batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.dtype == batch.contact.dtype == torch.int64 and batch.height.dtype == torch.float32
    assert torch.equal(batch.height > 0, batch.target == 1) and batch.contact.sum() > 0
    assert len(batch.names) == 4
    later = first_batch(task_of(cells), start_step=3, end_step=4, shrink=2)
    assert later.image.shape == (4, 1, 16, 16)
    with_worker = first_batch(task_of(cells, num_workers=1))
    assert torch.equal(with_worker.image, batch.image) and torch.equal(with_worker.height, batch.height)


def test_the_loss_of_true_maps_is_nothing_and_each_map_counts(cells: InstanceDataset) -> None:
    batch = first_batch(task_of(cells))
    loss, maps = WatershedLoss(), perfect_maps(batch)
    best = float(loss(maps, batch))
    assert best < 0.01
    for channel in range(4):
        worse = maps.clone()
        worse[:, channel] = 0
        assert float(loss(worse, batch)) > best + 0.05
    maps = torch.zeros_like(maps, requires_grad=True)
    loss(maps, batch).backward()
    assert maps.grad is not None and (maps.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_unknown_pixels_cost_nothing(cells: InstanceDataset) -> None:
    batch = first_batch(task_of(cells))
    maps = perfect_maps(batch)
    target, contact = batch.target.clone(), batch.contact.clone()
    target[:, :10], contact[:, :10] = UNKNOWN, UNKNOWN
    maps[:, :, :10] = torch.randn(4, 4, 10, 32) * 9
    assert float(WatershedLoss()(maps, replace(batch, target=target, contact=contact))) < 0.01
    nothing = replace(batch, target=torch.full_like(target, UNKNOWN), contact=torch.full_like(contact, UNKNOWN))
    assert float(WatershedLoss()(maps, nothing)) == 0


def train(task: WatershedTask, model: UNetWatershed, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for batch in task.batches(start_step=0, end_step=steps, shrink=1, rank=0, world_size=1):
        model.train()
        loss = task.loss(task.forward(model, batch, torch.device("cpu")), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_a_small_net_learns_to_part_touching_cells(cells: InstanceDataset) -> None:
    torch.manual_seed(0)
    seen: list[tuple[int, int]] = []
    task = task_of(cells, on_image=lambda done, total: seen.append((done, total)))
    model = UNetWatershed(1, 2, width=8, depth=3)
    losses = train(task, model, 90)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    scores = task.validate(model.eval())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert scores["score"] == scores["matching_ap50"] > 0.6
    assert set(scores) >= {"f1_50", "mask_ap", "mask_ap50", "pq", "matching_ap"}


def test_the_grouping_is_chosen_on_validation_images(cells: InstanceDataset) -> None:
    torch.manual_seed(0)
    task, model = task_of(cells, samples=cells.split("val")[:1]), UNetWatershed(1, 2, width=4, depth=2)
    train(task, model, 20)
    model.eval()
    before = model.grouping
    choice = task.choose_grouping(model)
    assert choice.after >= choice.before and model.grouping == choice.grouping
    assert choice.tried[0] == {**before.to_json(), "score": choice.before}


def test_large_images_are_tuned_on_their_middle(cells: InstanceDataset) -> None:
    task, model = task_of(cells, tile=(24, 20)), UNetWatershed(1, 2, width=4, depth=2).eval()
    maps = task._maps(model, cells.split("val")[0])
    assert maps.height.shape == (24, 20) and maps.target.size == (24, 20)
    _, truth = cells.load(cells.split("val")[0])
    cut = truth.to_label_map()[12:36, 18:38]
    assert np.array_equal(maps.target.to_label_map() > 0, cut > 0)
    assert len(maps.target) == len(np.unique(cut[cut > 0]))


def test_the_search_finds_what_the_maps_need() -> None:
    """A dent in each hill cuts objects in two unless the persistence is high; specks ask for an area."""
    rows, cols = np.mgrid[:30, :60]
    numbers, height = np.zeros((30, 60), np.int32), np.zeros((30, 60), np.float32)
    for number, col in enumerate((14, 44), 1):
        inside = np.hypot(rows - 15, (cols - col) / 1.4) < 8
        numbers[inside] = number
        hill = 0.9 - 0.25 * np.exp(-((cols - col) ** 2) / 4)
        height[inside] = hill[inside]
    probs = np.stack([numbers == 0, numbers > 0]).astype(np.float32)
    probs[:, :3, :3] = np.array([0.1, 0.9])[:, None, None]
    maps = ObjectMaps(probs, height, np.zeros_like(height), Instances.from_label_map(numbers))
    start = Grouping(persistence=0.03, least_peak=0.0, least_area=4)
    steps: list[tuple[int, int]] = []
    choice = tune_grouping([maps], num_classes=2, start=start, on_step=lambda done, of: steps.append((done, of)))
    assert choice.before < 0.4 and choice.after == pytest.approx(1.0)
    assert choice.grouping.persistence >= 0.2
    assert len(steps) == len(choice.tried) and steps[-1][0] <= steps[-1][1]


def test_no_image_to_choose_on() -> None:
    with pytest.raises(InputError, match="no image to choose the grouping on"):
        tune_grouping([], num_classes=2)
