"""What `train` and `resume` do once all is prepared: write the run down, fit, hand over the bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning_fabric
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from perpixel.apps.bundling import bundle_config as make_bundle_config
from perpixel.apps.config import TrainConfig, make_config, parse_duration, refuse_net_settings
from perpixel.apps.forests import finish_forest
from perpixel.apps.model_card import model_card
from perpixel.apps.preparing import Prepared, choose_precision, prepare_run
from perpixel.apps.reading import AnyDataset, of_images, open_any
from perpixel.apps.start import (
    read_start,
    start_record,
    write_start,
)
from perpixel.apps.tasks import make_task
from perpixel.data import (
    CheckResult,
    Dataset,
    InstanceDataset,
    overlay_sheet,
    save_classes,
    save_splits,
)
from perpixel.engine.fit import Fit, Recipe
from perpixel.engine.hardware import find_hardware, keep_freed_memory
from perpixel.engine.run_folder import RunFolder, new_run_path
from perpixel.engine.schedules import Leg, Legs
from perpixel.engine.tensorboard import tensorboard_sink
from perpixel.engine.volumes import find_rules
from perpixel.engine.watershed import WatershedTask
from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.inference import MIRRORS, volume_predictor
from perpixel.inference.bundle import BundleConfig, ObjectForm, save_bundle
from perpixel.models import FORESTS, UNetWatershed, create_model
from perpixel.planning import (
    COARSE_PROGRESS,
    COARSE_SHARE,
    Plan,
)

OnEvent = Callable[[dict[str, Any]], None]

# What validation says, as it stands in a bundle.
SCORES = (
    "score_name", "structure_dice", "mask_ap", "mask_ap50", "matching_ap50", "matching_ap", "f1_50", "pq",
    "miou", "pixel_accuracy", "mean_dice",
)  # fmt: skip
# Pixels between label maps and images above which predictions for mirror images are not averaged.
MAX_MIRROR_OFFSET = 0.25


@dataclass(frozen=True)
class Run:
    """A run: its folder, the best validation scores, and the bundle it left."""

    path: Path
    metrics: dict[str, Any]
    bundle: Path


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
    if config.model in FORESTS:  # before several processes are started for it
        refuse_net_settings(config)
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
    if plan["model"] not in FORESTS:
        folder.write_legs(plan_legs(plan))
    overlay_sheet(of_images(dataset), folder.path / "check_sheet.png")
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
    dataset: AnyDataset | None = None,
    fabric: lightning_fabric.Fabric | None = None,
) -> Run:
    """Train from the last checkpoint, or from the start, to the end, and write the bundle."""
    config = make_config(**folder.read("config.json"))
    plan = Plan.from_json({"lines": folder.read("plan.json")["lines"]})
    spent_s = float(folder.read("plan.json")["spent_s"])
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = dataset if dataset is not None else _same_data(folder, config)
    keep_freed_memory()
    if plan["model"] in FORESTS:
        assert isinstance(data, Dataset)  # no forest finds objects
        metrics = finish_forest(folder, config, plan, data, spent_s=spent_s, on_event=on_event)
        return Run(folder.path, metrics, folder.bundle)
    fabric = fabric or launch(config, plan["precision"])
    model = _seeded_model(config, plan, data)
    if config.start_from is not None and not folder.last.is_file():  # a checkpoint goes before them
        read_start(folder, model)
    is_extended = any(leg.reason.startswith("extended") for leg in folder.legs().legs)
    recipe = _recipe(config, plan, spent_s=spent_s, is_extended=is_extended)
    bundle_config = make_bundle_config(folder, config, plan, data, _training_record(folder, config, plan))
    task = make_task(folder, config, plan, data, model, bundle_config, fabric, on_event)
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
        _hand_over(folder, fit, bundle_config, data)
    fabric.barrier()
    return Run(folder.path, read_json(folder.bundle / "metrics.json"), folder.bundle)


def _same_data(folder: RunFolder, config: TrainConfig) -> AnyDataset:
    """The data set as it was when the run began: same splits and the same class table, whatever is inferred today."""
    return open_any(
        config.data,
        task=config.task,
        format=config.format,
        classes=folder.path / "classes.json",
        splits=folder.path / "splits.json",
        group=config.group,
        snap=config.snap,
        seed=config.seed,
    )


def _seeded_model(config: TrainConfig, plan: Plan, dataset: AnyDataset) -> nn.Module:
    """The net with weights that the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        channels, num_classes = len(plan["normalisation"]["low"]), dataset.classes.num_classes
        return create_model(plan["model"], in_channels=channels, num_classes=num_classes, **plan["options"])


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
        channels_last=len(plan["crop"]) == 2,
    )


def _training_record(folder: RunFolder, config: TrainConfig, plan: Plan) -> dict[str, Any]:
    return {
        "loss": plan["loss"],
        "class_weights": plan.get("class_weights", "none"),
        "mirrors": _mirrors(plan),
        "start_from": None if config.start_from is None else start_record(folder),
    }


def _mirrors(plan: Plan) -> list[str]:
    """Kinds of mirror images that the net saw, less those whose predictions would lie half a pixel and more apart."""
    if "label_offset" not in plan:  # of volumes: `VolumeForm` says it, by axis
        return []
    down, right = plan["label_offset"]
    is_near = {"vertical": abs(down) < MAX_MIRROR_OFFSET, "horizontal": abs(right) < MAX_MIRROR_OFFSET}
    return [way for way in MIRRORS if plan["augmentation"][f"flip_{way}"] and is_near[way]]


def _hand_over(folder: RunFolder, fit: Fit, config: BundleConfig, dataset: AnyDataset) -> None:
    """The best weights as a bundle."""
    best = fit.average
    best.load_state_dict(load_file(folder.best))
    events = [event for event in fit.progress.history if event["step"] == fit.progress.best_step]
    event = events[-1]
    metrics: dict[str, Any] = {
        "split": "val",
        "step": event["step"],
        "steps": fit.progress.step,
        "seconds": round(fit.progress.elapsed_s, 1),
        **{name: event[name] for name in SCORES if name in event},
        **{name: dict(zip(config.classes.names, event[name])) for name in ("dice", "iou") if name in event},
        "images": len(fit.task.samples),  # type: ignore[attr-defined]
    }
    if isinstance(dataset, InstanceDataset):
        config = _choose_objects(best, config, event, fit, metrics)
    elif config.volume is not None:
        config, metrics["components"] = _clean_up(best, config, dataset, fit)
    config = replace(config, training={**config.training, "steps": fit.progress.step, "best_step": event["step"]})
    save_bundle(folder.bundle, model=best, config=config, metrics=metrics, card=model_card(config, metrics))


def _choose_objects(
    model: nn.Module, config: BundleConfig, event: dict[str, Any], fit: Fit, metrics: dict[str, Any]
) -> BundleConfig:
    """What turns maps or detections into objects, chosen on the validation images: the grouping, or the least score."""
    if isinstance(fit.task, WatershedTask):
        fit.on_event({"kind": "phase", "text": "Choosing how maps are grouped into objects"})
        choice = fit.task.choose_grouping(cast(UNetWatershed, model.eval()))
        metrics["grouping"] = {"before": choice.before, "after": choice.after, "tried": len(choice.tried)}
        return replace(config, options={**config.options, "grouping": choice.grouping.to_json()})
    return replace(config, objects=ObjectForm(min_score=float(event["min_score"])))


def _clean_up(
    model: nn.Module, config: BundleConfig, dataset: Dataset, fit: Fit
) -> tuple[BundleConfig, dict[str, Any]]:
    """Keep only the largest component of those structures for which that helps on the validation volumes."""
    assert config.volume is not None
    fit.on_event({"kind": "phase", "text": "Trying whether small components are better left out"})
    rules, found = find_rules(
        volume_predictor(model, config, device=fit.fabric.device),
        dataset,
        fit.task.samples,  # type: ignore[attr-defined]
    )
    return replace(config, volume=replace(config.volume, rules=rules)), found


def extend_run(folder: RunFolder, extend: str) -> None:
    """Add a leg: more time ("5m") or more epochs ("10") than planned.

    Raises:
        InputError: neither a time nor a number of epochs, or time for a run whose speed is not known yet.
    """
    plan = Plan.from_json({"lines": folder.read("plan.json")["lines"]})
    if plan["model"] in FORESTS:
        raise InputError(
            f"extend '{extend}': a {plan['model']} is grown in one go: train it anew with more pixels or trees (-O)"
        )
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
