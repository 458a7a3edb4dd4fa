"""What went wrong with which object: missed, false, merged, split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.labels import Instances, overlaps, union_of
from perpixel.metrics.object_overlaps import Ints, best_pairs, union_ratios

# IoU of a pair, and the share of an object that must lie in another one to be called inside it.
MATCHED_AT, INSIDE_ABOVE = 0.5, 0.5
# A prediction of which more than this lies in a crowd of its class, or in the void, is not wrong.
LEFT_OUT_SHARE = 0.5

# States of objects on either side.
HIT, ALONE, MERGED, SPLIT, LEFT_OUT = range(5)
ERROR_DEFINITIONS = {
    "missed": "true objects that no predicted one of their class matches at IoU 0.5 and that lie in no merger",
    "false": "predicted objects that match no true one and are no piece of one",
    "merged": "true objects without a match, more than half of each inside a predicted one that holds another as well",
    "split": "true objects that hold more than half of a predicted one without a match, and of another as well",
}


@dataclass(frozen=True, eq=False)
class ObjectErrors:
    """The objects of one image.

    Attributes:
        pred: (N,) uint8: HIT, ALONE (false), MERGED (holds several true ones), SPLIT (a piece), LEFT_OUT (in a crowd).
        target: (G,) uint8: HIT, ALONE (missed), MERGED (with another one), SPLIT (in pieces) or LEFT_OUT (a crowd).
        pairs: (P, 2) numbers of the predicted and the true object of each match.
        ratios: (P,) their IoU.
    """

    pred: NDArray[np.uint8]
    target: NDArray[np.uint8]
    pairs: Ints
    ratios: NDArray[np.float64]

    def counts(self) -> dict[str, int]:
        """true and predicted objects, matched ones, and the names of ERROR_DEFINITIONS."""
        return {
            "true": int((self.target != LEFT_OUT).sum()),
            "predicted": int((self.pred != LEFT_OUT).sum()),
            "matched": len(self.pairs),
            "missed": int((self.target == ALONE).sum()),
            "false": int((self.pred == ALONE).sum()),
            "merged": int((self.target == MERGED).sum()),
            "split": int((self.target == SPLIT).sum()),
        }


def object_errors(pred: Instances, target: Instances) -> ObjectErrors:
    """Compare the objects of one image, class by class.

    Pairs are one to one, as many as reach IoU 0.5. A true object that is matched but also holds a piece is SPLIT; a
    predicted one that is matched but also swallows another true object is MERGED.

    Raises:
        InputError: sizes differ.
    """
    if pred.size != target.size:
        raise InputError(
            f"pred {pred.size} and target {target.size} differ in size: resize the prediction to the truth"
        )
    rows, cols, shared = overlaps(pred.masks, target.masks, (pred.classes, target.classes))
    single = ~target.is_crowd[cols] & ~pred.is_crowd[rows]
    rows, cols, shared = rows[single], cols[single], shared[single]
    pred_areas, target_areas = pred.masks.areas, target.masks.areas
    ratios = union_ratios(shared, pred_areas[rows], target_areas[cols])
    good = np.flatnonzero(ratios >= MATCHED_AT)
    good = good[best_pairs(rows[good], cols[good], ratios[good])]
    pairs = np.stack([rows[good], cols[good]], axis=1)

    states = np.full(len(pred), ALONE, np.uint8), np.full(len(target), ALONE, np.uint8)
    states[0][_in_crowds(pred, target)] = LEFT_OUT
    states[0][pred.is_crowd], states[1][target.is_crowd] = LEFT_OUT, LEFT_OUT
    states[0][pairs[:, 0]], states[1][pairs[:, 1]] = HIT, HIT
    _mark(states[1], states[0], cols, rows, shared > INSIDE_ABOVE * target_areas[cols], MERGED, pairs[:, ::-1])
    _mark(states[0], states[1], rows, cols, shared > INSIDE_ABOVE * pred_areas[rows], SPLIT, pairs)
    return ObjectErrors(*states, pairs, ratios[good])


def _mark(
    parts: NDArray[np.uint8],
    wholes: NDArray[np.uint8],
    part: Ints,
    whole: Ints,
    is_inside: NDArray[np.bool_],
    state: int,
    pairs: Ints,
) -> None:
    """Give `state` to parts without a match that lie in a whole with another part, or with its match, and to it."""
    held = np.bincount(whole[is_inside], minlength=len(wholes))
    # A whole that is matched holds its match, whether or not that one lies inside it.
    matched = {(int(a), int(b)) for a, b in pairs}
    outside = [b for a, b in zip(part[~is_inside], whole[~is_inside]) if (int(a), int(b)) in matched]
    np.add.at(held, np.array(outside, np.int64), 1)
    lost = is_inside & (parts[part] == ALONE) & (held[whole] > 1)
    parts[part[lost]] = state
    wholes[whole[lost]] = state


def _in_crowds(pred: Instances, target: Instances) -> NDArray[np.bool_]:
    found = np.zeros(len(pred), bool)
    for kind in np.unique(pred.classes).tolist():
        crowds = target.take(target.is_crowd & ((target.classes == kind) | (target.classes == 0)))
        if len(crowds):
            rows, _, shared = overlaps(pred.masks, union_of(crowds.masks))
            inside = rows[shared > LEFT_OUT_SHARE * pred.masks.areas[rows]]
            found[inside[pred.classes[inside] == kind]] = True
    return found
