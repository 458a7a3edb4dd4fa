"""`create_model`: from a name and options to a network, with every mistake named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from perpixel.errors import InputError, did_you_mean

# Type of an option's default, what is accepted in its place, and how an error calls it.
KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (bool, (bool,), "true or false"),
    (int, (int,), "a whole number"),
    (float, (int, float), "a number"),
    (str, (str,), "a name"),
)


def option_names(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """Options of a model with their defaults, read from its signature."""
    parameters = inspect.signature(builder).parameters
    return {name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}


def build(
    models: Mapping[str, Callable[..., nn.Module]],
    name: str,
    in_channels: int,
    num_classes: int,
    options: dict[str, Any],
) -> nn.Module:
    """Call the builder of `name` after checking the name, the counts and the names of the options.

    Raises:
        InputError: unknown name or option (nearest one and all known ones listed), or a count below 1.
    """
    if name not in models:
        raise InputError(f"unknown model '{name}'{did_you_mean(name, models)}")
    known = option_names(models[name])
    for option in options:
        if option not in known:
            raise InputError(f"unknown option '{option}' of model '{name}'{did_you_mean(option, known)}")
        if options[option] is not None or not _takes_none(models[name], option):
            _check_type(name, option, options[option], known[option])
    for count, value in (("in_channels", in_channels), ("num_classes", num_classes)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{count}={value!r} of model '{name}': it must be a whole number from 1 on")
    return models[name](in_channels, num_classes, **options)


def _takes_none(builder: Callable[..., nn.Module], option: str) -> bool:
    """Whether the signature says `| None`: as in `variant: str | None = "b"`."""
    return "None" in str(inspect.signature(builder).parameters[option].annotation)


def _check_type(name: str, option: str, value: Any, default: Any) -> None:
    """Refuse text where the default is a number, and the like; what defaults to None is the model's to check."""
    for kind, accepted, words in KINDS:
        if type(default) is kind:
            is_flag = isinstance(value, bool)
            if is_flag != (kind is bool) or not isinstance(value, accepted):
                raise InputError(f"option {option}={value!r} of model '{name}': give {words}, such as {default!r}")
