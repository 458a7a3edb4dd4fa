"""What a run trains for: the task of its data set, made from what the run wrote down."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from perpixel.apps.config import TrainConfig
from perpixel.apps.reading import AnyDataset
from perpixel.data import Dataset, InstanceDataset, repeat_factors
from perpixel.data.batches import TrainingCrops
from perpixel.data.instance_crops import InstanceCrops
from perpixel.data.volume_batches import VolumeCrops
from perpixel.engine.fit import Task
from perpixel.engine.hardware import find_hardware
from perpixel.engine.mask_rcnn import MaskRCNNTask
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.semantic import SemanticTask
from perpixel.engine.volumes import PreparedCases, VolumeTask
from perpixel.engine.watershed import WatershedTask
from perpixel.images import Normalisation, VolumeNormalisation
from perpixel.inference import BundleConfig
from perpixel.losses import create_loss
from perpixel.planning import Plan, class_chances, volume_augmentation

OnEvent = Callable[[dict[str, Any]], None]

# Share of the memory that decoded training images may take.
CACHE_SHARE = 0.25


def make_task(
    folder: RunFolder,
    config: TrainConfig,
    plan: Plan,
    dataset: AnyDataset,
    model: nn.Module,
    bundle_config: BundleConfig,
    fabric: Fabric,
    on_event: OnEvent,
) -> Task:
    """The task for images, volumes or objects."""

    def on_image(done: int, total: int) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": "validation"})

    on_gpu = fabric.device.type != "cpu"
    if isinstance(dataset, InstanceDataset):
        return _object_task(folder, config, plan, dataset, bundle_config, fabric.device, on_image)
    common: dict[str, Any] = {
        "batch_size": plan["batch_size"],
        "loss": _loss(folder, plan, dataset),
        "aux_weights": tuple(getattr(model, "aux_weights", ())),
        "dataset": dataset,
        "samples": dataset.split("val"),
        "config": bundle_config,
        "max_validation": plan["max_validation"],
        "device": fabric.device,
        "on_image": on_image,
    }
    if dataset.spatial_dims == 3:
        crops = _volume_crops(folder, config, plan, dataset, bundle_config)
        # On a CPU one thread draws ahead: while the net waits for memory, or for its other thread, there is time.
        return VolumeTask(crops=crops, num_workers=_workers(config, 4 if on_gpu else 1), **common)
    crops2d = _image_crops(folder, config, plan, dataset, model, bundle_config)
    return SemanticTask(crops=crops2d, num_workers=_workers(config, 8 if on_gpu else 0), **common)


def _object_task(
    folder: RunFolder,
    config: TrainConfig,
    plan: Plan,
    dataset: InstanceDataset,
    bundle_config: BundleConfig,
    device: torch.device,
    on_image: Callable[[int, int], None],
) -> MaskRCNNTask | WatershedTask:
    assert isinstance(bundle_config.normalisation, Normalisation)
    height, width = plan["crop"]
    crops = InstanceCrops(
        dataset,
        dataset.split("train"),
        crop=(height, width),
        normalisation=bundle_config.normalisation,
        augmentation=plan.augmentation(),
        seed=config.seed,
        scale=bundle_config.scale,
        object_share=plan["rare_share"],
        cache_bytes=_cache_bytes(),
    )
    common: dict[str, Any] = {
        "crops": crops,
        "batch_size": plan["batch_size"],
        "dataset": dataset,
        "samples": dataset.split("val"),
        "max_validation": plan["max_validation"],
        "device": device,
        "precision": bundle_config.precision,
        "num_workers": _workers(config, 8 if device.type != "cpu" else 0),
        "on_image": on_image,
    }
    way = MaskRCNNTask if plan["model"] == "mask_rcnn" else WatershedTask
    return way(tile=(bundle_config.tile[0], bundle_config.tile[1]), **common)


def _workers(config: TrainConfig, proposed: int) -> int:
    return config.num_workers if config.num_workers is not None else min(proposed, os.cpu_count() or 1)


def _cache_bytes() -> int:
    return int(find_hardware("cpu").memory_bytes * CACHE_SHARE) or 2**30


def _image_crops(
    folder: RunFolder, config: TrainConfig, plan: Plan, dataset: Dataset, model: nn.Module, bundle_config: BundleConfig
) -> TrainingCrops:
    valid = getattr(model, "valid_sizes", None)
    assert isinstance(bundle_config.normalisation, Normalisation)
    return TrainingCrops(
        dataset,
        dataset.split("train"),
        crop=tuple(plan["crop"]),
        normalisation=bundle_config.normalisation,
        augmentation=plan.augmentation(),
        seed=config.seed,
        scale=bundle_config.scale,
        margin=getattr(model, "margin", 0),
        offset=(plan["label_offset"][0] * bundle_config.scale, plan["label_offset"][1] * bundle_config.scale),
        fit_size=None if valid is None else valid.fit_size,
        rare_share=plan["rare_share"],
        **_sampling(folder, plan, dataset),
        cache_bytes=_cache_bytes(),
    )


def _volume_crops(
    folder: RunFolder, config: TrainConfig, plan: Plan, dataset: Dataset, bundle_config: BundleConfig
) -> VolumeCrops:
    samples, form = dataset.split("train"), bundle_config.volume
    assert form is not None and isinstance(bundle_config.normalisation, VolumeNormalisation)
    depth, height, width = plan["crop"]
    return VolumeCrops(
        PreparedCases(dataset, samples, bundle_config.normalisation, form.spacing_mm),
        [sample.name for sample in samples],
        num_classes=dataset.classes.num_classes,
        patch=(depth, height, width),
        augmentation=volume_augmentation(plan),
        seed=config.seed,
        spacing=form.spacing_mm,
        foreground_share=plan["rare_share"],
        cache_bytes=_cache_bytes(),
    )


def _sampling(folder: RunFolder, plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """How rare classes are shown more often; from what the run wrote down, so that a resumed one draws alike."""
    if "repeat_threshold" not in plan:  # begun before there was a choice
        return {}
    pixels = folder.read("fingerprint.json")["class_pixels"]["train"]
    settings: dict[str, Any] = {"class_chances": class_chances(pixels, plan["rare_power"])}
    if plan["repeat_threshold"]:
        found = folder.read("check.json")["train_classes"]
        classes_of = [found.get(sample.name, []) for sample in dataset.split("train")]
        settings["repeats"] = repeat_factors(classes_of, threshold=plan["repeat_threshold"])
    return settings


def _loss(folder: RunFolder, plan: Plan, dataset: Dataset) -> nn.Module:
    weights = None
    if plan["class_weights"] != "none":
        weights = torch.tensor(plan["class_weight_values"], dtype=torch.float32)
    return create_loss(
        plan["loss"],
        class_weights=weights,
        ignore_index=dataset.classes.ignore_index,
        class_pixels=folder.read("fingerprint.json")["class_pixels"]["train"],
    )
