"""What `--json` prints: one document on standard output, valid for any strict JSON reader."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_document(value: Any) -> Any:
    """Plain JSON values from results: paths as text, arrays as lists, NaN and infinity as null.

    Raises:
        TypeError: a value has no JSON form (our mistake, never the user's).
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_document(item) for item in value]
    if hasattr(value, "to_json"):
        return to_document(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        return to_document(value.tolist())
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def print_document(value: Any) -> None:
    """Print `value` as the one JSON document of a command."""
    # ASCII escapes: a file name with an undecodable byte or an odd terminal encoding cannot break the document.
    sys.stdout.write(json.dumps(to_document(value), indent=2, allow_nan=False) + "\n")
