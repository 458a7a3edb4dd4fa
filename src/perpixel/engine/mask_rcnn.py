"""The task of `mask_rcnn`: objects -> losses, which the model works out itself; detections -> scores of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.data import InstanceDataset, Sample
from perpixel.data.instance_crops import InstanceBatch, InstanceCrops, instance_batches
from perpixel.engine.object_scores import score_objects
from perpixel.engine.semantic import spread
from perpixel.inference.instance_predictor import InstancePredictor
from perpixel.labels import Instances
from perpixel.metrics import InstanceCounts, instance_counts, instance_scores

# Scores below which detections may be left out where all that is left counts alike.
LEAST_SCORES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Detections of an image and class that COCO's AP looks at; it says 100, but images of cells hold more.
MAX_DETECTIONS = 1000

Pairs = Sequence[tuple[Instances, Instances]]


class MaskRCNNTask:
    """Crops, losses and validation for `fit`.

    Args:
        crops: training draws.
        batch_size: draws a step, on each device.
        dataset, samples: validation images.
        tile: (height, width) in which larger images are predicted.
        weights: of the losses by name, where not 1.
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
        tile: tuple[int, int] = (1024, 1024),
        weights: dict[str, float] | None = None,
        max_validation: int | None = None,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        num_workers: int = 0,
        on_image: Callable[[int, int], None] | None = None,
    ) -> None:
        self.crops, self.batch_size, self.weights = crops, batch_size, weights or {}
        self.dataset, self.tile, self.device, self.precision = dataset, tile, torch.device(device), precision
        self.num_workers, self.on_image = num_workers, on_image
        self.samples = spread(samples, max_validation)

    def batches(
        self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int
    ) -> Iterator[InstanceBatch]:
        """Batches of steps start_step..end_step-1."""
        return instance_batches(
            self.crops,
            batch_size=self.batch_size,
            start_step=start_step,
            end_step=end_step,
            shrink=shrink,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
        )

    def forward(self, model: nn.Module, batch: InstanceBatch, device: torch.device) -> dict[str, Tensor]:
        """Losses of a batch by name."""
        losses: dict[str, Tensor] = model(batch.image.to(device, non_blocking=True), batch.objects)
        return losses

    def loss(self, outputs: dict[str, Tensor], batch: InstanceBatch) -> Tensor:
        """Their weighted sum."""
        return torch.stack([self.weights.get(name, 1.0) * value for name, value in outputs.items()]).sum()

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores over the validation images at their full size; "score" is COCO's mask AP.

        COCO's scores rank all detections. The others count all alike, so that they are those of the detections from
        `min_score` on, the one of LEAST_SCORES that gives the best AP at IoU 0.5 (TP / (TP + FP + FN)) here.
        """
        num_classes = self.dataset.classes.num_classes
        pairs = list(self._pairs(model))
        ranked = score_objects(pairs, num_classes=num_classes, max_detections=MAX_DETECTIONS)
        least = best_least_score(pairs, num_classes=num_classes)
        kept = [(from_score(pred, least), target) for pred, target in pairs]
        matched = score_objects(kept, num_classes=num_classes, max_detections=MAX_DETECTIONS)
        coco = {name: value for name, value in ranked.items() if name.startswith("mask_ap")}
        return {"score": coco["mask_ap"] or 0.0, "score_name": "mask_ap", **matched, **coco, "min_score": least}

    def predictor(self, model: nn.Module) -> InstancePredictor:
        """The pipeline that `predict` uses."""
        return InstancePredictor(
            model,
            classes=self.dataset.classes,
            channels=self.dataset.channels,
            normalisation=self.crops.normalisation,
            scale=self.crops.scale,
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


def from_score(found: Instances, least: float) -> Instances:
    """The detections of `least` and more."""
    assert found.scores is not None
    return found.take(found.scores >= least)


def best_least_score(pairs: Pairs, *, num_classes: int) -> float:
    """The one of LEAST_SCORES from which on the detections have the highest AP at IoU 0.5, TP / (TP + FP + FN).

    The lowest of equal ones; 0.5 where there is neither a detection nor an object.
    """

    def score(least: float) -> float:
        counts = [
            instance_counts(from_score(pred, least), target, num_classes=num_classes, thresholds=(0.5,), boundary=False)
            for pred, target in pairs
        ]
        return instance_scores(InstanceCounts.join(counts)).summary()["ap_50"]

    scores = [score(least) for least in LEAST_SCORES]
    return 0.5 if np.isnan(scores).all() else LEAST_SCORES[int(np.nanargmax(scores))]
