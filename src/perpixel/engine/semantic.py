"""The semantic task: label maps -> loss, logits -> label maps -> one confusion matrix over the whole set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perpixel.data import Dataset, Sample
from perpixel.data.batches import Batch, TrainingCrops, batches
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.predictor import Predictor
from perpixel.losses import presence_loss
from perpixel.metrics import compute_scores, confusion_matrix


class SemanticTask:
    """Crops, loss and full-image validation for `fit`.

    Args:
        crops: training draws.
        batch_size: draws a step, on each device.
        loss: (logits, target) -> scalar.
        aux_weights: weights of the model's further training outputs.
        dataset, samples: validation images, predicted whole with the pipeline that `predict` uses.
        config: normalisation, scale and tile of that pipeline.
        max_validation: images of a validation; a fixed, evenly spread choice where there are more.
        device: where validation runs.
        num_workers: processes that draw crops; 0 draws them in this one.
        on_image: called with (done, total) while validating.
    """

    def __init__(
        self,
        *,
        crops: TrainingCrops,
        batch_size: int,
        loss: nn.Module,
        aux_weights: tuple[float, ...],
        dataset: Dataset,
        samples: tuple[Sample, ...],
        config: BundleConfig,
        max_validation: int | None = None,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        on_image: Callable[[int, int], None] | None = None,
    ) -> None:
        self.crops, self.batch_size, self.aux_weights = crops, batch_size, aux_weights
        self.loss_module = loss.to(device)
        self.dataset, self.config, self.device = dataset, config, torch.device(device)
        self.num_workers, self.on_image = num_workers, on_image
        self.samples = spread(samples, max_validation)

    def batches(self, *, start_step: int, end_step: int, shrink: int, rank: int, world_size: int) -> Iterator[Batch]:
        return batches(
            self.crops,
            batch_size=self.batch_size,
            start_step=start_step,
            end_step=end_step,
            shrink=shrink,
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
        )

    def forward(self, model: nn.Module, batch: Batch, device: torch.device) -> Any:
        return model(batch.image.to(device, non_blocking=True))

    def loss(self, outputs: Tensor | tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Loss of the main logits plus the weighted losses of the further outputs."""
        ignore_index = self.config.classes.ignore_index
        return weighted_loss(self.loss_module, self.aux_weights, outputs, batch.target, ignore_index)

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Scores over the validation images at their full size; "score" is mIoU."""
        predictor = Predictor(model, self.config, device=self.device)
        return score_images(predictor, self.dataset, self.samples, on_image=self.on_image)


def weighted_loss(
    loss: nn.Module,
    aux_weights: Sequence[float],
    outputs: Tensor | tuple[Tensor, ...],
    target: Tensor,
    ignore_index: int,
) -> Tensor:
    """Loss of the main logits plus the weighted losses of the further outputs.

    A further output (B, K) tells which classes the image holds; the others are logits like the main ones.
    """
    main, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    target = target.to(main.device, non_blocking=True)
    total = loss(main, target)
    for weight, logits in zip(aux_weights, others, strict=True):
        term = presence_loss(logits, target, ignore_index=ignore_index) if logits.ndim == 2 else loss(logits, target)
        total = total + weight * term
    return total


def score_images(
    predictor: Predictor,
    dataset: Dataset,
    samples: tuple[Sample, ...],
    *,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores from one confusion matrix over the samples at their full size; "score" is mIoU.

    Args:
        on_image: called with (done, total).
    """
    classes = dataset.classes
    counts = np.zeros((classes.num_classes, classes.num_classes), np.int64)
    for done, sample in enumerate(samples):
        image, target = dataset.load(sample)
        pred = predictor.predict(image).label_map
        counts += confusion_matrix(pred, target, num_classes=classes.num_classes, ignore_index=classes.ignore_index)
        if on_image:
            on_image(done + 1, len(samples))
    result = compute_scores(counts).to_json(classes.names)
    scores = result["scores"]
    return {
        "score": scores["miou"] or 0.0,
        "miou": scores["miou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "mean_dice": scores["mean_dice"],
        "iou": [row["iou"] for row in result["per_class"]],
    }


def spread(samples: tuple[Sample, ...], most: int | None) -> tuple[Sample, ...]:
    """`most` of the samples, evenly spread over their order; all where there are no more than that."""
    if most is None or len(samples) <= most:
        return samples
    places = np.linspace(0, len(samples) - 1, max(1, most)).round().astype(int)
    return tuple(samples[place] for place in sorted(set(places.tolist())))
