"""From objects, the clock and the machine to a plan, with a reason for every line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from perpixel.data import Fingerprint, InstanceFacts
from perpixel.data.transforms import Augmentation
from perpixel.images import Normalisation
from perpixel.planning.anchors import plan_anchors
from perpixel.planning.crops import MEMORY_SHARES, Machine
from perpixel.planning.facts import LabelFacts
from perpixel.planning.objects import choose_way
from perpixel.planning.plan import (
    DEFAULT_BUDGET_S,
    RESERVE_SHARE,
    UPRIGHT,
    VALIDATION_SHARE,
    Draft,
    Line,
    Plan,
    value_range,
)

# (model, options, (height, width), batch size) -> seconds, or bytes, of a training step.
StepTime = Callable[[str, dict[str, Any], tuple[int, int], int], float]
StepBytes = Callable[[str, dict[str, Any], tuple[int, int], int], float]

# Crops of the watershed net: so many times the side of the median object, within these bounds.
# Nuclei, 200 s on one core, validation AP50: 18 crops of 128 a step 0.667, 8 of 192 0.620 to 0.628; one seed each.
SIDES_PER_CROP, LEAST_CROP, LARGEST_CROP = 7, 96, 384
WATERSHED_BATCH = 16
# An object of fewer pixels a side hardly shows a hill: images of smaller ones are enlarged, at most so many times.
LEAST_SIDE, MOST_SCALE = 9.0, 2.0
# Images whose objects are far larger than they need be are worked on at a smaller scale.
LARGE_SIDE = 64.0
# The longer side at which a detector works on a CPU and on a GPU; COCO's 1333 take a GPU.
DETECTOR_SIDE = {"cpu": 640, "cuda": 1024, "mps": 800}
DETECTOR_BATCH = {"cpu": 2, "cuda": 8, "mps": 4}
# Nets of the watershed way, best first, and the steps below which a lighter one learns more.
WIDTHS = (32, 24, 16)
MIN_STEPS = 1000
# The largest window that is predicted in one piece.
TILE = {"cpu": 1024, "cuda": 2048, "mps": 1024}
# Share of a run for choosing the grouping.
GROUPING_SHARE = 0.03
# Where the brightest values are so many times the mean, images differ so much that each gets a range of its own.
UNLIKE = 3.0


def plan_instances(
    fingerprint: Fingerprint,
    facts: LabelFacts,
    *,
    machine: Machine,
    given: dict[str, Any],
    budget_s: float | None,
    epochs: int | None,
    measure: StepTime,
    memory: StepBytes | None = None,
) -> Plan:
    """Decide everything that was not given, for a data set of objects.

    Args:
        facts: of the label maps: whether there is an upright.
        given: settings that the user chose, by name of the line.
        budget_s: seconds for training; DEFAULT_BUDGET_S where neither this nor `epochs` is given.
        measure, memory: what a training step takes on this machine.
    """
    if budget_s is None and epochs is None:
        budget_s = DEFAULT_BUDGET_S
    objects = fingerprint.instances
    assert objects is not None
    draft = Draft(given)
    limit = f"{epochs} epochs instead" if budget_s is None else "seconds for everything that train does"
    draft.add("budget_s", budget_s, limit)
    on_gpu = machine.accelerator == "cuda"
    is_pretrained = given.get("options", {}).get("weights") is not None
    model, why = choose_way(objects, budget_s=budget_s, on_gpu=on_gpu, is_pretrained=is_pretrained)
    model = draft.add("model", model, why)
    native = f"{machine.name} computes bf16 natively, about twice as fast as fp32"
    emulated = f"{machine.name} has no native bf16: emulated, it would be far slower than fp32"
    draft.add("precision", "bf16" if machine.has_bf16 else "fp32", native if machine.has_bf16 else emulated)
    size = fingerprint.sizes["median"]
    training_s = None if budget_s is None else budget_s * (1 - VALIDATION_SHARE - RESERVE_SHARE - GROUPING_SHARE)
    if model == "mask_rcnn":
        step_s = _plan_detector(draft, fingerprint, objects, machine, is_pretrained, training_s, measure, memory)
    else:
        step_s = _plan_watershed(draft, objects, (size[0], size[1]), training_s, measure)
    _plan_values(draft, fingerprint)
    _plan_learning(draft, model, is_pretrained)
    _plan_changes(draft, fingerprint, facts, model)
    _plan_length(draft, fingerprint, machine, epochs, training_s, step_s)
    scale = decided(draft, "scale")
    side = max(TILE[machine.accelerator], math.ceil(max(decided(draft, "crop")) / scale))
    draft.add("tile", [side, side], "larger images are predicted in overlapping windows, and objects joined at seams")
    return Plan(tuple(draft.lines))


def decided(draft: Draft, setting: str) -> Any:
    """What was decided for `setting`."""
    return next(line.value for line in draft.lines if line.setting == setting)


def _plan_watershed(
    draft: Draft, objects: InstanceFacts, size: tuple[int, int], training_s: float | None, measure: StepTime
) -> float | None:
    side = objects.median_side
    if 0 < side < LEAST_SIDE:
        scale = min(MOST_SCALE, round(2 * LEAST_SIDE / side) / 2)
        why = f"the median object is {side:.0f} pixels a side: enlarged, hills on it can be told apart"
    elif side > LARGE_SIDE:
        scale = max(0.25, round(8 * LARGE_SIDE / side) / 8)
        why = f"the median object is {side:.0f} pixels a side: at this scale it is seen whole, and sooner"
    else:
        scale, why = 1.0, f"full size: the median object is {side:.0f} pixels a side"
    scale = float(draft.add("scale", scale, why))
    wanted = (
        round(
            max(
                LEAST_CROP,
                min(
                    LARGEST_CROP,
                    SIDES_PER_CROP * side * scale,
                ),
            )
            / 32
        )
        * 32
    )
    crop = [min(wanted, max(32, round(each * scale / 32) * 32)) for each in size]
    crop = draft.add("crop", crop, f"(height, width): about {SIDES_PER_CROP} objects a side")
    batch = draft.add("batch_size", WATERSHED_BATCH, "many small crops show many kinds of images at each step")
    given = draft.given.get("options", {})
    step_s: float | None = None
    if training_s is None:
        draft.lines.append(Line("options", {"width": WIDTHS[-1], **given}, "a net for any machine"))
        return None
    widths = (None,) if {"width", "encoder"} & set(given) else WIDTHS
    for width in widths:
        options = {**({} if width is None else {"width": width}), **given}
        step_s = measure(draft_model(draft), options, (crop[0], crop[1]), batch)
        if step_s * MIN_STEPS <= training_s:
            break
    assert step_s is not None
    why = "given" if widths == (None,) else f"the widest of {', '.join(map(str, WIDTHS))} that makes {MIN_STEPS} steps"
    draft.lines.append(Line("options", options, why))
    return step_s


def draft_model(draft: Draft) -> str:
    """The model that was decided for."""
    return str(decided(draft, "model"))


def _plan_detector(
    draft: Draft,
    data: Fingerprint,
    objects: InstanceFacts,
    machine: Machine,
    is_pretrained: bool,
    training_s: float | None,
    measure: StepTime,
    memory: StepBytes | None,
) -> float | None:
    longest = max(data.sizes["median"])
    most = DETECTOR_SIDE[machine.accelerator]
    proposed = min(1.0, round(16 * most / longest) / 16) if longest > most else 1.0
    scale = float(draft.add("scale", proposed, f"images of {longest} pixels a side are worked on at {most} at most"))
    crop = [max(64, math.ceil(side * scale / 32) * 32) for side in data.sizes["median"]]
    crop = draft.add("crop", crop, "(height, width): whole images, so that objects are seen whole")
    anchors = plan_anchors(objects, scale)
    given = draft.given.get("options", {})
    norms = {"norm": "frozen"} if is_pretrained else {"norm": "group", "head_norm": "group"}
    light = {} if is_pretrained or machine.accelerator == "cuda" else {"encoder": "resnet18"}
    options = {**light, **norms, **anchors.options(), **given}
    batch = int(draft.given.get("batch_size", DETECTOR_BATCH[machine.accelerator]))
    most_bytes = machine.memory_bytes * MEMORY_SHARES[machine.accelerator]
    if memory is not None and most_bytes and "batch_size" not in draft.given:
        while batch > 1 and memory("mask_rcnn", options, (crop[0], crop[1]), batch) > most_bytes:
            batch //= 2
    draft.add("batch_size", batch, "as many images as the machine takes in one step")
    start = (
        "norms stay those of the trained weights"
        if is_pretrained
        else "from scratch: group norm learns with few images"
    )
    draft.lines.append(Line("options", options, f"{anchors.reason}; {start}"))
    return None if training_s is None else measure("mask_rcnn", options, (crop[0], crop[1]), batch)


def _plan_values(draft: Draft, data: Fingerprint) -> None:
    """Images of microscopes are dark or bright as their exposure was: each is stretched by its own percentiles."""
    low, high, why = value_range(data)
    channels = data.channels
    ranges = zip(data.value_min, data.value_max, data.mean)
    spread = max((most - least) / max(mean - least, 1e-9) for least, most, mean in ranges)
    is_unlike = data.dtype != "uint8" or spread > UNLIKE
    if is_unlike and draft_model(draft) != "mask_rcnn":
        values = Normalisation(tuple(low), tuple(high), (0.3,) * channels, (0.3,) * channels, per_image=True)
        why = "each image by its own 0.5 and 99.5 percentiles: exposure tells nothing of objects"
    else:
        widths = [max(b - a, 1e-12) for a, b in zip(low, high)]
        mean = tuple((m - a) / w for m, a, w in zip(data.mean, low, widths))
        std = tuple(max(s / w, 1e-3) for s, w in zip(data.std, widths))
        values = Normalisation(tuple(low), tuple(high), mean, std)
        why = f"{why}, then mean and standard deviation of the train split"
    draft.add("normalisation", values.to_json(), why)


def _plan_learning(draft: Draft, model: str, is_pretrained: bool) -> None:
    if model == "mask_rcnn":
        loss, rate = "the paper's: proposals, boxes, classes and masks, weighted alike", 1e-4 if is_pretrained else 5e-4
        draft.add("loss", "mask_rcnn", loss)
        draft.add("learning_rate", rate, "peak for AdamW")
    else:
        draft.add("loss", "ce+dice", "of the classes; height and contacts have their own terms")
        draft.add("learning_rate", 2e-3, "peak for AdamW from scratch with batch normalisation")
    draft.add("optimizer", "adamw", "forgiving of the rate, which nobody has time to tune")
    draft.add("schedule", "onecycle", "reaches its best at the end of any budget (Smith & Topin 2018)")
    draft.add("weight_decay", 0.02, "AdamW's usual, doubled: crops show few images in a short run")
    draft.add("ema_share", 0.02, "averaging the weights over 2 % of the steps smooths a short run")
    draft.add("rare_share", 0.5, "share of crops that are placed on an object")


def _plan_changes(draft: Draft, data: Fingerprint, facts: LabelFacts, model: str) -> None:
    upright, lopsided = facts.vertical > UPRIGHT, facts.horizontal > UPRIGHT
    is_free = not upright and not lopsided and model != "mask_rcnn"
    ranges = Augmentation(
        flip_horizontal=not lopsided,
        flip_vertical=is_free,
        quarter_turns=is_free,
        rotate_degrees=30.0 if is_free else 0.0,
        scale=(0.6, 1.6) if is_free else (0.7, 1.3),
        aspect=0.1,
        contrast=0.25,
        brightness=0.1,
        saturation=0.3 if data.channels == 3 and model == "mask_rcnn" else 0.0,
        gamma=0.3 if is_free else 0.0,
        noise=0.04 if is_free else 0.0,
        elastic_px=2.0 if is_free else 0.0,
    )
    value = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(ranges).items()}
    why = (
        "no upright: turned, mirrored and bent at will" if is_free else "an upright is kept: mirrored sideways at most"
    )
    draft.add("augmentation", value, why)


def _plan_length(
    draft: Draft,
    data: Fingerprint,
    machine: Machine,
    epochs: int | None,
    training_s: float | None,
    step_s: float | None,
) -> None:
    batch, images = decided(draft, "batch_size") * machine.devices, data.num_images["train"]
    if epochs is not None:
        steps = max(1, math.ceil(epochs * images / batch))
        draft.add("steps", steps, f"{epochs} epochs of {images} images in batches of {batch}")
    else:
        assert training_s is not None and step_s is not None
        steps = max(1, int(training_s / step_s))
        draft.add("steps", steps, f"{step_s:.3f} s a step was measured; corrected while training")
    draft.add("coarse_steps", 0, "all steps at the working scale")
    count = draft.add(
        "validations", max(1, min(6, steps // 50)), "enough to draw a curve and to choose the best weights"
    )
    most, why = None, "all images, since there is no budget to keep"
    if training_s is not None and step_s is not None:
        crop = decided(draft, "crop")
        pixels = data.sizes["median"][0] * data.sizes["median"][1] * decided(draft, "scale") ** 2
        shown = step_s / batch * 0.5 * pixels / (crop[0] * crop[1]) + 0.05
        most = max(24, int(training_s * VALIDATION_SHARE / count / shown))
        why = f"{VALIDATION_SHARE:.0%} of the budget is for looking"
    draft.add("max_validation", most, why)
