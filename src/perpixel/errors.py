"""What perpixel raises when the user's input is wrong, and how it words a suggestion."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """The user's input is wrong: one line that says what (the value), where, and what to do.

    The command line prints it without a traceback and exits with 2. Everything else that escapes is a failure of
    ours or of the machine (exit 1).
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown `name`: the nearest known one, then all of them.

    >>> did_you_mean("unet++", ["fcn8s", "unet"])
    "; did you mean 'unet'? known: fcn8s, unet"
    >>> did_you_mean("unet++", ["unet", "unet_plus_plus"])
    "; did you mean 'unet_plus_plus'? known: unet, unet_plus_plus"
    """
    names = sorted(known)
    near: list[str] = []
    for spelled in (name.lower().replace("+", "_plus"), name.lower()):
        near = near or difflib.get_close_matches(spelled.replace("-", "_"), names, n=1, cutoff=0.5)
    guess = f"; did you mean '{near[0]}'?" if near else ";"
    return f"{guess} known: {', '.join(names)}"


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        InputError: it is not installed; the message carries the install command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise InputError(f"package '{package}' is not installed: pip install 'perpixel[{extra}]'") from error
