"""The task of `unet_watershed`: objects -> maps to learn -> loss; maps -> objects -> scores of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perpixel.data import InstanceDataset, Sample
from perpixel.data.batches import BatchDraws, scaled_size
from perpixel.data.instance_crops import InstanceCrops
from perpixel.data.object_targets import UNKNOWN, ObjectTargets, object_targets
from perpixel.engine.object_scores import score_objects
from perpixel.engine.semantic import spread
from perpixel.engine.tune_grouping import GroupingChoice, ObjectMaps, tune_grouping
from perpixel.images import resize_image
from perpixel.inference.inputs import scale_and_offset
from perpixel.inference.instance_predictor import InstancePredictor
from perpixel.labels import Instances, place_runs
from perpixel.losses import binary_cross_entropy, create_loss, hill_loss, soft_dice
from perpixel.models.unet_watershed import UNetWatershed


@dataclass
class WatershedBatch:
    """What one training step takes.

    Attributes:
        image: (B, C, h, w) float32, channels_last.
        target: (B, h, w) int64 class, 0 background, `UNKNOWN` where nothing is known.
        height: (B, h, w) float32 in 0..1.
        contact: (B, h, w) int64, 1 where two objects meet, `UNKNOWN` where nothing is known.
        names: sample names, for messages.
    """

    image: Tensor
    target: Tensor
    height: Tensor
    contact: Tensor
    names: list[str]


class TargetDraws(TorchDataset):
    """The draws of `InstanceCrops` as maps to learn: worked out where crops are drawn, in a worker if there is one."""

    def __init__(self, crops: InstanceCrops, *, reach: int) -> None:
        self.crops, self.reach = crops, reach

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, ObjectTargets, str]:
        image, objects, name = self.crops[key]
        arrays = (objects.layers.numpy(), objects.classes.numpy(), objects.is_crowd.numpy())
        return image, object_targets(*arrays, reach=self.reach), name


def collate_targets(draws: Sequence[tuple[np.ndarray, ObjectTargets, str]]) -> WatershedBatch:
    """Stack draws."""
    target = torch.from_numpy(np.stack([targets.label_map for _, targets, _ in draws]))
    contact = torch.from_numpy(np.stack([targets.contact for _, targets, _ in draws])).long()
    return WatershedBatch(
        image=torch.from_numpy(np.stack([image for image, _, _ in draws])).permute(0, 3, 1, 2),
        target=target,
        height=torch.from_numpy(np.stack([targets.height for _, targets, _ in draws])),
        contact=contact.masked_fill(target == UNKNOWN, UNKNOWN),
        names=[name for _, _, name in draws],
    )


class WatershedLoss(nn.Module):
    """(maps (B, K + 2, h, w), batch) -> scalar: cross entropy and Dice of the classes, the height, the contacts.

    Args:
        height_weight, contact_weight: of the two further terms.
        contact_gain: how much more a pixel of contact costs than one without; there are few of them.
    """

    def __init__(
        self,
        *,
        classes: str = "ce+dice",
        height_weight: float = 2.0,
        contact_weight: float = 0.5,
        contact_gain: float = 3.0,
    ) -> None:
        super().__init__()
        self.class_loss = create_loss(classes, ignore_index=UNKNOWN)
        self.height_weight, self.contact_weight, self.contact_gain = height_weight, contact_weight, contact_gain

    def forward(self, maps: Tensor, batch: WatershedBatch) -> Tensor:
        target, height, contact = (
            each.to(maps.device, non_blocking=True) for each in (batch.target, batch.height, batch.contact)
        )
        classes, hills, contacts = maps.split([maps.shape[1] - 2, 1, 1], dim=1)
        total = self.class_loss(classes, target)
        total = total + self.height_weight * hill_loss(hills[:, 0], height, target != UNKNOWN)
        entropy = binary_cross_entropy(contacts, contact, pos_weight=self.contact_gain, ignore_index=UNKNOWN)
        return total + self.contact_weight * (entropy + soft_dice(contacts, contact, ignore_index=UNKNOWN))


class WatershedTask:
    """Crops, loss and validation for `fit`.

    Args:
        crops: training draws.
        batch_size: draws a step, on each device.
        loss: (maps, batch) -> scalar.
        dataset, samples: validation images.
        tile: (height, width) in which larger images are predicted.
        reach: pixels to both sides of a contact that are learnt as such.
        max_validation: images of a validation; a fixed, evenly spread choice where there are more.
        precision: "bf16" | "fp32", of validation.
        num_workers: processes that draw crops; 0 draws them in this one.
        on_image: called with (done, total) while validating.
    """

    def __init__(
        self,
        *,
        crops: InstanceCrops,
        batch_size: int,
        dataset: InstanceDataset,
        samples: tuple[Sample, ...],
        loss: nn.Module | None = None,
        tile: tuple[int, int] = (1024, 1024),
        reach: int = 1,
        max_validation: int | None = None,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        num_workers: int = 0,
        on_image: Callable[[int, int], None] | None = None,
    ) -> None:
        self.draws, self.batch_size = TargetDraws(crops, reach=reach), batch_size
        self.dataset, self.tile, self.device, self.precision = dataset, tile, torch.device(device), precision
        self.loss_module = (loss or WatershedLoss()).to(device)
        self.num_workers, self.on_image = num_workers, on_image
        self.samples = spread(samples, max_validation)

    def batches(
        self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int
    ) -> Iterator[WatershedBatch]:
        """Batches of steps start_step..end_step-1."""
        keys = BatchDraws(
            batch_size=self.batch_size,
            start_step=start_step,
            end_step=end_step,
            shrink=shrink,
            rank=rank,
            world_size=world_size,
        )
        loader: DataLoader = DataLoader(
            self.draws,
            batch_sampler=keys,
            collate_fn=collate_targets,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)

    def forward(self, model: nn.Module, batch: WatershedBatch, device: torch.device) -> Tensor:
        """Maps (B, K + 2, h, w) of a batch."""
        maps: Tensor = model(batch.image.to(device, non_blocking=True))
        return maps

    def loss(self, outputs: Tensor, batch: WatershedBatch) -> Tensor:
        """Scalar loss of the maps."""
        loss: Tensor = self.loss_module(outputs, batch)
        return loss

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores over the validation images at their full size; "score" is AP at IoU 0.5, TP / (TP + FP + FN)."""
        scores = score_objects(self._pairs(model), num_classes=self.dataset.classes.num_classes)
        return {"score": scores["matching_ap50"] or 0.0, "score_name": "matching_ap50", **scores}

    def predictor(self, model: nn.Module) -> InstancePredictor:
        """The pipeline that `predict` uses."""
        return InstancePredictor(
            model,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            normalisation=self.draws.crops.normalisation,
            scale=self.draws.crops.scale,
            tile=self.tile,
            device=self.device,
            precision=self.precision,
        )

    def _pairs(self, model: nn.Module) -> Iterator[tuple[Instances, Instances]]:
        predictor = self.predictor(model)
        for done, sample in enumerate(self.samples):
            image, target = self.dataset.load(sample)
            found = predictor.predict(image).instances
            assert found is not None
            yield found, target
            if self.on_image:
                self.on_image(done + 1, len(self.samples))

    def choose_grouping(self, model: UNetWatershed) -> GroupingChoice:
        """Search the grouping on the validation images, from the model's own on, and give the best to the model."""
        maps = (self._maps(model, sample) for sample in self.samples)
        choice = tune_grouping(maps, num_classes=self.dataset.classes.num_classes, start=model.grouping)
        model.grouping = choice.grouping
        return choice

    def _maps(self, model: UNetWatershed, sample: Sample) -> ObjectMaps:
        """What the net says of an image, or of the middle of one that is larger than a tile."""
        image, target = self.dataset.load(sample)
        factor, offset = scale_and_offset(self.draws.crops.normalisation, image)
        sides = [min(side, most) for side, most in zip(image.shape[:2], self.tile)]
        row, col = ((side - inner) // 2 for side, inner in zip(image.shape[:2], sides))
        size = (sides[0], sides[1])
        window = image[row : row + size[0], col : col + size[1]]
        if window.shape != image.shape:
            masks = place_runs(target.masks, (-row, -col), size)
            inside = np.flatnonzero(masks.areas)
            target = Instances.of(masks.take(inside), target.classes[inside], is_crowd=target.is_crowd[inside])
        if self.draws.crops.scale != 1.0:
            window = resize_image(window, scaled_size(size, self.draws.crops.scale))
        values = window.astype(np.float32) * factor + offset
        tensor = torch.from_numpy(values).permute(2, 0, 1)[None].to(self.device)
        bf16 = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
        with bf16:
            parts = model.maps(tensor, size=size)
        probs, height, contact = (part.cpu().numpy().astype(np.float16) for part in parts)
        return ObjectMaps(probs, height, contact, target)
