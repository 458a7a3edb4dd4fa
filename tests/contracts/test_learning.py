"""Every entry of NETS learns: it overfits four images, or volumes, to more than 0.95 mIoU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.metrics import compute_scores, confusion_matrix
from perpixel.models import NETS, create_model, spatial_dims

CLASSES = 3
VOLUME_SIDE = 16
GOAL = 0.95


@dataclass(frozen=True)
class Lesson:
    """How a model is trained here: small, but with the stages of the full one."""

    options: dict[str, Any]
    side: int = 64
    steps: int = 150
    learning_rate: float = 3e-3


SMALL_FCN = {"fc_channels": 64, "dropout": 0.0}
THIN_FCN = {"width": 8, **SMALL_FCN}
TIRAMISU = {"layers": [2] * 11, "growth": 8, "first_channels": 16, "dropout": 0.0}
LESSONS = {
    # Cells 32 pixels apart, joined by straight lines, cannot follow the edge of a smaller disc.
    "fcn32s": Lesson(THIN_FCN, side=192, steps=250, learning_rate=2e-3),
    "fcn16s": Lesson(THIN_FCN, side=96, steps=400, learning_rate=2e-3),
    "fcn8s": Lesson(THIN_FCN, side=96, steps=400, learning_rate=2e-3),
    "fcn8s_atonce": Lesson(THIN_FCN, side=96, steps=400, learning_rate=2e-3),
    "segnet": Lesson({"width": 16}),
    "segnet_basic": Lesson({"width": 32}),
    "bayesian_segnet": Lesson({"width": 16, "dropout": 0.1}),
    "fc_densenet56": Lesson(TIRAMISU),
    "fc_densenet67": Lesson(TIRAMISU | {"growth": 12}),
    "fc_densenet103": Lesson(TIRAMISU | {"layers": [1, 2, 3, 2, 1]}),
    # Windows of 35 pixels see enough of these discs to tell them apart.
    "patch_cnn": Lesson({"window": 35, "kernels": [4, 3, 2], "width": 16, "hidden": 32}, steps=200),
    "refinenet": Lesson({"encoder": "resnet18", "width": 32, "dropout": 0.0}),
    "refinenet_lw": Lesson({"encoder": "mobilenetv2", "width": 32}),
    "pspnet": Lesson({"encoder": "mobilenetv3_small_050", "width": 32, "dropout": 0.0}, side=96),
    "gcn": Lesson({"encoder": "resnet18"}),
    "liteseg": Lesson({"width": 32}),
    "deeplab_v3": Lesson({"encoder": "resnet18", "channels": 32, "output_stride": 8}),
    "deeplab_v3_plus": Lesson({"encoder": "resnet18", "channels": 32}),
    "fpn": Lesson({"encoder": "resnet18", "channels": 32, "head_channels": 64}),
    "pspnet_shallow": Lesson({"encoder": "resnet18", "width": 32, "dropout": 0.0}),
    "fcn_resnet": Lesson({"encoder": "resnet18", "aux": True}),
    # MobileNetV3's running averages move by 0.01 a step, too slowly for so few steps.
    "lraspp": Lesson({"encoder": "resnet18", "channels": 32}),
    "unet": Lesson({"width": 8}),
    "unet_valid": Lesson({"width": 8, "dropout": 0.0}, side=188, steps=250),
    "dilated": Lesson({"width": 4, **SMALL_FCN}, steps=120, learning_rate=2e-3),
    "deeplab_v1": Lesson(THIN_FCN, learning_rate=2e-3),
    "deeplab_v2": Lesson({"backbone": "resnet18"}, steps=100),
    "vnet": Lesson({"width": 8, "depth": 4, "kernel": 3, "norm": "instance", "deep_supervision": True}, VOLUME_SIDE),
    "vnet_release": Lesson({"width": 4}, VOLUME_SIDE, learning_rate=2e-3),
    "vnet_monai": Lesson({"width": 4, "dropout": 0.0}, VOLUME_SIDE),
    "unet3d": Lesson({"width": 4, "norm": "instance", "residual": True, "deep_supervision": True}, VOLUME_SIDE),
    "unet3d_valid": Lesson({"width": 4, "depth": 2}, side=32),
    "unet_plus_plus": Lesson({"width": 8, "norm": True, "dropout": 0.0, "deep_supervision": True}),
    "unet_3plus": Lesson({"width": 8, "deep_supervision": True, "classification_guided": True}),
}
QUICK = ("unet",)


def four_samples(name: str, side: int) -> tuple[Tensor, Tensor]:
    """What the model learns: images, or volumes."""
    return four_images(side) if spatial_dims(NETS[name]) == 2 else four_volumes(side)


def four_volumes(side: int) -> tuple[Tensor, Tensor]:
    """Balls of class 1 or 2, half as bright as each other, in noise: (4, 3, s, s, s), (4, s, s, s)."""
    random = np.random.default_rng(0)
    places = np.mgrid[:side, :side, :side]
    volumes, targets = [], []
    for number in range(4):
        target = np.zeros((side,) * 3, np.int64)
        for value in (1, 2):
            middle = random.uniform(0.3, 0.7, 3) * side
            radius = random.uniform(0.2, 0.3) * side
            squares = sum((place - each) ** 2 for place, each in zip(places, middle))
            target[squares < radius**2] = value if number % 2 else 3 - value
        volume = np.stack([target * 0.6 - 0.6, (target == 1) * 1.0, (target == 2) * 0.5])
        volumes.append(volume + random.normal(0, 0.2, volume.shape))
        targets.append(target)
    return torch.from_numpy(np.stack(volumes)).float(), torch.from_numpy(np.stack(targets))


def four_images(side: int) -> tuple[Tensor, Tensor]:
    """Discs of class 1 or 2, half as bright as each other, on a noisy ground: (4, 3, s, s), (4, s, s)."""
    random = np.random.default_rng(0)
    rows, cols = np.mgrid[:side, :side]
    images, targets = [], []
    for number in range(4):
        target = np.zeros((side, side), np.int64)
        for value in (1, 2):
            row, col = random.uniform(0.25, 0.75, 2) * side
            radius = random.uniform(0.2, 0.3) * side
            target[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = value if number % 2 else 3 - value
        image = np.stack([target * 0.6 - 0.6, (target == 1) * 1.0, (target == 2) * 0.5])
        images.append(image + random.normal(0, 0.2, image.shape))
        targets.append(target)
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(targets))


def centre(target: Tensor, like: Tensor) -> Tensor:
    """What an unpadded net answers for: the middle of the target."""
    for axis in range(1, target.ndim):
        side = like.shape[axis + 1]
        target = target.narrow(axis, (target.shape[axis] - side) // 2, side)
    return target


def presence(target: Tensor) -> Tensor:
    return torch.stack([(target == value).flatten(1).any(1) for value in range(CLASSES)], 1).float()


def loss_of(output: Tensor | tuple[Tensor, ...], target: Tensor, weights: tuple[float, ...]) -> Tensor:
    main, *others = output if isinstance(output, tuple) else (output,)
    total = F.cross_entropy(main, centre(target, main))
    for weight, each in zip(weights, others, strict=True):
        is_presence = each.ndim == 2
        term = (
            F.binary_cross_entropy_with_logits(each, presence(target)) if is_presence else F.cross_entropy(each, target)
        )
        total = total + weight * term
    return total


def test_every_model_has_a_lesson() -> None:
    assert set(LESSONS) == set(NETS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LESSONS]
)
def test_overfits_four_images(name: str) -> None:
    lesson = LESSONS[name]
    torch.manual_seed(0)
    model: Any = create_model(name, num_classes=CLASSES, **lesson.options)
    images, targets = four_samples(name, lesson.side)
    if images.ndim == 4:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lesson.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lesson.learning_rate, lesson.steps)
    for _ in range(lesson.steps):
        optimizer.zero_grad()
        loss_of(model.train()(images), targets, model.aux_weights).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logits = model.eval()(images)
    pred, truth = logits.argmax(1).numpy(), centre(targets, logits).numpy()
    scores = compute_scores(confusion_matrix(pred, truth, num_classes=CLASSES))
    assert scores.miou > GOAL
