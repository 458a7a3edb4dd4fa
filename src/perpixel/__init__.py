"""perpixel labels every pixel: from a folder of images and masks to a trained, measured, deployable model.

Names are looked up when they are first used, so that `import perpixel` costs milliseconds and does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from perpixel.errors import InputError

if TYPE_CHECKING:  # what a type checker and an editor see; the same names as in EXPORTS
    from perpixel.apps.api import calibrate, check, evaluate, plan, predict, report, resume, train, tune_crf
    from perpixel.apps.compare import compare
    from perpixel.apps.explain import explain
    from perpixel.inference.load import load
    from perpixel.models import MODELS, create_model

__version__ = "0.1.0"

# Public name -> the module that owns it.
EXPORTS = {
    "MODELS": "perpixel.models",
    "create_model": "perpixel.models",
    "calibrate": "perpixel.apps.api",
    "check": "perpixel.apps.api",
    "compare": "perpixel.apps.compare",
    "explain": "perpixel.apps.explain",
    "plan": "perpixel.apps.api",
    "train": "perpixel.apps.api",
    "resume": "perpixel.apps.api",
    "evaluate": "perpixel.apps.api",
    "predict": "perpixel.apps.api",
    "report": "perpixel.apps.api",
    "tune_crf": "perpixel.apps.api",
    "load": "perpixel.inference.load",
}

# Rooms that are reachable as attributes: perpixel.metrics.confusion_matrix(...).
ROOMS = (
    "apps",
    "classical",
    "data",
    "encoders",
    "engine",
    "images",
    "inference",
    "labels",
    "layers",
    "losses",
    "metrics",
    "models",
    "planning",
)

__all__ = [
    "MODELS",
    "InputError",
    "__version__",
    "calibrate",
    "check",
    "compare",
    "create_model",
    "evaluate",
    "explain",
    "load",
    "plan",
    "predict",
    "report",
    "resume",
    "train",
    "tune_crf",
]


def __getattr__(name: str) -> Any:
    """Import the owner of a public name, or a room, at its first use."""
    if name in EXPORTS:
        value = getattr(importlib.import_module(EXPORTS[name]), name)
    elif name in ROOMS:
        value = importlib.import_module(f"perpixel.{name}")
    else:
        raise AttributeError(f"module 'perpixel' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names and rooms, for completion in a notebook."""
    return sorted({*__all__, *ROOMS})
