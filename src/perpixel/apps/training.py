"""What `train` and `resume` do, from the data set to the bundle: check, plan, fit, hand over."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from perpixel.apps.config import TrainConfig, make_config, parse_duration
from perpixel.apps.model_card import model_card
from perpixel.apps.start import (
    Start,
    adapt_plan,
    compare_data,
    open_start,
    read_start,
    start_record,
    with_start,
    write_start,
)
from perpixel.data import (
    CheckResult,
    Dataset,
    check_dataset,
    open_dataset,
    overlay_sheet,
    refuse,
    repeat_factors,
    save_classes,
    save_splits,
)
from perpixel.data.batches import TrainingCrops
from perpixel.engine.fit import Fit, Recipe
from perpixel.engine.hardware import Hardware, find_hardware, keep_freed_memory
from perpixel.engine.run_folder import RunFolder, new_run_path
from perpixel.engine.schedules import SCHEDULES, Leg, Legs
from perpixel.engine.semantic import SemanticTask, spread
from perpixel.engine.tensorboard import tensorboard_sink
from perpixel.errors import InputError, did_you_mean
from perpixel.files import read_json
from perpixel.images import Normalisation
from perpixel.inference import MIRRORS
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.losses import class_weights, create_loss
from perpixel.models import MODELS, create_model, spatial_dims
from perpixel.planning import (
    COARSE_PROGRESS,
    COARSE_SHARE,
    Machine,
    Plan,
    class_chances,
    has_normalisation,
    label_facts,
    make_plan,
    seconds_per_megapixel,
    training_bytes,
)

OnEvent = Callable[[dict[str, Any]], None]

# Training images that are looked at for an upright, for what smaller scales cost and for an offset of their labels.
FACT_IMAGES = 24
# Pixels between label maps and images above which predictions for mirror images are not averaged.
MAX_MIRROR_OFFSET = 0.25
# Share of the memory that decoded training images may take.
CACHE_SHARE = 0.25


@dataclass(frozen=True)
class Run:
    """A run: its folder, the best validation scores, and the bundle it left."""

    path: Path
    metrics: dict[str, Any]
    bundle: Path


@dataclass(frozen=True)
class Prepared:
    """What is known before the first step; `config` holds what `start` decides as well."""

    config: TrainConfig
    start: Start | None
    dataset: Dataset
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
    start, given = open_start(config), config
    if start is not None:
        config = with_start(config, start)
    check_names(config)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    hardware = find_hardware(config.device)
    machine = Machine(
        hardware.accelerator, hardware.name, hardware.has_bf16, config.devices, memory_bytes=hardware.memory_bytes
    )
    if config.precision == "bf16" and not hardware.has_bf16:
        on_event({"kind": "phase", "text": f"Note: {hardware.name} has no native bf16; it will be slow"})
    dataset = open_data(config)
    refuse_volumes(dataset)
    refuse_other_dims(config.model, dataset)
    result = known or check_data(dataset, on_event=on_event)
    _try_loss(config, dataset)
    if start is not None:
        compare_data(start, channels=result.fingerprint.channels, classes=dataset.classes, on_event=on_event)
    on_event({"kind": "phase", "text": "Planning: timing nets on this machine"})
    plan = _plan(config, dataset, result, machine)
    if start is not None:
        plan = adapt_plan(plan, given, start)
    return Prepared(config, start, dataset, result, plan, machine)


def open_data(config: TrainConfig) -> Dataset:
    """The data set, read as the settings say."""
    return open_dataset(
        config.data,
        format=config.format,
        classes=config.classes,
        splits=config.splits,
        group=config.group,
        ignore_values=config.ignore_values,
        snap=config.snap,
        seed=config.seed,
    )


def refuse_volumes(dataset: Dataset) -> None:
    """Stop before anything slow is done with data that nothing here can train on or score yet."""
    if dataset.spatial_dims == 3:
        raise InputError(
            f"{dataset.root}: holds volumes, which this version checks but does not train on or score yet: save their "
            "slices as PNG or TIFF images, or wait"
        )


def refuse_other_dims(model: str, dataset: Dataset) -> None:
    """Refuse a model of volumes for images, and the other way round."""
    if model == "auto" or (dims := spatial_dims(MODELS[model])) == dataset.spatial_dims:
        return
    takes, holds = ("volumes", "images") if dims == 3 else ("images", "volumes")
    fitting = [name for name, each in MODELS.items() if spatial_dims(each) == dataset.spatial_dims]
    raise InputError(
        f"model '{model}' takes {takes}, but {dataset.root} holds {holds}: choose one for {holds}: {', '.join(fitting)}"
    )


def check_data(dataset: Dataset, *, on_event: OnEvent) -> CheckResult:
    """Read every file once.

    Raises:
        InputError: errors in the data, or nothing to train or to validate on.
    """
    on_event({"kind": "phase", "text": "Checking the data"})

    def tell(done: int, total: int, name: str) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": f"check {name}"})

    result = check_dataset(dataset, on_progress=tell)
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


def _try_loss(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse a loss that cannot take this number of classes before anything slow is done."""
    if config.loss in (None, "ce"):
        return  # they suit any number
    num_classes = dataset.classes.num_classes
    loss = create_loss(config.loss, class_pixels=[1] * num_classes)
    loss(torch.zeros(1, num_classes, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


def _plan(config: TrainConfig, dataset: Dataset, check: CheckResult, machine: Machine) -> Plan:
    samples = spread(dataset.split("train"), FACT_IMAGES)
    facts = label_facts((dataset.load(sample) for sample in samples), dataset.classes)

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


def train_run(
    config: TrainConfig,
    *,
    out: str | os.PathLike[str] | None,
    began: float,
    on_event: OnEvent,
    known: CheckResult | None = None,
) -> Run:
    """Start a run in a new folder and see it through. With several devices the first process prepares for all.

    Args:
        known: the outcome of an earlier check of the same data.
    """
    fabric = launch(config, choose_precision(config, find_hardware(config.device)))
    path, refusal, dataset = Path(), None, None
    if fabric.is_global_zero:
        name = f"{Path(config.data).resolve().stem}-{config.model}"
        folder = RunFolder(Path(out) if out is not None else new_run_path("runs", name))
        try:
            # Made before the data are read: a place that cannot be written is found at once.
            folder.create()
            prepared = prepare_run(config, on_event=on_event, known=known)
            if prepared.start is not None:
                model = _seeded_model(prepared.config, prepared.plan, prepared.dataset)
                write_start(folder, model, prepared.plan, prepared.start, on_event=on_event)
            _write_start(folder, prepared, spent_s=time.perf_counter() - began)
            path, dataset = folder.path, prepared.dataset
        except InputError as error:
            folder.discard()
            refusal = str(error)
    # The others must hear of a refusal too, or they would wait for ever.
    path, refusal = fabric.broadcast((path, refusal))
    if refusal is not None:
        raise InputError(refusal)
    return finish_run(RunFolder(path), on_event=on_event, dataset=dataset, fabric=fabric)


def choose_precision(config: TrainConfig, hardware: Hardware) -> str:
    """ "bf16" where the machine computes it natively, unless the user says otherwise."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if hardware.has_bf16 else "fp32"


def launch(config: TrainConfig, precision: str) -> lightning_fabric.Fabric:
    """Fabric on the devices asked for; with several, this process is from here on one of them."""
    accelerator = find_hardware(config.device).accelerator
    shares = config.devices > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    fabric = lightning_fabric.Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        strategy="ddp" if shares else "auto",
    )
    fabric.launch()
    return fabric


def _write_start(folder: RunFolder, prepared: Prepared, *, spent_s: float) -> None:
    """Everything that a resumed run reads. config.json comes last: with it the folder is a run."""
    config, plan, dataset = prepared.config, prepared.plan, prepared.dataset
    save_splits(dataset, folder.path / "splits.json")
    folder.write("fingerprint.json", prepared.check.fingerprint.to_json())
    folder.write("check.json", prepared.check.to_json())
    folder.write("plan.json", {**plan.to_json(), "spent_s": round(spent_s, 2)})
    save_classes(dataset, folder.path / "classes.json")
    folder.write_legs(plan_legs(plan))
    overlay_sheet(dataset, folder.path / "check_sheet.png")
    absolute = {"data": str(Path(config.data).resolve()), "threads": torch.get_num_threads()}
    if config.classes is not None:
        absolute["classes"] = str(Path(config.classes).resolve())
    if prepared.start is not None:
        absolute["start_from"] = str(prepared.start.path)
    folder.write("config.json", {**config.model_dump(mode="json"), **absolute})


def finish_run(
    folder: RunFolder,
    *,
    on_event: OnEvent,
    dataset: Dataset | None = None,
    fabric: lightning_fabric.Fabric | None = None,
) -> Run:
    """Train from the last checkpoint, or from the start, to the end, and write the bundle."""
    config = make_config(**folder.read("config.json"))
    plan = Plan.from_json({"lines": folder.read("plan.json")["lines"]})
    spent_s = float(folder.read("plan.json")["spent_s"])
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = dataset if dataset is not None else _same_data(folder, config)
    keep_freed_memory()
    fabric = fabric or launch(config, plan["precision"])
    model = _seeded_model(config, plan, data)
    if config.start_from is not None and not folder.last.is_file():  # a checkpoint goes before them
        read_start(folder, model)
    is_extended = any(leg.reason.startswith("extended") for leg in folder.legs().legs)
    recipe = _recipe(config, plan, spent_s=spent_s, is_extended=is_extended)
    bundle_config = _bundle_config(folder, config, plan, data)
    task = _task(folder, config, plan, data, model, bundle_config, fabric, on_event)
    sinks = [on_event]
    if config.tensorboard and fabric.is_global_zero:
        sinks.append(tensorboard_sink(folder.path / "tensorboard", list(data.classes.names)))

    def tell(event: dict[str, Any]) -> None:
        for sink in sinks:
            sink(event)

    tell({"kind": "phase", "text": "Training"})
    fit = Fit(model, task, folder, recipe, fabric=fabric, on_event=tell)
    fit.run()
    if fabric.is_global_zero:
        _hand_over(folder, fit, bundle_config)
    fabric.barrier()
    return Run(folder.path, read_json(folder.bundle / "metrics.json"), folder.bundle)


def _same_data(folder: RunFolder, config: TrainConfig) -> Dataset:
    """The data set as it was when the run began: same splits and the same class table, whatever is inferred today."""
    return open_dataset(
        config.data,
        format=config.format,
        classes=folder.path / "classes.json",
        splits=folder.path / "splits.json",
        group=config.group,
        snap=config.snap,
        seed=config.seed,
    )


def _seeded_model(config: TrainConfig, plan: Plan, dataset: Dataset) -> nn.Module:
    """The net with weights that the seed alone decides."""
    channels = Normalisation.from_json(plan["normalisation"]).low
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return create_model(
            plan["model"], in_channels=len(channels), num_classes=dataset.classes.num_classes, **plan["options"]
        )


def plan_legs(plan: Plan) -> Legs:
    """The legs of a planned run: at half the working scale for the coarse steps, then at the working scale."""
    coarse, steps = plan["coarse_steps"], plan["steps"]
    if not coarse:
        return Legs([Leg(0, steps, 0.0, "planned")])
    first = Leg(0, coarse, 0.0, "planned", until=COARSE_PROGRESS, budget_share=COARSE_SHARE, shrink=2)
    return Legs([first, Leg(coarse, steps, COARSE_PROGRESS, "planned")])


def _recipe(config: TrainConfig, plan: Plan, *, spent_s: float, is_extended: bool) -> Recipe:
    # An extension is a number of steps: the first budget no longer binds.
    budget_s = None if is_extended else plan["budget_s"]
    return Recipe(
        optimizer=plan["optimizer"],
        learning_rate=plan["learning_rate"],
        schedule=plan["schedule"],
        weight_decay=plan["weight_decay"],
        ema_share=plan["ema_share"],
        validations=plan["validations"],
        patience=config.patience,
        checkpoint_every_s=config.checkpoint_every_s,
        budget_s=None if budget_s is None else max(1.0, budget_s - spent_s),
        seed=config.seed,
    )


def _bundle_config(folder: RunFolder, config: TrainConfig, plan: Plan, dataset: Dataset) -> BundleConfig:
    fingerprint = folder.read("fingerprint.json")
    return BundleConfig(
        model=plan["model"],
        options={name: value for name, value in plan["options"].items() if name != "weights"},
        channels=len(Normalisation.from_json(plan["normalisation"]).low),
        classes=dataset.classes,
        normalisation=Normalisation.from_json(plan["normalisation"]),
        scale=float(plan["scale"]),
        tile=tuple(plan["tile"]),
        precision=plan["precision"],
        training={
            "run": folder.path.name,
            "seed": config.seed,
            "budget_s": config.budget_s,
            "epochs": config.epochs,
            "loss": plan["loss"],
            "class_weights": plan["class_weights"],
            "mirrors": _mirrors(plan),
            "start_from": None if config.start_from is None else start_record(folder),
        },
        data={
            "name": Path(config.data).name,
            "digest": fingerprint["digest"],
            "num_images": fingerprint["num_images"],
            "spacing": None,
        },
        versions=_versions(),
    )


def _mirrors(plan: Plan) -> list[str]:
    """Kinds of mirror images that the net saw, less those whose predictions would lie half a pixel and more apart."""
    down, right = plan["label_offset"]
    is_near = {"vertical": abs(down) < MAX_MIRROR_OFFSET, "horizontal": abs(right) < MAX_MIRROR_OFFSET}
    return [way for way in MIRRORS if plan["augmentation"][f"flip_{way}"] and is_near[way]]


def _versions() -> dict[str, str]:
    packages = ("perpixel", "torch", "torchvision", "timm", "numpy")
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in packages}}


def _task(
    folder: RunFolder,
    config: TrainConfig,
    plan: Plan,
    dataset: Dataset,
    model: nn.Module,
    bundle_config: BundleConfig,
    fabric: lightning_fabric.Fabric,
    on_event: OnEvent,
) -> SemanticTask:
    valid = getattr(model, "valid_sizes", None)
    crops = TrainingCrops(
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
        cache_bytes=int(find_hardware("cpu").memory_bytes * CACHE_SHARE) or 2**30,
    )
    on_gpu = fabric.device.type != "cpu"
    workers = config.num_workers if config.num_workers is not None else (min(8, os.cpu_count() or 1) if on_gpu else 0)

    def on_image(done: int, total: int) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": "validation"})

    return SemanticTask(
        crops=crops,
        batch_size=plan["batch_size"],
        loss=_loss(folder, plan, dataset),
        aux_weights=tuple(getattr(model, "aux_weights", ())),
        dataset=dataset,
        samples=dataset.split("val"),
        config=bundle_config,
        max_validation=plan["max_validation"],
        device=fabric.device,
        num_workers=workers,
        on_image=on_image,
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


def _hand_over(folder: RunFolder, fit: Fit, config: BundleConfig) -> None:
    """The best weights as a bundle."""
    best = fit.average
    best.load_state_dict(load_file(folder.best))
    events = [event for event in fit.progress.history if event["step"] == fit.progress.best_step]
    event = events[-1]
    metrics = {
        "split": "val",
        "step": event["step"],
        "steps": fit.progress.step,
        "seconds": round(fit.progress.elapsed_s, 1),
        **{name: event[name] for name in ("miou", "pixel_accuracy", "mean_dice")},
        "iou": dict(zip(config.classes.names, event["iou"])),
        "images": len(fit.task.samples),  # type: ignore[attr-defined]
    }
    config = replace(config, training={**config.training, "steps": fit.progress.step, "best_step": event["step"]})
    save_bundle(folder.bundle, model=best, config=config, metrics=metrics, card=model_card(config, metrics))


def extend_run(folder: RunFolder, extend: str) -> None:
    """Add a leg: more time ("5m") or more epochs ("10") than planned.

    Raises:
        InputError: neither a time nor a number of epochs, or time for a run whose speed is not known yet.
    """
    plan = Plan.from_json({"lines": folder.read("plan.json")["lines"]})
    images = folder.read("fingerprint.json")["num_images"]["train"]
    text = extend.strip()
    if text.isdecimal():
        steps = int(np.ceil(int(text) * images / plan["batch_size"]))
    else:
        known = folder.legs()
        steps_taken = [event for event in folder.read_log() if event["kind"] == "step"]
        times = [event["step_s"] for event in steps_taken if known.at(event["step"] - 1).shrink == 1]
        if not times:
            raise InputError(f"extend '{extend}': no step at full scale yet, so its speed is not known: give epochs")
        steps = int(parse_duration(text) / float(np.median(times)))
    if steps < 1:
        raise InputError(f"extend '{extend}': that is less than one step: give more")
    legs = folder.legs()
    start = legs.total_steps
    folder.write_legs(legs.with_legs(Leg(start, start + steps, 0.0, f"extended by {text}", decided=start)))
