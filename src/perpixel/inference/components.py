"""Clean-up of label maps by connected components, and its choice where validation cases say that it helps.

Nets find small wrong pieces far from a structure of which there is one. No name tells which classes have one piece
only, so that it is tried on validation cases (as in nnU-Net: Isensee et al., Nature Methods 2021), class by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perpixel.errors import InputError


@dataclass(frozen=True)
class ComponentRule:
    """Which components of a class are kept.

    Attributes:
        is_largest_only: only the largest one; the first of equals in the order of the array.
        min_size: only those of this many pixels or voxels, or more.
    """

    is_largest_only: bool = False
    min_size: int = 1


LARGEST_ONLY = ComponentRule(is_largest_only=True)


def clean_components(
    label_map: np.ndarray, rules: Mapping[int, ComponentRule], *, background: int = 0, by_faces: bool = False
) -> np.ndarray:
    """Components that their class's rule does not keep become background.

    Args:
        label_map: (H, W) or (D, H, W) class indices; not changed.
        rules: for some of the classes.
        by_faces: parts that touch at corners or edges only are two; otherwise they are one.
    Returns:
        The label map of the same shape and type.
    """
    from scipy import ndimage

    if label_map.ndim not in (2, 3):
        raise InputError(f"label map {label_map.shape}: give (H, W) or (D, H, W)")
    structure = ndimage.generate_binary_structure(label_map.ndim, 1 if by_faces else label_map.ndim)
    result = label_map.copy()
    for value, rule in rules.items():
        box = _box(label_map == value)
        if box is None:
            continue
        mask = label_map[box] == value
        numbers, count = ndimage.label(mask, structure)
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        keeps = sizes >= rule.min_size
        if rule.is_largest_only:
            keeps &= np.arange(count + 1) == 1 + sizes[1:].argmax()
        keeps[0] = True  # what is not of the class
        result[box][~keeps[numbers]] = background
    return result


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The box of what is set, or None: components of a small structure in a large volume are sought there only."""
    spans = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(held):
            return None
        spans.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(spans)


def choose_rules(
    without: Sequence[Sequence[float]] | np.ndarray,
    cleaned: Mapping[ComponentRule, Sequence[Sequence[float]] | np.ndarray],
) -> dict[int, ComponentRule]:
    """For each class the rule with the best mean Dice over validation cases, where it is strictly better than none.

    Args:
        without: (N, K) Dice of each case and class as predicted; NaN where a class has none in a case.
        cleaned: the same for each rule, with that rule on every class. The first of equals is taken.
    Returns:
        class -> rule, for the classes that a rule helps.
    Raises:
        InputError: tables of different shapes.
    """
    plain = np.asarray(without, np.float64)
    tables = {rule: np.asarray(scores, np.float64) for rule, scores in cleaned.items()}
    if plain.ndim != 2 or any(table.shape != plain.shape for table in tables.values()):
        shapes = [plain.shape, *(table.shape for table in tables.values())]
        raise InputError(f"Dice tables of shapes {shapes}: give one row a case and one column a class, alike in all")
    best, chosen = _mean_scores(plain), dict[int, ComponentRule]()
    for rule, table in tables.items():
        means = _mean_scores(table)
        for value in np.flatnonzero(means > best).tolist():
            best[value], chosen[value] = means[value], rule
    return dict(sorted(chosen.items()))


def _mean_scores(table: np.ndarray) -> np.ndarray:
    """(K,) means over the cases that have a score. A case whose only find was wrong, and went, has none any more."""
    counts = np.isfinite(table).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(table, axis=0) / counts)
