"""From volumes, the clock and the machine to a plan, with a reason for every line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from perpixel.data import Fingerprint, VolumeFingerprint
from perpixel.data.volume_transforms import NNUNET_AUGMENTATION, VolumeAugmentation
from perpixel.images import VolumeNormalisation
from perpixel.losses import class_weights
from perpixel.models import NETS, option_names
from perpixel.planning.crops import MEMORY_SHARES, Machine
from perpixel.planning.plan import DEFAULT_BUDGET_S, RESERVE_SHARE, VALIDATION_SHARE, Draft, Line, Plan
from perpixel.planning.volume_shape import VolumeShape, plan_shape

# Voxels of the largest patch. nnU-Net takes about 128^3 on a GPU of 8 GB.
PATCH_VOXELS = {"cpu": 64**3, "cuda": 128**3, "mps": 96**3}
# Patches a step: two show more places than one, and normalisation is by each patch, so that more are not needed.
BATCH = 2
# Widths of the 3D U-Net, best first, and the steps below which a narrower one learns more.
WIDTHS = (32, 16, 8)
MIN_STEPS = 1000
# Share of a volume outside the box of its non-zero voxels from which zeros are taken for no image.
EMPTY_SHARE = 0.25
FOREGROUND_SHARE = 1 / 3

# (model, options, patch, batch size, hopeless) -> seconds of a training step; it need not be exact above `hopeless`.
StepTime = Callable[[str, dict[str, Any], tuple[int, int, int], int, float], float]
# (model, options, patch, batch size) -> bytes that a training step takes.
Memory = Callable[[str, dict[str, Any], tuple[int, int, int], int], float]


def plan_volumes(
    fingerprint: Fingerprint,
    *,
    machine: Machine,
    given: dict[str, Any],
    budget_s: float | None,
    epochs: int | None,
    measure: StepTime,
    is_normalised: Callable[[str, dict[str, Any]], bool],
    memory: Memory | None = None,
) -> Plan:
    """Decide everything that was not given, for a data set of volumes.

    Args:
        given: settings that the user chose, by name of the line.
        budget_s: seconds for training; DEFAULT_BUDGET_S where neither this nor `epochs` is given.
        measure: what a training step takes on this machine.
        is_normalised: (model, options) -> whether the net has normalising layers.
        memory: what a step takes; None plans as if there were enough.
    """
    if budget_s is None and epochs is None:
        budget_s = DEFAULT_BUDGET_S
    volumes = fingerprint.volumes
    assert volumes is not None
    draft = Draft(given)
    limit = f"{epochs} epochs instead" if budget_s is None else "seconds for everything that train does"
    draft.add("budget_s", budget_s, limit)
    model = draft.add("model", "unet3d", "learns from few volumes, pools each axis as its spacing asks for")
    native = f"{machine.name} computes bf16 natively, about twice as fast as fp32"
    emulated = f"{machine.name} has no native bf16: emulated, it would be far slower than fp32"
    draft.add("precision", "bf16" if machine.has_bf16 else "fp32", native if machine.has_bf16 else emulated)
    draft.add("spacing_mm", volumes.target_spacing_mm, "median voxel size of the train split (depth, row, column)")
    _plan_values(draft, volumes)
    training_s = None if budget_s is None else budget_s * (1 - VALIDATION_SHARE - RESERVE_SHARE)
    step_s = _plan_net(draft, fingerprint, machine, model, training_s, measure, memory)
    _plan_learning(draft, fingerprint, is_normalised(model, draft_value(draft, "options")))
    _plan_length(draft, fingerprint, machine, epochs, training_s, step_s)
    draft.add("scale", 1.0, "volumes are resampled to one spacing, not scaled")
    draft.add("tile", draft_value(draft, "crop"), "larger volumes are predicted in overlapping windows of this size")
    return Plan(tuple(draft.lines))


def volume_augmentation(plan: Plan) -> VolumeAugmentation:
    """The planned ranges."""
    ranges: dict[str, Any] = plan["augmentation"]
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in ranges.items()}
    return VolumeAugmentation(**values)


def draft_value(draft: Draft, setting: str) -> Any:
    """What was decided for `setting`."""
    return next(line.value for line in draft.lines if line.setting == setting)


def _plan_values(draft: Draft, volumes: VolumeFingerprint) -> None:
    ways, numbers = [], []
    is_cut_out = volumes.crop_share < 1 - EMPTY_SHARE
    for index, modality in enumerate(volumes.modalities):
        inside = volumes.foreground[index] if volumes.foreground else None
        if modality == "ct" and inside is not None:
            ways.append("ct")
            numbers.append((inside.low, inside.high, inside.mean, max(inside.std, 1e-8)))
        else:
            ways.append("each_case_nonzero" if is_cut_out else "each_case")
            numbers.append((0.0, 1.0, 0.0, 1.0))
    low, high, mean, std = (tuple(column) for column in zip(*numbers))
    reasons = {
        "ct": "CT: clipped to 0.5 and 99.5 percentiles of the classes, one scale for all cases",
        "each_case": "no scale of its own: each case to mean 0 and standard deviation 1",
        "each_case_nonzero": "no scale of its own and zeros around it: each case by its non-zero voxels",
    }
    value = VolumeNormalisation(tuple(ways), low, high, mean, std)
    draft.add("normalisation", value.to_json(), "; ".join(reasons[way] for way in dict.fromkeys(ways)))


def _plan_net(
    draft: Draft,
    data: Fingerprint,
    machine: Machine,
    model: str,
    training_s: float | None,
    measure: StepTime,
    memory: Memory | None,
) -> float | None:
    """Patch, batch and options, and the seconds of a step; None without a budget."""
    volumes = data.volumes
    assert volumes is not None
    batch = int(draft.given.get("batch_size", BATCH))
    most = PATCH_VOXELS[machine.accelerator]
    while True:
        shape = plan_shape(
            volumes.resampled_sizes["median"], volumes.target_spacing_mm, most_voxels=most,
            patch=draft.given.get("crop"),
        )  # fmt: skip
        options, step_s, why = _options(draft, shape, model, batch, training_s, measure)
        most_bytes = machine.memory_bytes * MEMORY_SHARES[machine.accelerator]
        is_fixed = "crop" in draft.given or most <= 16**3
        if memory is None or not most_bytes or is_fixed or memory(model, options, shape.patch, batch) <= most_bytes:
            break
        most //= 2
    whole = shape.patch >= tuple(volumes.resampled_sizes["median"])
    sides = "whole volumes, rounded up to the strides" if whole else "as wide as high and deep in millimetres"
    draft.add("crop", list(shape.patch), f"(depth, height, width): {sides}, at most about {most:,} voxels")
    draft.add("batch_size", BATCH, "small batches make more steps of the same time, which a short run needs")
    draft.lines.append(Line("options", options, why))
    return step_s


def _options(
    draft: Draft, shape: VolumeShape, model: str, batch: int, training_s: float | None, measure: StepTime
) -> tuple[dict[str, Any], float | None, str]:
    """Options of the net, its seconds a step, and why."""
    given: dict[str, Any] = draft.given.get("options", {})
    if model != "unet3d":
        step_s = None if training_s is None else measure(model, given, shape.patch, batch, math.inf)
        names = option_names(NETS[model])
        supervised = {"deep_supervision": True} if "deep_supervision" in names and model != "vnet" else {}
        return {**supervised, **given}, step_s, "given, or the model's own"
    form = {
        "norm": "instance",
        "activation": "leaky_relu",
        "residual": True,
        "deep_supervision": True,
        "depth": len(shape.kernels),
        "pool": shape.pool,
        "kernels": shape.kernels,
    }
    if "depth" in given and given["depth"] != form["depth"]:  # strides and kernels are then the net's own
        form = {name: value for name, value in form.items() if name not in ("pool", "kernels")}
    widths = (given["width"],) if "width" in given else WIDTHS
    step_s, options = None, {**form, "width": widths[-1], **given}
    if training_s is None:
        return {**form, "width": widths[min(1, len(widths) - 1)], **given}, None, "no budget to keep"
    for width in widths:
        options = {**form, "width": width, **given}
        step_s = measure(model, options, shape.patch, batch, training_s / MIN_STEPS)
        if step_s * MIN_STEPS <= training_s:
            break
    assert step_s is not None
    why = f"the widest of {', '.join(map(str, WIDTHS))} that makes {MIN_STEPS:,} steps in the time"
    if "width" in given:
        why = "given"
    elif step_s * MIN_STEPS > training_s:
        why = f"the lightest: even this makes only {training_s / step_s:.0f} steps in the time"
    return options, step_s, f"{why}; strides and kernels follow the spacing; instance norm, since batches are small"


def _plan_learning(draft: Draft, data: Fingerprint, is_normalised: bool) -> None:
    draft.add("loss", "ce+dice", "cross entropy learns fast; Dice, V-Net's own, keeps small structures")
    pixels = data.class_pixels["train"]
    kind = draft.add("class_weights", "none", "Dice and the foreground share of the patches balance the classes")
    weights = (
        class_weights(kind, pixels, data.class_images["train"]).tolist() if kind != "none" else [1.0] * len(pixels)
    )
    total = sum(w * p for w, p in zip(weights, pixels)) / max(1, sum(pixels))
    draft.add("class_weight_values", [w / total for w in weights], "in class order, 1 for the average voxel")
    draft.add("rare_share", FOREGROUND_SHARE, "share of patches that are placed on a voxel of a structure, all alike")
    draft.add("optimizer", "adamw", "forgiving of the rate, which nobody has time to tune")
    if is_normalised:
        draft.add("learning_rate", 2e-3, "peak for AdamW from scratch with normalisation")
    else:
        draft.add("learning_rate", 2e-4, "no layer normalises its maps")
    draft.add("schedule", "onecycle", "reaches its best at the end of any budget (Smith & Topin 2018)")
    draft.add("weight_decay", 0.01, "AdamW's usual")
    draft.add("ema_share", 0.02, "averaging the weights over 2 % of the steps smooths a short run")
    value = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(NNUNET_AUGMENTATION).items()}
    draft.add("augmentation", value, "the ranges of nnU-Net: rotation, zoom, noise, blur, gamma, mirror images")


def _plan_length(
    draft: Draft,
    data: Fingerprint,
    machine: Machine,
    epochs: int | None,
    training_s: float | None,
    step_s: float | None,
) -> None:
    batch = draft_value(draft, "batch_size") * machine.devices
    cases = data.num_images["train"]
    if epochs is not None:
        steps = max(1, math.ceil(epochs * cases / batch))
        draft.add("steps", steps, f"{epochs} epochs of {cases} volumes in batches of {batch}")
    else:
        assert training_s is not None and step_s is not None
        steps = max(1, int(training_s / step_s))
        draft.add("steps", steps, f"{step_s:.3f} s a step was measured; corrected while training")
    draft.add("coarse_steps", 0, "all steps at the training spacing")
    count = draft.add(
        "validations", max(1, min(10, steps // 20)), "enough to draw a curve and to choose the best weights"
    )
    most, why = None, "all volumes, since there is no budget to keep"
    if training_s is not None and step_s is not None:
        # A prediction overlaps its windows by half along each axis: the step's patches, up to eight times.
        volumes = data.volumes
        assert volumes is not None
        patch = draft_value(draft, "crop")
        windows = math.prod(
            max(1, math.ceil(2 * side / wide) - 1) for side, wide in zip(volumes.resampled_sizes["median"], patch)
        )
        shown = step_s / draft_value(draft, "batch_size") / 3 * windows
        most = max(4, int(training_s * VALIDATION_SHARE / count / max(shown, 1e-6)))
        why = f"{VALIDATION_SHARE:.0%} of the budget is for looking"
    draft.add("max_validation", most, why)
