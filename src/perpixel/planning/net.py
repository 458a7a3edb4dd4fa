"""Which net, at which working scale: the best of a ladder that gets round the data often enough in the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from perpixel.planning.facts import LabelFacts
from perpixel.planning.rehearsal import SIDE

# Passes over the data below which a net from scratch has not learned much, so that a cheaper one does better.
MIN_PASSES = 12.0
# Steps below which the same holds, however often a small set has been gone round.
MIN_STEPS = 500.0
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
# A working scale is not considered when the label maps themselves would not survive it.
MIN_CEILING = 0.6

# The paper's U-Net at a quarter of its width. In ten minutes from scratch on two cores it learned more than U-Nets over
# RegNetY-400MF, which learned as much as those over ResNet-18 in half of their time a pixel.
LIGHT_UNET: dict[str, Any] = {"width": 16}


@dataclass(frozen=True)
class Candidate:
    """A net's options and its working scale."""

    options: dict[str, Any]
    scale: float


# Best first: what wins when there is time for it.
LADDER: tuple[Candidate, ...] = (
    Candidate({"width": 64}, 1.0),
    Candidate({"width": 32}, 1.0),
    *(Candidate(LIGHT_UNET, scale) for scale in SCALES),
)

# Options of a U-Net over a backbone. Where one is given and the backbone is not: the one that everybody has weights of.
BACKBONE_OPTIONS = {"weights", "decoder_channels", "head_stride"}
BACKBONE_LADDER = tuple(Candidate({"encoder": "resnet34"}, scale) for scale in SCALES)

# (model, options, side of the crops, too many seconds) -> seconds of training per megapixel.
Measure = Callable[[str, dict[str, Any], int, float], float]


@dataclass
class Costs:
    """Seconds of training per megapixel, measured once for each net.

    Attributes:
        measure: (model, options, side, hopeless) -> seconds per megapixel of crops of side x side; it need not be exact
            above `hopeless`.
        size: (H, W) median image.
        most_pixels: largest crop.
        images: training images.
        training_s: seconds that steps may take; None without a budget.
        devices: images are shared among so many.
        batch_size: images a step, on each device.
    """

    measure: Measure
    size: tuple[int, int]
    most_pixels: int
    images: int
    training_s: float | None
    devices: int
    batch_size: int
    known: dict[str, float] = field(default_factory=dict)
    at_least: dict[str, float] = field(default_factory=dict)

    def megapixel_s(self, model: str, options: dict[str, Any], side: int = SIDE, hopeless: float = math.inf) -> float:
        key = f"{model} {sorted(options.items())} {side}"
        if key in self.known:
            return self.known[key]
        if self.at_least.get(key, 0.0) > hopeless:
            return self.at_least[key]  # a slow net is not timed again only to hear that it is too slow here too
        measured = self.measure(model, options, side, hopeless)
        (self.known if measured <= hopeless else self.at_least)[key] = measured
        return measured

    def coarse_share(self, model: str, options: dict[str, Any]) -> float:
        """What a crop of half the sides costs of a whole one."""
        return self.megapixel_s(model, options, SIDE // 2) / self.megapixel_s(model, options) / 4

    def steps(self, model: str, candidate: Candidate) -> float:
        """How many steps fit the budget."""
        assert self.training_s is not None
        step_megapixels = self.batch_size * self._crop_pixels(candidate.scale) / 1e6
        # More seconds than this and there are not enough steps, however many more it is.
        hopeless = self.training_s / step_megapixels / MIN_STEPS
        return self.training_s / (self.megapixel_s(model, candidate.options, hopeless=hopeless) * step_megapixels)

    def passes(self, model: str, candidate: Candidate) -> float:
        """How often the budget gets round the pixels of the training images."""
        share = self._crop_pixels(candidate.scale) / self._image_pixels(candidate.scale)
        return self.steps(model, candidate) * self.batch_size * self.devices * share / self.images

    def _image_pixels(self, scale: float) -> float:
        return self.size[0] * self.size[1] * scale**2

    def _crop_pixels(self, scale: float) -> float:
        return min(self._image_pixels(scale), self.most_pixels)


def choose_net(
    model: str, options: dict[str, Any], scale: float | None, costs: Costs, facts: LabelFacts
) -> tuple[Candidate, str]:
    """The candidate to train, and why.

    Args:
        options: those that the user gave; they are kept.
        scale: the working scale that the user gave, or None.
    """
    if costs.training_s is None:
        light = _ladder(options)[-1].options if is_free(model, options) else {}
        why = "a number of epochs says nothing of the time there is: a net for any machine"
        return Candidate({**light, **options}, scale or 1.0), why
    chosen = None
    for candidate in _candidates(model, options, scale, facts):
        chosen = candidate
        if costs.steps(model, candidate) >= MIN_STEPS and costs.passes(model, candidate) >= MIN_PASSES:
            break
    assert chosen is not None
    speed = f"{costs.megapixel_s(model, chosen.options):.2f} s a megapixel measured"
    fits = f"about {costs.steps(model, chosen):.0f} steps, {costs.passes(model, chosen):.0f} passes over the images"
    return chosen, f"{speed}: {fits}; below {MIN_STEPS:.0f} and {MIN_PASSES:.0f} a lighter net learns more"


def is_free(model: str, options: dict[str, Any]) -> bool:
    """Whether the plan chooses the size of the net, since the options leave it open."""
    return model == "unet" and not set(options) & {"encoder", "width", "depth"}


def _ladder(options: dict[str, Any]) -> tuple[Candidate, ...]:
    return BACKBONE_LADDER if BACKBONE_OPTIONS & {name for name, value in options.items() if value} else LADDER


def _candidates(model: str, options: dict[str, Any], scale: float | None, facts: LabelFacts) -> Iterator[Candidate]:
    nets = [Candidate({**c.options, **options}, c.scale) for c in _ladder(options) if is_free(model, options)]
    nets = nets or [Candidate(options, s) for s in SCALES]
    if scale is not None:
        distinct = {repr(candidate.options): candidate.options for candidate in nets}
        nets = [Candidate(net, scale) for net in distinct.values()]
    for candidate in nets:
        if scale is not None or facts.ceiling.get(candidate.scale, 1.0) >= MIN_CEILING:
            yield candidate
