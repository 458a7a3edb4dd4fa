"""Learning rate as a function of progress 0..1, and progress as a function of the step.

Progress comes from *legs*. A run starts with one leg over all its steps. When a time budget turns out tighter or looser
than planned, a new leg starts at the present progress and ends sooner or later, so the rate never jumps; extending a
finished run adds a leg that starts from progress 0 again (a warm restart, Loshchilov & Hutter 2017). Legs are
written to the run folder before they take effect, so that a resumed run follows the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Leg:
    """From `start` (step) at `progress` to 1.0 at `end` (step); `reason` says why it was made."""

    start: int
    end: int
    progress: float
    reason: str


class Legs:
    """The legs of a run, in the order of their starts."""

    def __init__(self, legs: list[Leg]) -> None:
        self.legs = sorted(legs, key=lambda leg: leg.start)

    @property
    def total_steps(self) -> int:
        return self.legs[-1].end

    def progress(self, step: int) -> float:
        """Progress in 0..1 before `step` (0-based) is taken."""
        leg = next((leg for leg in reversed(self.legs) if leg.start <= step), self.legs[0])
        share = (step - leg.start) / max(1, leg.end - leg.start)
        return leg.progress + (1 - leg.progress) * min(1.0, max(0.0, share))

    def with_leg(self, leg: Leg) -> Legs:
        return Legs([*self.legs, leg])

    def is_decided_after(self, step: int) -> bool:
        """Whether a leg that starts after `step` is already written down (by the run that this one resumes)."""
        return any(leg.start > step for leg in self.legs)

    def to_json(self) -> dict[str, object]:
        return {"legs": [asdict(leg) for leg in self.legs]}

    @classmethod
    def from_json(cls, value: dict) -> Legs:
        return cls([Leg(**leg) for leg in value["legs"]])


def poly(progress: float) -> float:
    """(1 - progress) ** 0.9, with a warm-up over the first 2 % (Chen et al., DeepLab v2; nnU-Net)."""
    return min(1.0, progress / 0.02 + 0.05) * (1 - progress) ** 0.9


def onecycle(progress: float) -> float:
    """Linear rise over the first 15 %, then half a cosine down to nothing (after Smith & Topin 2018)."""
    if progress < 0.15:
        return 0.05 + 0.95 * progress / 0.15
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.15) / 0.85))


def constant(progress: float) -> float:
    """The same rate throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"poly": poly, "onecycle": onecycle, "constant": constant}
