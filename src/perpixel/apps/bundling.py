"""What a run says of itself in its bundle."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from perpixel.apps.config import TrainConfig
from perpixel.apps.reading import AnyDataset
from perpixel.data import InstanceDataset
from perpixel.engine.run_folder import RunFolder
from perpixel.images import Normalisation, VolumeNormalisation
from perpixel.inference.bundle import BundleConfig, ObjectForm, VolumeForm
from perpixel.planning import Plan


def bundle_config(
    folder: RunFolder, config: TrainConfig, plan: Plan, dataset: AnyDataset, training: dict[str, Any]
) -> BundleConfig:
    """Everything besides the weights that prediction needs, and where the model comes from.

    Args:
        training: what is to be said of the training besides run, seed and length.
    """
    fingerprint, is_volume = folder.read("fingerprint.json"), dataset.spatial_dims == 3
    return BundleConfig(
        model=plan["model"],
        options={name: value for name, value in plan["options"].items() if name != "weights"},
        channels=len(plan["normalisation"]["low"]),
        classes=dataset.classes,
        normalisation=(VolumeNormalisation if is_volume else Normalisation).from_json(plan["normalisation"]),
        scale=float(plan["scale"]),
        tile=tuple(plan["tile"]),
        precision=plan["precision"],
        training={
            "run": folder.path.name,
            "seed": config.seed,
            "budget_s": config.budget_s,
            "epochs": config.epochs,
            **training,
        },
        data={
            "name": Path(config.data).name,
            "digest": fingerprint["digest"],
            "num_images": fingerprint["num_images"],
            "spacing": plan["spacing_mm"] if is_volume else None,
        },
        versions=versions(),
        volume=_volume_form(plan) if is_volume else None,
        objects=ObjectForm() if isinstance(dataset, InstanceDataset) else None,
    )


def _volume_form(plan: Plan) -> VolumeForm:
    mirror = plan["augmentation"]["mirror"]
    depth, row, column = plan["spacing_mm"]
    return VolumeForm((depth, row, column), (mirror[0], mirror[1], mirror[2]))


def versions() -> dict[str, str]:
    packages = ("perpixel", "torch", "torchvision", "timm", "numpy")
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in packages}}
