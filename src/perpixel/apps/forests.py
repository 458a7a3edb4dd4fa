"""The run of a forest: grown in one go, judged on the validation images, handed over as the same bundle as a net's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from perpixel.apps.bundling import bundle_config
from perpixel.apps.config import TrainConfig
from perpixel.apps.model_card import model_card
from perpixel.data import Dataset
from perpixel.engine.grow import Grower, grow_forest
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.semantic import score_images, spread
from perpixel.files import read_json
from perpixel.images import Normalisation
from perpixel.inference.bundle import save_bundle
from perpixel.inference.predictor import Predictor
from perpixel.models import create_model
from perpixel.planning import Plan

OnEvent = Callable[[dict[str, Any]], None]

# Validation images that a forest is judged by before it is handed over, and the share of the budget kept for that.
VALIDATION_IMAGES, VALIDATION_SHARE = 100, 0.1


def finish_forest(
    folder: RunFolder, config: TrainConfig, plan: Plan, dataset: Dataset, *, spent_s: float, on_event: OnEvent
) -> dict[str, Any]:
    """Grow the forest of a run and write its bundle; a finished run is left as it is.

    A run that was killed is grown anew: the same seed gives the same forest, as long as no budget cuts it short.

    Returns:
        The metrics of the bundle.
    """
    if (folder.bundle / "config.json").is_file():
        return cast(dict[str, Any], read_json(folder.bundle / "metrics.json"))
    began = time.perf_counter() - spent_s
    folder.log.unlink(missing_ok=True)

    def log(event: dict[str, Any]) -> None:
        folder.append_log(event)
        on_event(event)

    def on_progress(done: int, total: int, what: str) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": what})

    channels = len(Normalisation.from_json(plan["normalisation"]).low)
    model = create_model(
        plan["model"], in_channels=channels, num_classes=dataset.classes.num_classes, **plan["options"]
    )
    made = bundle_config(folder, config, plan, dataset, {"mirrors": []})
    on_event({"kind": "phase", "text": f"Growing {plan['model']}"})
    seconds = None if plan["budget_s"] is None else max(1.0, plan["budget_s"] * (1 - VALIDATION_SHARE) - spent_s)
    growth = grow_forest(cast(Grower, model), dataset, made, seed=config.seed, seconds=seconds, on_progress=on_progress)
    log({"kind": "grown", **growth, "elapsed_s": round(time.perf_counter() - began, 2)})
    scores = _validate(Predictor(model, made), dataset, on_progress)
    trees = int(growth["trees"])
    log({"kind": "validation", "step": trees, **scores, "is_best": True, "elapsed_s": _since(began)})
    metrics = {
        "split": "val",
        "trees": trees,
        "seconds": _since(began),
        **{name: scores[name] for name in ("miou", "pixel_accuracy", "mean_dice")},
        "iou": dict(zip(dataset.classes.names, scores["iou"])),
        "images": scores["images"],
        "growth": growth,
    }
    save_bundle(folder.bundle, model=model, config=made, metrics=metrics, card=model_card(made, metrics))
    log({"kind": "end", "step": trees, "trees": trees, "score": scores["miou"], "seconds": _since(began)})
    return metrics


def _validate(predictor: Predictor, dataset: Dataset, on_progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    samples = spread(dataset.split("val"), VALIDATION_IMAGES)
    began = time.perf_counter()

    def on_image(done: int, total: int) -> None:
        on_progress(done, total, "validation")

    scores = score_images(predictor, dataset, samples, on_image=on_image)
    kept = {name: value for name, value in scores.items() if name != "score"}
    return {**kept, "images": len(samples), "seconds": _since(began)}


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)
