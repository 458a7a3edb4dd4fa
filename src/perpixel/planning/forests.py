"""The plan of a forest: there is little to decide, since a forest finds its own features, size and length."""

from __future__ import annotations

from typing import Any

from perpixel.data import Fingerprint
from perpixel.images import Normalisation
from perpixel.planning.plan import Draft, Plan, value_range

# Side of the largest window that is predicted in one piece: a forest computes features block by block anyway.
TILE = 2048


def plan_forest(fingerprint: Fingerprint, *, given: dict[str, Any], budget_s: float | None) -> Plan:
    """Decide what was not given.

    Args:
        given: model, and options and scale where the user chose them.
        budget_s: seconds for everything; None for no limit.
    """
    draft = Draft(given)
    limit = "seconds that must be enough: with fewer pixels or trees where all would take longer"
    draft.add("budget_s", budget_s, limit if budget_s is not None else "as long as it takes")
    draft.add("model", given["model"], "given")
    draft.add("options", {}, "the model's own, which `perpixel models` lists")
    draft.add("scale", 1.0, "full size: no detail is lost")
    draft.add("precision", "fp32", "trees compare numbers: there is no arithmetic to shorten")
    low, high, why = value_range(fingerprint)
    zeros, ones = (0.0,) * fingerprint.channels, (1.0,) * fingerprint.channels
    values = Normalisation(tuple(low), tuple(high), zeros, ones)
    draft.add("normalisation", values.to_json(), f"{why}; not centred, since trees do not mind")
    draft.add("tile", [TILE, TILE], "larger images are predicted in overlapping windows of this size")
    return Plan(tuple(draft.lines))
