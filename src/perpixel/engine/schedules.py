"""Learning rate as a function of progress 0..1, and progress as a function of the step.

Progress comes from *legs*, each over a number of steps: a coarse one at half the scale, say, then one at full scale.
When a time budget turns out tighter or looser than planned, what remains is decided anew from the present progress on,
so the rate never jumps; extending a finished run adds a leg that starts from progress 0 again (a warm restart,
Loshchilov & Hutter 2017). Decisions are written to the run folder before they take effect and are never struck out, so
that a resumed run follows at every step the ones that held there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Leg:
    """The steps `start` to `end`, over which progress goes from `progress` to `until`.

    Attributes:
        reason: why the leg was made.
        decided: the step before which this was written down; from there on it holds in place of earlier decisions.
        budget_share: share of the time budget that is spent when the leg ends.
        shrink: pixels at the working scale for one pixel of the crops; 2 sees half the scale.
    """

    start: int
    end: int
    progress: float
    reason: str
    until: float = 1.0
    decided: int = 0
    budget_share: float = 1.0
    shrink: int = 1


class Legs:
    """The legs of a run, in the order in which they were decided."""

    def __init__(self, legs: list[Leg]) -> None:
        self.legs = sorted(legs, key=lambda leg: (leg.decided, leg.start))

    @property
    def total_steps(self) -> int:
        """Where the run ends by the last decision."""
        return self.legs[-1].end

    def course(self, step: int) -> list[Leg]:
        """The legs of the decision that holds at `step`."""
        decided = max((leg.decided for leg in self.legs if leg.decided <= step), default=0)
        return [leg for leg in self.legs if leg.decided == decided]

    def at(self, step: int) -> Leg:
        """The leg that `step` is part of."""
        course = self.course(step)
        return next((leg for leg in reversed(course) if leg.start <= step), course[0])

    def progress(self, step: int) -> float:
        """Progress in 0..1 before `step` (0-based) is taken."""
        leg = self.at(step)
        share = (step - leg.start) / max(1, leg.end - leg.start)
        return leg.progress + (leg.until - leg.progress) * min(1.0, max(0.0, share))

    def with_legs(self, *legs: Leg) -> Legs:
        return Legs([*self.legs, *legs])

    def replanned(self, step: int, possible: int, reason: str) -> Legs:
        """With `possible` more steps to the end of the leg at `step`, and all later ones longer or shorter alike."""
        leg, later = self.at(step), [leg for leg in self.course(step) if leg.start > step]
        # Of the whole leg, not of the little that may be left of it: as late as it is, the others will be.
        ratio = (step + possible) / max(1, leg.end)
        new = [replace(leg, start=step, end=step + possible, progress=self.progress(step), reason=reason, decided=step)]
        for old in later:
            start = new[-1].end
            end = start + max(1, round((old.end - old.start) * ratio))
            new.append(replace(old, start=start, end=end, reason=reason, decided=step))
        return self.with_legs(*new)

    def is_decided_after(self, step: int) -> bool:
        """Whether the decision at `step` or a later one is written down already (by the run that this one resumes)."""
        return any(leg.decided >= step for leg in self.legs if leg.decided > 0)

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
