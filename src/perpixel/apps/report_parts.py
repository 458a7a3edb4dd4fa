"""What a report is made of, read from a run folder. Every part but config.json may be missing in an unfinished run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perpixel.errors import InputError
from perpixel.files import read_json

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
SPLIT_ORDER = ("test", "val", "train")  # which evaluation leads the report


@dataclass(frozen=True)
class RunParts:
    """The files of a run as plain values; empty where a file is missing."""

    path: Path
    config: dict[str, Any]
    bundle: dict[str, Any]
    classes: list[dict[str, Any]]
    plan: list[dict[str, Any]]
    fingerprint: dict[str, Any]
    problems: list[dict[str, Any]]
    log: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # split -> scores.json, the leading one first
    parameters: int | None = None

    @property
    def scores(self) -> dict[str, Any] | None:
        """The leading evaluation."""
        return next(iter(self.evaluations.values()), None)

    @property
    def scores_folder(self) -> Path:
        return self.path / "evaluation" / next(iter(self.evaluations), "")


def read_run(path: str | Path) -> RunParts:
    """Read what is there of a run.

    Raises:
        InputError: no such folder, not a run, or a file of it that is not as perpixel writes it.
    """
    run = Path(path)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder: check the path")
    if not (run / "config.json").is_file() or not any((run / name).exists() for name in ("log.jsonl", "checkpoints")):
        raise InputError(f"{run}: not a run folder (no config.json with log.jsonl): give the folder that train made")
    return RunParts(
        path=run,
        config=_read(run / "config.json", dict),
        bundle=_read(run / "bundle" / "config.json", dict),
        classes=_read_list(run / "classes.json", "classes"),
        plan=_read_list(run / "plan.json", "lines"),
        fingerprint=_read(run / "fingerprint.json", dict),
        problems=_read_list(run / "check.json", "problems"),
        log=read_log(run / "log.jsonl"),
        evaluations=_read_evaluations(run / "evaluation"),
        parameters=count_parameters(run / "bundle" / "model.safetensors"),
    )


def _read(path: Path, kind: type) -> Any:
    if not path.is_file():
        return kind()
    value = read_json(path)
    if not isinstance(value, kind):
        raise InputError(f"{path}: a {type(value).__name__}, not as perpixel writes it: restore the file or remove it")
    return value


def _read_list(path: Path, key: str) -> list[dict[str, Any]]:
    lines = _read(path, dict).get(key, [])
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{path}: '{key}' is no list of objects: restore the file or remove it")
    return lines


def _read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in folder.glob("*/scores.json"):
        scores = _read(path, dict)
        needed = ("classes", "scores", "per_class", *(() if scores.get("task") == "instances" else ("confusion",)))
        missing = [key for key in needed if key not in scores]
        if missing:
            raise InputError(f"{path}: '{missing[0]}' is missing: evaluate the run again")
        found[path.parent.name] = scores
    rank = {name: i for i, name in enumerate(SPLIT_ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: (rank.get(name, len(rank)), name))}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of log.jsonl. A line cut by a kill is passed over; steps taken again after a resume count once."""
    if not path.is_file():
        return []
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if not isinstance(event, dict):
            continue
        if event.get("kind") == "resume":
            events = [old for old in events if _number(old.get("step")) <= _number(event.get("step"))]
        events.append(event)
    return events


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def count_parameters(path: Path) -> int | None:
    """Trained numbers in a .safetensors file, from its header alone; running statistics of norms are not counted."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        entries: Mapping[str, Any] = {name: entry for name, entry in header.items() if name != "__metadata__"}
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        return sum(math.prod(entry["shape"]) for name, entry in entries.items() if not name.endswith(buffers))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a headline number less, nothing worse: loading the bundle reports a damaged file
