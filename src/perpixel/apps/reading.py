"""Which kind of data set a path is read as, and its check: label maps of images or volumes, or objects one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from perpixel.data import (
    CheckResult,
    Dataset,
    InstanceDataset,
    check_dataset,
    check_instances,
    open_dataset,
    open_instances,
)
from perpixel.errors import InputError, did_you_mean

AnyDataset = Dataset | InstanceDataset
OnProgress = Callable[[int, int, str], None]

TASKS = ("auto", "semantic", "instances")
# Settings of `open_dataset` that mean nothing to objects.
SEMANTIC_ONLY = ("snap",)
# Problems of images themselves.
ABOUT_IMAGES = ("duplicate", "duplicate_between_splits", "group_in_splits", "mixed_dtypes", "constant_image")


def choose_task(task: str, model: str = "auto") -> str:
    """ "semantic" or "instances": what was asked for, else what the model does.

    Raises:
        InputError: an unknown task, or a model of the other one.
    """
    from perpixel.models import DETECTORS, MODELS

    if task not in TASKS:
        raise InputError(f"unknown task '{task}'{did_you_mean(task, TASKS)}")
    finds_objects = model in DETECTORS
    if task == "auto":
        return "instances" if finds_objects else "semantic"
    if model in MODELS and finds_objects != (task == "instances"):
        what = "finds objects one by one" if finds_objects else "labels pixels"
        known = ", ".join(DETECTORS) if task == "instances" else "any that labels pixels, such as unet"
        raise InputError(f"model '{model}' {what}, but task is {task}: choose {known}, or leave task out")
    return task


def open_any(path: str | Path, *, task: str = "semantic", **reading: Any) -> AnyDataset:
    """The data set for a task.

    Args:
        task: "semantic" or "instances".
        reading: as `open_dataset` takes them.
    Raises:
        InputError: as `open_dataset` and `open_instances`; a setting that means nothing to objects.
    """
    if task != "instances":
        return open_dataset(path, **reading)
    for name in SEMANTIC_ONLY:
        if reading.pop(name, None):
            raise InputError(f"{name}: means nothing to objects, which are read one by one: leave it out")
    return open_instances(path, **reading)


def check_any(dataset: AnyDataset, *, on_progress: OnProgress | None = None) -> CheckResult:
    """Read every file once. Of objects: their own problems, and what the images' fingerprint says."""
    if isinstance(dataset, Dataset):
        return check_dataset(dataset, on_progress=on_progress)
    found = check_instances(dataset, on_progress=on_progress)
    pixels = check_dataset(dataset.images)
    known = {(problem.code, problem.file) for problem in found.problems}
    # The same label map is read twice: what was said of its objects is not said of its pixels again.
    more = [each for each in pixels.problems if each.code in ABOUT_IMAGES and (each.code, each.file) not in known]
    fingerprint = replace(pixels.fingerprint, format=dataset.format, instances=found.facts.get("train"))
    return replace(pixels, fingerprint=fingerprint, problems=(*found.problems, *more), notes=dataset.notes)


def of_images(dataset: AnyDataset) -> Dataset:
    """The data set as label maps: of objects, their classes painted."""
    return dataset if isinstance(dataset, Dataset) else dataset.images
