"""What a training step's outputs cost: the main logits, further ones, and the presence of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from perpixel.apps import api
from perpixel.data import Dataset, open_dataset
from perpixel.data.batches import Batch
from perpixel.engine.semantic import SemanticTask
from perpixel.images import Normalisation
from perpixel.inference.bundle import BundleConfig
from perpixel.losses import CrossEntropy, cross_entropy, presence_loss

IGNORE = 255


def task_of(dataset: Dataset, aux_weights: tuple[float, ...]) -> SemanticTask:
    config = BundleConfig(
        "unet", {}, 1, dataset.classes, Normalisation((0.0,), (255.0,), (0.5,), (0.5,)), 1.0, (64, 64), "fp32"
    )
    crops: Any = None
    return SemanticTask(
        crops=crops, batch_size=2, loss=CrossEntropy(ignore_index=IGNORE), aux_weights=aux_weights,
        dataset=dataset, samples=(), config=config,
    )  # fmt: skip


def test_an_output_of_two_axes_is_the_presence_of_classes(shapes: Path) -> None:
    dataset = open_dataset(shapes, ignore_values=(IGNORE,))
    assert dataset.classes.ignore_index == IGNORE
    generator = torch.Generator().manual_seed(0)
    main, deep = torch.randn(2, 2, 3, 5, 6, generator=generator)
    presence = torch.randn(2, 3, generator=generator)
    target = torch.randint(0, 2, (2, 5, 6), generator=generator)
    target[1] = IGNORE
    batch = Batch(torch.zeros(2, 1, 5, 6), target, ["a", "b"])
    total = task_of(dataset, (0.5, 2.0)).loss((main, deep, presence), batch)
    dense = [cross_entropy(logits, target, ignore_index=IGNORE) for logits in (main, deep)]
    expected = dense[0] + 0.5 * dense[1] + 2 * presence_loss(presence, target, ignore_index=IGNORE)
    torch.testing.assert_close(total, expected)
    truth = torch.tensor([[1.0, 1.0, 0.0]])
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(presence[:1], truth)
    torch.testing.assert_close(total - dense[0] - 0.5 * dense[1], 2 * by_hand)


def test_one_tensor_costs_the_loss_alone(shapes: Path) -> None:
    dataset = open_dataset(shapes)
    logits, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4).long()
    total = task_of(dataset, ()).loss(logits, Batch(torch.zeros(1, 1, 4, 4), target, ["a"]))
    torch.testing.assert_close(total, cross_entropy(logits, target))


@pytest.mark.parametrize("loss", ["hybrid", "ce+dice"])
def test_a_net_with_all_its_outputs_trains(shapes: Path, tmp_path: Path, loss: str) -> None:
    options = {"width": 2, "deep_supervision": True, "classification_guided": True}
    run = api.train(
        shapes, model="unet_3plus", options=options, loss=loss, epochs=1, batch_size=2, threads=1, out=tmp_path / "run"
    )
    assert 0 <= run.metrics["miou"] <= 1
