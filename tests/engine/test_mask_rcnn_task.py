"""The task of Mask R-CNN: losses of its batches, scores of its detections, and eight photographs learnt by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perpixel.data import InstanceDataset, open_instances
from perpixel.data.instance_crops import DrawnObjects, InstanceCrops, load_objects, warp_objects
from perpixel.data.instances.facts import measure_objects, sum_facts
from perpixel.data.transforms import NO_AUGMENTATION, Geometry
from perpixel.engine.mask_rcnn import LEAST_SCORES, MaskRCNNTask, best_least_score
from perpixel.images import Normalisation, write_png
from perpixel.labels import Instances, Runs
from perpixel.models.mask_rcnn import MaskRCNN
from perpixel.planning import plan_anchors

PLAIN = Normalisation((0.0,), (255.0,), (0.0,), (1.0,))
PHOTO = Normalisation((0.0,) * 3, (255.0,) * 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceDataset:
    """Images of 64 x 80 pixels with three squares; one of the two for validation is empty."""
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            instance_map = np.zeros((64, 80), np.uint16)
            for number in range(1, 1 if (split, index) == ("val", 1) else 4):
                row, col = 18 * number - 14, (21 * number + 17 * index) % 60
                instance_map[row : row + 14, col : col + 16] = number
            write_png(tmp_path / split / "images" / f"{index}.png", (instance_map > 0).astype(np.uint8) * 200)
            write_png(tmp_path / split / "labels" / f"{index}.png", instance_map)
    return open_instances(tmp_path)


def task_of(dataset: InstanceDataset, **settings: object) -> MaskRCNNTask:
    crops = InstanceCrops(
        dataset, dataset.split("train"), crop=(64, 64), normalisation=PLAIN, augmentation=NO_AUGMENTATION, seed=0
    )
    return MaskRCNNTask(crops=crops, batch_size=2, dataset=dataset, samples=dataset.split("val"), **settings)  # type: ignore[arg-type]


class Truths(nn.Module):
    """Finds every object of a bright square, and with `wrong` scores one more that is none."""

    def __init__(self, dataset: InstanceDataset, wrong: float | None = None) -> None:
        super().__init__()
        self.found = [dataset.load_instances(sample) for sample in dataset.split("val")]
        self.wrong, self.call = wrong, 0

    def detect(self, image: torch.Tensor, *, size: tuple[int, int] | None = None) -> Instances:
        truth = self.found[self.call]
        self.call += 1
        masks, scores = [truth.masks.of(i) for i in range(len(truth))], [0.9] * len(truth)
        if self.wrong is not None:
            masks, scores = [*masks, np.array([[0, 9]])], [*scores, self.wrong]
        return Instances.of(Runs.join(truth.size, masks), scores=scores)


def test_losses_of_a_batch_are_summed_by_weight(dataset: InstanceDataset) -> None:
    torch.manual_seed(0)
    model = MaskRCNN(1, 2, encoder="resnet18", norm="group", channels=32, box_width=64).train()
    task = task_of(dataset, weights={"mask": 2.0})
    batch = next(task.batches(start_step=0, end_step=1, shrink=1, rank=0, world_size=1))
    assert batch.image.shape == (2, 1, 64, 64) and len(batch.objects) == 2
    losses = task.forward(model, batch, torch.device("cpu"))
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "mask"}
    values = {name: float(value.detach()) for name, value in losses.items()}
    expected = sum(values.values()) + values["mask"]
    assert float(task.loss(losses, batch).detach()) == pytest.approx(expected, rel=1e-5)
    task.loss(losses, batch).backward()


def test_validation_by_hand(dataset: InstanceDataset) -> None:
    seen: list[tuple[int, int]] = []
    task = task_of(dataset, on_image=lambda done, total: seen.append((done, total)))
    scores = task.validate(Truths(dataset))
    assert scores["score"] == scores["mask_ap"] == scores["matching_ap50"] == scores["pq"] == 1
    assert scores["min_score"] == 0.05 and seen == [(1, 2), (2, 2)]
    # A wrong one in each image, less sure than the right ones: COCO's AP does not mind, from 0.5 on nothing is wrong.
    scores = task.validate(Truths(dataset, wrong=0.45))
    assert scores["mask_ap"] == 1 and scores["matching_ap50"] == 1 and scores["min_score"] == 0.5
    # Surer than the right ones: of five, the first two are wrong, so that the precision ends at 3 / 5.
    scores = task.validate(Truths(dataset, wrong=0.95))
    assert scores["score"] == pytest.approx(0.6) and scores["matching_ap50"] == pytest.approx(3 / 5)


def test_the_least_score_of_nothing_is_a_half() -> None:
    empty = Instances.of(Runs.join((4, 4), []), scores=[])
    assert best_least_score([(empty, Instances.none((4, 4)))], num_classes=2) == 0.5
    assert 0.5 in LEAST_SCORES


def test_an_untrained_net_is_validated(dataset: InstanceDataset) -> None:
    torch.manual_seed(0)
    model = MaskRCNN(1, 2, encoder="resnet18", norm="group", channels=32, box_width=64, test_proposals=50)
    scores = task_of(dataset, max_validation=1).validate(model)
    assert 0 <= scores["score"] <= 1 and not model.training


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("person", 800), ("coco_subset", 1700)])
def test_eight_photographs_are_learnt_by_heart(name: str, steps: int, shared_data: Path) -> None:
    """From random weights, at 0.6 of the size, in 8 to 15 minutes: COCO's mask AP (0.50 to 0.95) above 0.9."""
    dataset = open_instances(shared_data / name)
    samples = dataset.split("train")[:8]
    score = overfit(dataset, samples, scale=0.6, steps=steps)
    print(name, score)
    assert score["mask_ap50"] > 0.98 and score["mask_ap"] > 0.9


def overfit(dataset: InstanceDataset, samples: tuple, *, scale: float, steps: int) -> dict:
    """One whole image a step, unchanged; the scores of the same images."""
    pairs: list[tuple[torch.Tensor, DrawnObjects]] = []
    for sample in samples:
        source = load_objects(dataset, sample, scale=scale, normalisation=PHOTO)
        size = source.image.shape[:2]
        objects = warp_objects(source, Geometry(np.eye(2, 3), None).on(size, source.layers.shape[1:]), size)
        pairs.append((torch.from_numpy(PHOTO.apply(source.image)).permute(2, 0, 1)[None], objects))
    torch.manual_seed(0)
    facts = sum_facts(measure_objects(dataset.load_instances(sample)) for sample in samples)
    options = {
        "encoder": "resnet18", "norm": "group", "head_norm": "group", "channels": 128, "box_width": 512,
        "rpn_samples": 128, "box_samples": 128, "train_proposals": 500, "test_proposals": 300,
    }  # fmt: skip
    model = MaskRCNN(3, dataset.classes.num_classes, **options, **plan_anchors(facts, scale).options())  # type: ignore[arg-type]
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, steps, pct_start=0.15)
    for step in range(steps):
        image, objects = pairs[step % len(pairs)]
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(image.contiguous(memory_format=torch.channels_last), [objects])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    crops = InstanceCrops(
        dataset, samples, crop=(64, 64), normalisation=PHOTO, augmentation=NO_AUGMENTATION, seed=0, scale=scale
    )
    task = MaskRCNNTask(crops=crops, batch_size=1, dataset=dataset, samples=samples, precision="bf16")
    return task.validate(model)
