"""From the data, the clock and the machine to a plan, with a reason for every line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from perpixel.data import Fingerprint
from perpixel.data.transforms import Augmentation
from perpixel.images import Normalisation
from perpixel.losses import class_weights, parse_loss, positive_weight
from perpixel.planning.crops import BATCH_SIZES, Machine, plan_crops
from perpixel.planning.facts import LabelFacts
from perpixel.planning.net import Costs, Measure, choose_net
from perpixel.planning.rehearsal import SIDE
from perpixel.planning.sampling import plan_sampling

DEFAULT_BUDGET_S = 600.0
# Shares of the budget that are not training steps.
VALIDATION_SHARE = 0.06
RESERVE_SHARE = 0.02
# mIoU that an unknown offset of the labels may cost before it is reckoned with.
OFFSET_COST = 0.01
# Classes spread so differently over the halves of the image (total variation) mean that it has an upright.
UPRIGHT = 0.12
# Pixels of the largest window that is predicted in one piece, and of the largest training crop.
TILE_PIXELS = {"cpu": 1024**2, "cuda": 2048**2, "mps": 1024**2}
CROP_PIXELS = {"cpu": 256**2, "cuda": 768**2, "mps": 512**2}
# Crops of less than this share of the sides that nets are timed on are timed by themselves: every layer has a price of
# its own, and some nets (FCN) enlarge what they get.
SMALL_CROPS = 0.75
# Imbalance from which classes are weighted.
IMBALANCED = 10.0
# Steps at half the working scale come first: their share of the time, how far the schedule gets in it (further than the
# clock: what is left to learn at full scale needs lower rates), and the smallest side of their crops.
COARSE_SHARE, COARSE_PROGRESS, MIN_COARSE_SIDE = 0.5, 0.65, 64
# Cost of a coarse step, as a share of a whole one, above which they are not worth it.
MAX_COARSE_COST = 0.6
# A prediction costs about a third of a training step, plus reading and scoring the image.
PREDICTION_SHARE, PREDICTION_S = 0.4, 0.02


# (model, options, (height, width) of the crops, batch size) -> bytes that a training step takes.
Memory = Callable[[str, dict[str, Any], tuple[int, int], int], float]


@dataclass(frozen=True)
class Line:
    """One decision: what, its value (JSON), and why."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """Decisions in the order in which they were made."""

    lines: tuple[Line, ...]

    def __getitem__(self, setting: str) -> Any:
        return next(line.value for line in self.lines if line.setting == setting)

    def __contains__(self, setting: str) -> bool:
        """False for decisions that did not exist yet when the plan was made."""
        return any(line.setting == setting for line in self.lines)

    def get(self, setting: str, default: Any) -> Any:
        """The value of a decision, or `default` where none was needed."""
        return next((line.value for line in self.lines if line.setting == setting), default)

    def to_json(self) -> dict[str, Any]:
        return {"lines": [asdict(line) for line in self.lines]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        return cls(tuple(Line(**line) for line in value["lines"]))

    def augmentation(self) -> Augmentation:
        """The planned ranges."""
        ranges: dict[str, Any] = self["augmentation"]
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in ranges.items()}
        return Augmentation(**values)

    def normalisation(self) -> Normalisation:
        """The planned value range."""
        return Normalisation.from_json(self["normalisation"])


class Draft:
    """A plan in the making: what the user gave stands, everything else is proposed."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.lines: list[Line] = []

    def add(self, setting: str, value: Any, reason: str) -> Any:
        """Note a decision and return its value."""
        if setting in self.given:
            value, reason = self.given[setting], "given"
        self.lines.append(Line(setting, value, reason))
        return value


def make_plan(
    fingerprint: Fingerprint,
    facts: LabelFacts,
    *,
    machine: Machine,
    given: dict[str, Any],
    budget_s: float | None,
    epochs: int | None,
    measure: Measure,
    is_normalised: Callable[[str, dict[str, Any]], bool],
    memory: Memory | None = None,
) -> Plan:
    """Decide everything that was not given.

    Args:
        given: settings that the user chose, by name of the line.
        budget_s: seconds for training; DEFAULT_BUDGET_S where neither this nor `epochs` is given.
        measure: (model, options, side, hopeless) -> seconds of training per megapixel of such crops on this machine.
        is_normalised: (model, options) -> whether the net has normalising layers.
        memory: what a step takes; None plans as if there were enough.
    """
    if budget_s is None and epochs is None:
        budget_s = DEFAULT_BUDGET_S
    draft = Draft(given)
    draft.add(
        "budget_s",
        budget_s,
        f"{epochs} epochs instead" if budget_s is None else "seconds for everything that train does",
    )
    costs = Costs(
        measure=measure,
        size=(fingerprint.sizes["median"][0], fingerprint.sizes["median"][1]),
        most_pixels=CROP_PIXELS[machine.accelerator],
        images=fingerprint.num_images["train"],
        training_s=None if budget_s is None else budget_s * (1 - VALIDATION_SHARE - RESERVE_SHARE),
        devices=machine.devices,
        batch_size=int(given.get("batch_size", BATCH_SIZES[machine.accelerator])),
    )
    model, options, scale = _plan_net(draft, machine, costs, facts)
    _plan_values(draft, fingerprint)
    time_of = partial(_image_s, costs, model, options, epochs)
    takes = None if memory is None else partial(memory, model, options)
    crops = plan_crops(machine, costs, scale, given, time_of=time_of, takes=takes)
    crop = draft.add("crop", crops.crop, crops.why_crop)
    batch_size = draft.add("batch_size", crops.batch_size, crops.why_batch)
    _plan_learning(draft, fingerprint, is_normalised(model, options))
    _plan_changes(draft, fingerprint, facts)
    image_s = time_of(crop)
    # Crops of half the sides are timed only where there will be some.
    is_coarse_first = image_s is not None and min(crop) >= 2 * MIN_COARSE_SIDE
    share = costs.coarse_share(model, options) if is_coarse_first else None
    _plan_length(draft, costs, epochs, image_s=image_s, coarse_share=share, batch_size=batch_size, scale=scale)
    side = int(math.sqrt(TILE_PIXELS[machine.accelerator]))
    draft.add("tile", [side, side], "larger images are predicted in overlapping windows of this size")
    return Plan(tuple(draft.lines))


def _plan_net(draft: Draft, machine: Machine, costs: Costs, facts: LabelFacts) -> tuple[str, dict[str, Any], float]:
    model = draft.add("model", "unet", "learns from little data, and its skips keep fine detail")
    if machine.has_bf16:
        draft.add("precision", "bf16", f"{machine.name} computes bf16 natively, about twice as fast as fp32")
    else:
        draft.add("precision", "fp32", f"{machine.name} has no native bf16: emulated, it would be far slower than fp32")
    candidate, reason = choose_net(model, draft.given.get("options", {}), draft.given.get("scale"), costs, facts)
    # Given options are part of the candidate already; what was left open is chosen here.
    draft.lines.append(Line("options", candidate.options, reason))
    ceiling = facts.ceiling.get(candidate.scale)
    why = "full size: no detail is lost"
    if ceiling is not None:
        cost = candidate.scale**2
        why = f"label maps survive this scale with mIoU {ceiling:.2f}; a pass costs {cost:.2f} of full size"
    scale = float(draft.add("scale", candidate.scale, why))
    return model, candidate.options, scale


def value_range(data: Fingerprint) -> tuple[list[float], list[float], str]:
    """(low, high) values of each channel that become 0 and 1, and why."""
    if data.dtype == "uint8":
        return [0.0] * data.channels, [255.0] * data.channels, "8-bit: 0..255 to 0..1"
    why = f"{data.dtype}: 0.5 and 99.5 percentiles of the train split to 0..1"
    return list(data.value_low), list(data.value_high), why


def _plan_values(draft: Draft, data: Fingerprint) -> None:
    low, high, why = value_range(data)
    widths = [max(b - a, 1e-12) for a, b in zip(low, high)]
    mean = [(m - a) / w for m, a, w in zip(data.mean, low, widths)]
    std = [max(s / w, 1e-3) for s, w in zip(data.std, widths)]
    values = Normalisation(tuple(low), tuple(high), tuple(mean), tuple(std))
    draft.add("normalisation", values.to_json(), f"{why}, then mean and standard deviation of the train split")


def _plan_learning(draft: Draft, data: Fingerprint, is_normalised: bool) -> None:
    weighs = data.imbalance > IMBALANCED
    fact = f"the most frequent class has {data.imbalance:.0f} times the pixels of the rarest"
    loss = draft.add("loss", "ce+dice", "cross entropy learns fast; Dice keeps small classes from being given up")
    pixels = data.class_pixels["train"]
    if any(term.name == "bce" for term in parse_loss(loss)) and len(pixels) == 2:
        weight = positive_weight(pixels[1], pixels[0])
        why = f"bce weighs positive pixels by itself, by {weight:.3g}: the negative over the positive ones of train"
        kind = draft.add("class_weights", "none", why)
    else:
        kind = draft.add("class_weights", "sqrt_inverse" if weighs else "none", fact)
    weights = (
        class_weights(kind, pixels, data.class_images["train"]).tolist() if kind != "none" else [1.0] * len(pixels)
    )
    total = sum(w * p for w, p in zip(weights, pixels)) / max(1, sum(pixels))
    draft.add("class_weight_values", [w / total for w in weights], "in class order, 1 for the average pixel")
    plan_sampling(draft.add, data, weighs=weighs, fact=fact)
    draft.add("optimizer", "adamw", "forgiving of the rate, which nobody has time to tune")
    if is_normalised:
        rate = "peak for AdamW from scratch with batch normalisation: 1e-3 and 4e-3 both learned less in ten minutes"
        draft.add("learning_rate", 2e-3, rate)
    else:
        draft.add("learning_rate", 2e-4, "no layer normalises its maps: at 1e-3 a net of VGG16's depth diverged")
    draft.add("schedule", "onecycle", "reaches its best at the end of any budget (Smith & Topin 2018)")
    draft.add("weight_decay", 0.01, "AdamW's usual")
    draft.add("ema_share", 0.02, "averaging the weights over 2 % of the steps smooths a short run")


def _plan_changes(draft: Draft, data: Fingerprint, facts: LabelFacts) -> None:
    colour = data.channels == 3
    upright, lopsided = facts.vertical > UPRIGHT, facts.horizontal > UPRIGHT
    ranges = Augmentation(
        flip_horizontal=not lopsided,
        flip_vertical=not upright,
        quarter_turns=not upright and not lopsided,
        rotate_degrees=5.0 if upright or lopsided else 15.0,
        scale=(0.8, 1.6) if colour else (0.8, 1.25),
        aspect=0.1,
        contrast=0.3,
        brightness=0.15,
        saturation=0.4 if colour else 0.0,
        gamma=0.0 if colour else 0.3,
        noise=0.0 if colour else 0.03,
        elastic_px=0.0 if upright or lopsided else 8.0,
    )
    value = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(ranges).items()}
    halves = (
        f"classes differ by {facts.vertical:.2f} between top and bottom, {facts.horizontal:.2f} between left and right"
    )
    kind = (
        "an upright, so only what keeps it" if upright or lopsided else "no upright, so turns and elastic changes too"
    )
    draft.add("augmentation", value, f"{halves}: {kind}")
    draft.add("label_offset", *_label_offset(facts))


def _label_offset(facts: LabelFacts) -> tuple[list[float], str]:
    """(down, right) that mirrors and turns must not turn round, and why."""
    if max(facts.offset_cost) <= OFFSET_COST:
        return [0.0, 0.0], "label maps lie on the edges of their images, or so near that it does not matter"
    down, right = (round(by, 3) for by in facts.offset)
    below, beside = "below" if down > 0 else "above", "right" if right > 0 else "left"
    where = f"label maps lie {abs(down):.2f} px {below} and {abs(right):.2f} px {beside} of the edges in their images"
    return [down, right], f"{where}: kept when images are mirrored or turned (up to {max(facts.offset_cost):.2f} mIoU)"


def _image_s(costs: Costs, model: str, options: dict[str, Any], epochs: int | None, crop: list[int]) -> float | None:
    """Seconds that an image takes; measured anew where the crops are much smaller than those timed so far."""
    if epochs is not None:
        return None
    side = math.isqrt(crop[0] * crop[1])
    return costs.megapixel_s(model, options, side if side < SMALL_CROPS * SIDE else SIDE) * crop[0] * crop[1] / 1e6


def _plan_length(
    draft: Draft,
    costs: Costs,
    epochs: int | None,
    *,
    image_s: float | None,
    coarse_share: float | None,
    batch_size: int,
    scale: float,
) -> None:
    batch = batch_size * costs.devices
    if epochs is not None:
        steps = max(1, math.ceil(epochs * costs.images / batch))
        draft.add("coarse_steps", 0, "all steps at the working scale")
        draft.add("steps", steps, f"{epochs} epochs of {costs.images} images in batches of {batch}")
    else:
        assert image_s is not None and costs.training_s is not None
        coarse = _plan_coarse_steps(draft, costs.training_s, image_s * batch_size, coarse_share)
        fine_s = costs.training_s - coarse * (coarse_share or 0.0) * image_s * batch_size
        steps = coarse + max(1, int(fine_s / (image_s * batch_size)))
        draft.add("steps", steps, f"{image_s:.3f} s an image was measured; corrected while training")
    count = draft.add(
        "validations", max(1, min(10, steps // 20)), "enough to draw a curve and to choose the best weights"
    )
    most, why = None, "all images, since there is no budget to keep"
    if costs.training_s is not None and image_s is not None:
        shown = image_s * PREDICTION_SHARE * _megapixels(costs.size, scale) / max(1e-9, _crop_megapixels(draft))
        most = max(4, int(costs.training_s * VALIDATION_SHARE / count / (shown + PREDICTION_S)))
        why = f"{VALIDATION_SHARE:.0%} of the budget is for looking"
    draft.add("max_validation", most, why)


def _plan_coarse_steps(draft: Draft, training_s: float, step_s: float, share: float | None) -> int:
    """Steps of the coarse phase; none where half the crop would show nothing, or cost nearly as much."""
    steps = 0
    if share is None:
        why = "crops are too small to be halved"
    elif share > MAX_COARSE_COST:
        why = f"at half the scale a step would take {share:.0%} of a whole one: too little is saved"
    else:
        why = (
            f"first steps see half the scale: such a step takes {share:.0%} of a whole one, so the data pass more often"
        )
        steps = int(COARSE_SHARE * training_s / (share * step_s))
    return int(draft.add("coarse_steps", steps, why))


def _megapixels(size: tuple[int, int], scale: float) -> float:
    return size[0] * size[1] * scale**2 / 1e6


def _crop_megapixels(draft: Draft) -> float:
    crop = next(line.value for line in draft.lines if line.setting == "crop")
    return crop[0] * crop[1] / 1e6
