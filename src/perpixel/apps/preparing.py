"""What comes before training: the data opened and checked, the settings refused or completed by a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perpixel.apps.config import TrainConfig, refuse_net_settings
from perpixel.apps.reading import AnyDataset, check_any, choose_task, of_images, open_any
from perpixel.apps.start import Start, adapt_plan, compare_data, open_start, with_start
from perpixel.data import CheckResult, Dataset, InstanceDataset, refuse
from perpixel.engine.hardware import Hardware, find_hardware
from perpixel.engine.schedules import SCHEDULES
from perpixel.engine.semantic import spread
from perpixel.errors import InputError, did_you_mean
from perpixel.inference import BundleConfig
from perpixel.losses import class_weights, create_loss
from perpixel.models import FORESTS, MODELS, create_model, spatial_dims
from perpixel.planning import (
    DEFAULT_BUDGET_S,
    LabelFacts,
    Machine,
    Plan,
    has_normalisation,
    label_facts,
    make_plan,
    plan_forest,
    plan_instances,
    plan_volumes,
    seconds_per_megapixel,
    seconds_per_step,
    training_bytes,
)

OnEvent = Callable[[dict[str, Any]], None]

# Training images that are looked at for an upright, for what smaller scales cost and for an offset of their labels.
FACT_IMAGES = 24


@dataclass(frozen=True)
class Prepared:
    """What is known before the first step; `config` holds what `start` decides as well."""

    config: TrainConfig
    start: Start | None
    dataset: AnyDataset
    check: CheckResult
    plan: Plan
    machine: Machine


def prepare_run(config: TrainConfig, *, on_event: OnEvent, known: CheckResult | None = None) -> Prepared:
    """Open and check the data, refuse it where it is broken, and plan.

    Args:
        known: the outcome of an earlier check of the same data, which is then not done again.
    Raises:
        InputError: errors in the data, unknown names, impossible settings.
    """
    if config.model in FORESTS:
        refuse_net_settings(config)
    start, given = open_start(config), config
    if start is not None:
        config = with_start(config, start)
    check_names(config)
    config = config.model_copy(update={"task": choose_task(config.task, config.model)})
    torch.set_num_threads(config.threads or torch.get_num_threads())
    hardware = find_hardware(config.device)
    machine = Machine(
        hardware.accelerator, hardware.name, hardware.has_bf16, config.devices, memory_bytes=hardware.memory_bytes
    )
    if config.precision == "bf16" and not hardware.has_bf16:
        on_event({"kind": "phase", "text": f"Note: {hardware.name} has no native bf16; it will be slow"})
    dataset = open_data(config)
    refuse_other_settings(config, dataset)
    refuse_other_dims(config.model, dataset)
    result = known or check_data(dataset, on_event=on_event)
    _try_loss(config, dataset)
    if start is not None:
        compare_data(start, channels=result.fingerprint.channels, classes=dataset.classes, on_event=on_event)
    if config.model in FORESTS:
        budget_s = None if config.epochs else config.budget_s or DEFAULT_BUDGET_S
        plan = plan_forest(result.fingerprint, given=config.given(), budget_s=budget_s)
        return Prepared(config, None, dataset, result, plan, machine)
    on_event({"kind": "phase", "text": "Planning: timing nets on this machine"})
    plan = _plan(config, dataset, result, machine)
    if start is not None:
        plan = adapt_plan(plan, given, start)
    return Prepared(config, start, dataset, result, plan, machine)


def open_data(config: TrainConfig) -> AnyDataset:
    """The data set, read as the settings say."""
    return open_any(
        config.data,
        task=choose_task(config.task, config.model),
        format=config.format,
        classes=config.classes,
        splits=config.splits,
        group=config.group,
        ignore_values=config.ignore_values,
        snap=config.snap,
        seed=config.seed,
    )


def refuse_volumes(dataset: AnyDataset, what: str) -> Dataset:
    """Stop before anything slow is done with volumes or objects by something that is made for label maps of images."""
    if isinstance(dataset, InstanceDataset):
        raise InputError(f"{dataset.root}: is read object by object, but {what} works with label maps: leave it out")
    if dataset.spatial_dims == 3:
        raise InputError(f"{dataset.root}: holds volumes, but {what} works with images only: leave it out")
    return dataset


def refuse_other_kind(where: Path, model: BundleConfig, dataset: AnyDataset) -> None:
    """Stop before a model of volumes is given images, or the other way round."""
    if model.spatial_dims != dataset.spatial_dims:
        takes = "volumes" if model.spatial_dims == 3 else "images"
        raise InputError(
            f"{where}: a model of {takes}, but {dataset.root} holds {_kind(dataset)}: give data of its kind"
        )


def refuse_other_settings(config: TrainConfig, dataset: AnyDataset) -> None:
    """Refuse settings that mean nothing to data of this kind."""
    if config.crop is not None and len(config.crop) != dataset.spatial_dims:
        sides = "(depth, height, width)" if dataset.spatial_dims == 3 else "(height, width)"
        raise InputError(f"crop {config.crop}: {dataset.root} holds {_kind(dataset)}: give {sides}")
    if isinstance(dataset, InstanceDataset):
        if config.start_from is not None:
            refuse_volumes(dataset, "start_from")
        for name in ("class_weights", "rare_power", "repeat_threshold", "loss"):
            value = getattr(config, name)
            if value is not None:
                raise InputError(f"{name} {value}: means nothing to objects, which {dataset.root} holds: leave it out")
        return
    if dataset.spatial_dims == 2:
        return
    if config.start_from is not None:
        refuse_volumes(dataset, "start_from")
    for name in ("scale", "rare_power", "repeat_threshold"):
        value = getattr(config, name)
        if value is not None:
            raise InputError(f"{name} {value}: means nothing to volumes, which {dataset.root} holds: leave it out")


def _kind(dataset: AnyDataset) -> str:
    return "volumes" if dataset.spatial_dims == 3 else "images"


def refuse_other_dims(model: str, dataset: AnyDataset) -> None:
    """Refuse a model of volumes for images, and the other way round."""
    if model == "auto" or (dims := spatial_dims(MODELS[model])) == dataset.spatial_dims:
        return
    takes, holds = "volumes" if dims == 3 else "images", _kind(dataset)
    fitting = [name for name, each in MODELS.items() if spatial_dims(each) == dataset.spatial_dims]
    raise InputError(
        f"model '{model}' takes {takes}, but {dataset.root} holds {holds}: choose one for {holds}: {', '.join(fitting)}"
    )


def check_data(dataset: AnyDataset, *, on_event: OnEvent) -> CheckResult:
    """Read every file once.

    Raises:
        InputError: errors in the data, or nothing to train or to validate on.
    """
    on_event({"kind": "phase", "text": "Checking the data"})

    def tell(done: int, total: int, name: str) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": f"check {name}"})

    result = check_any(dataset, on_progress=tell)
    refuse(result)
    dataset.split("train")
    dataset.split("val")
    return result


def check_names(config: TrainConfig) -> None:
    """Refuse unknown names before anything slow is done."""
    if config.schedule is not None and config.schedule not in SCHEDULES:
        raise InputError(f"unknown schedule '{config.schedule}'{did_you_mean(config.schedule, SCHEDULES)}")
    if config.optimizer not in (None, "adamw", "sgd"):
        raise InputError(f"unknown optimizer '{config.optimizer}'{did_you_mean(config.optimizer, ['adamw', 'sgd'])}")
    if config.loss is not None:
        create_loss(config.loss)  # whether it suits the classes shows once they are known: `_try_loss`
    if config.class_weights is not None:
        class_weights(config.class_weights, [1, 1], [1, 1])
    if config.model != "auto":
        with torch.device("meta"):
            create_model(
                config.model, **{**config.options, "weights": None} if "weights" in config.options else config.options
            )


def _try_loss(config: TrainConfig, dataset: AnyDataset) -> None:
    """Refuse a loss that cannot take this number of classes before anything slow is done."""
    if config.loss in (None, "ce"):
        return  # they suit any number
    num_classes = dataset.classes.num_classes
    loss = create_loss(config.loss, class_pixels=[1] * num_classes)
    sides = (4,) * dataset.spatial_dims
    try:
        loss(torch.zeros(1, num_classes, *sides), torch.zeros(1, *sides, dtype=torch.int64))
    except (ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"loss '{config.loss}': cannot be taken of {_kind(dataset)} ({error}): choose another"
        ) from error


def _plan_volumes(config: TrainConfig, dataset: AnyDataset, check: CheckResult, machine: Machine) -> Plan:
    known: dict[str, Any] = {
        "in_channels": check.fingerprint.channels,
        "num_classes": dataset.classes.num_classes,
        "precision": choose_precision(config, find_hardware(config.device)),
    }

    def measure(
        model: str, options: dict[str, Any], size: tuple[int, int, int], batch_size: int, hopeless: float
    ) -> float:
        where: dict[str, Any] = {
            "size": size,
            "batch_size": batch_size,
            "hopeless": hopeless,
            "device": machine.accelerator,
        }
        return seconds_per_step(model, options, **known, **where)

    def memory(model: str, options: dict[str, Any], size: tuple[int, int, int], batch_size: int) -> float:
        return training_bytes(model, options, **known, size=size, batch_size=batch_size)

    return plan_volumes(
        check.fingerprint,
        machine=machine,
        given=config.given(),
        budget_s=config.budget_s,
        epochs=config.epochs,
        measure=measure,
        is_normalised=has_normalisation,
        memory=memory,
    )


def _plan(config: TrainConfig, dataset: AnyDataset, check: CheckResult, machine: Machine) -> Plan:
    if dataset.spatial_dims == 3:
        return _plan_volumes(config, dataset, check, machine)
    pixels = of_images(dataset)
    samples = spread(dataset.split("train"), FACT_IMAGES)
    facts = label_facts((pixels.load(sample) for sample in samples), pixels.classes)
    if isinstance(dataset, InstanceDataset):
        return _plan_instances(config, dataset, check, machine, facts)

    def measure(model: str, options: dict[str, Any], side: int, hopeless: float) -> float:
        return seconds_per_megapixel(
            model,
            options,
            in_channels=check.fingerprint.channels,
            num_classes=dataset.classes.num_classes,
            device=machine.accelerator,
            precision=choose_precision(config, find_hardware(config.device)),
            side=side,
            hopeless=hopeless,
        )

    def memory(model: str, options: dict[str, Any], size: tuple[int, int], batch_size: int) -> float:
        return training_bytes(
            model,
            options,
            in_channels=check.fingerprint.channels,
            num_classes=dataset.classes.num_classes,
            size=size,
            batch_size=batch_size,
            precision=choose_precision(config, find_hardware(config.device)),
        )

    return make_plan(
        check.fingerprint,
        facts,
        machine=machine,
        given=config.given(),
        budget_s=config.budget_s,
        epochs=config.epochs,
        measure=measure,
        is_normalised=has_normalisation,
        memory=memory,
    )


def _plan_instances(
    config: TrainConfig, dataset: InstanceDataset, check: CheckResult, machine: Machine, facts: LabelFacts
) -> Plan:
    known: dict[str, Any] = {
        "in_channels": check.fingerprint.channels,
        "num_classes": dataset.classes.num_classes,
        "precision": choose_precision(config, find_hardware(config.device)),
    }

    def measure(model: str, options: dict[str, Any], size: tuple[int, int], batch_size: int) -> float:
        return seconds_per_step(model, options, **known, size=size, batch_size=batch_size, device=machine.accelerator)

    return plan_instances(
        check.fingerprint,
        facts,
        machine=machine,
        given=config.given(),
        budget_s=config.budget_s,
        epochs=config.epochs,
        measure=measure,
    )


def choose_precision(config: TrainConfig, hardware: Hardware) -> str:
    """ "bf16" where the machine computes it natively, unless the user says otherwise; a forest has no use for it."""
    if config.model in FORESTS:
        return "fp32"
    if config.precision != "auto":
        return config.precision
    return "bf16" if hardware.has_bf16 else "fp32"
