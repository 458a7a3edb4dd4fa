"""`create_model`: from a name and options to a network, with every mistake named."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from perpixel.errors import InputError, did_you_mean

# What an option may be annotated with: the types that are accepted, and how an error calls them.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a name"),
    "Path": ((Path,), ""),
    "None": ((type(None),), ""),
    "Sequence[Sequence[int]]": ((list, tuple), "a list of lists of whole numbers"),
    "Mapping[str, Any]": ((dict,), "values by name"),
    "Sequence[int]": ((list, tuple), "a list of whole numbers"),
    "Sequence[float]": ((list, tuple), "a list of numbers"),
}


def option_names(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """Options of a model with their defaults, read from its signature."""
    parameters = inspect.signature(builder).parameters
    return {name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}


def spatial_dims(builder: Callable[..., nn.Module]) -> int:
    """2 where a model takes images (B, C, H, W), 3 where it takes volumes (B, C, D, H, W); nothing is built."""
    kind = builder if inspect.isclass(builder) else typing.get_type_hints(builder).get("return")
    return int(getattr(kind, "spatial_dims", 2))


def build(
    models: Mapping[str, Callable[..., nn.Module]],
    name: str,
    in_channels: int,
    num_classes: int,
    options: dict[str, Any],
) -> nn.Module:
    """Call the builder of `name` after checking the name, the counts and the names of the options.

    Raises:
        InputError: unknown name or option (nearest one and all known ones listed), an option of another type than its
            annotation, or a count below 1.
    """
    if name not in models:
        raise InputError(f"unknown model '{name}'{did_you_mean(str(name), models)}")
    known = option_names(models[name])
    for option in options:
        if option not in known:
            raise InputError(f"unknown option '{option}' of model '{name}'{did_you_mean(option, known)}")
        _check_type(name, option, options[option], inspect.signature(models[name]).parameters[option])
    for count, value in (("in_channels", in_channels), ("num_classes", num_classes)):
        if not _fits(value, "int") or value < 1:
            raise InputError(f"{count}={value!r} of model '{name}': it must be a whole number from 1 on")
    return models[name](in_channels, num_classes, **options)


def _check_type(name: str, option: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuse text where the signature says a number, and the like; the range is the model's to check."""
    kinds = str(parameter.annotation).split(" | ")
    if any(kind not in KINDS or _fits(value, kind) for kind in kinds):
        return
    words = " or ".join(KINDS[kind][1] for kind in kinds if KINDS[kind][1])
    default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    example = "" if default is None else f", such as {default!r}"
    instead = ", or none" if "None" in kinds else ""
    raise InputError(f"option {option}={value!r} of model '{name}': give {words}{example}{instead}")


def _fits(value: Any, kind: str) -> bool:
    """Whether `value` is of a kind of KINDS; true and false are no numbers."""
    if isinstance(value, bool) != (kind == "bool") or not isinstance(value, KINDS[kind][0]):
        return False
    return not isinstance(value, (list, tuple)) or all(_fits(each, kind[len("Sequence[") : -1]) for each in value)
