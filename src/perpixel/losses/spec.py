"""From text to a loss: "ce", "focal:gamma=2", "0.5*ce+dice:smooth=1e-5,classes=all"."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from perpixel.errors import InputError, did_you_mean
from perpixel.losses.sum import WeightedSum

FORM = "write weight*name:option=value,option=value and join terms with +, as in '0.5*ce+dice:smooth=1e-5'"
_PLUS = re.compile(r"(?<![0-9.][eE])\+")  # the + of 1e+5 joins nothing
_WORDS = {"true": True, "false": False, "none": None}
# Set for the whole sum by the caller, not in a term.
_SHARED = ("class_weights", "ignore_index", "class_pixels")


class Term(NamedTuple):
    weight: float
    name: str
    options: dict[str, Any]


def parse_loss(spec: str) -> list[Term]:
    """The terms of `spec`.

    >>> parse_loss("0.5*ce+dice:smooth=1e-5")
    [Term(weight=0.5, name='ce', options={}), Term(weight=1.0, name='dice', options={'smooth': 1e-05})]
    """
    return [_parse_term(spec, text.strip()) for text in _PLUS.split(spec)]


def _parse_term(spec: str, text: str) -> Term:
    head, _, tail = text.partition(":")
    factor, star, name = head.rpartition("*")
    weight = _number(factor) if star else 1.0
    if weight is None or not math.isfinite(weight) or weight < 0:
        raise InputError(f"loss '{spec}': weight '{factor}' is not a number of 0 or more: {FORM}")
    name = name.strip()
    if not name:
        raise InputError(f"loss '{spec}' has an empty term: {FORM}")
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in tail.split(","))):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InputError(f"loss '{spec}': '{item}' is not option=value: {FORM}")
        options[key.strip()] = _value(value.strip())
    return Term(weight, name, options)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if "/" in text:  # several numbers, one a class
        numbers = [_number(part) for part in text.split("/")]
        return text if None in numbers else tuple(numbers)
    number = _number(text)
    return text if number is None else number


def build_loss(
    spec: str,
    table: Mapping[str, Callable[..., nn.Module]],
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    class_pixels: Sequence[int] | None = None,
) -> nn.Module:
    """The loss that `spec` describes, from the constructors in `table`; see `perpixel.losses.create_loss`."""
    terms = parse_loss(spec)
    shared = dict(zip(_SHARED, (class_weights, ignore_index, class_pixels)))
    losses = [_build_term(term, table, shared) for term in terms]
    if len(losses) == 1 and terms[0].weight == 1:
        return losses[0]
    if not any(term.weight for term in terms):
        raise InputError(f"loss '{spec}': all weights are 0: give one above 0")
    return WeightedSum(losses, [term.weight for term in terms])


def _build_term(term: Term, table: Mapping[str, Callable[..., nn.Module]], shared: Mapping[str, Any]) -> nn.Module:
    if term.name not in table:
        raise InputError(f"unknown loss '{term.name}'{did_you_mean(term.name, table)}")
    known = set(inspect.signature(table[term.name]).parameters)
    options = known.difference(_SHARED)
    for name, value in term.options.items():
        if name not in options:
            known_ones = did_you_mean(name, options) if options else ": it takes none"
            raise InputError(f"loss '{term.name}' has no option '{name}'{known_ones}")
        _check_type(term.name, name, value, inspect.signature(table[term.name]).parameters[name])
    return table[term.name](**term.options, **{key: shared[key] for key in _SHARED if key in known})


def _check_type(loss: str, name: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuse a value of another type than the default's, where the default is a plain one."""
    default = parameter.default
    wanted = "true or false" if isinstance(default, bool) else "a number" if isinstance(default, int | float) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {"true or false": isinstance(value, bool), "a number": is_number, None: True}[wanted]
    if isinstance(default, str) and not isinstance(value, str):
        wanted, fits = "a word", False
    if not fits:
        raise InputError(f"loss '{loss}': {name} is '{value}': give {wanted}")
