"""The folder of one run: where each file lies, and the log that only ever holds what the weights have seen.

runs/<name>/
  config.json  plan.json  fingerprint.json  check.json  splits.json  legs.json  log.jsonl
  checkpoints/{last,best}.safetensors   initial.safetensors, where it started from the weights of another (start.json)
  bundle/{config.json,model.safetensors,metrics.json,README.md}
  evaluation/<split>/...   report.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perpixel.engine.schedules import Legs
from perpixel.errors import InputError
from perpixel.files import appending, make_folder, read_json, write_json, write_text


class RunFolder:
    """Paths and small files of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.made: list[Path] = []

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def initial(self) -> Path:
        """Weights that the run starts from, where these are not chance."""
        return self.path / "checkpoints" / "initial.safetensors"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    def create(self) -> RunFolder:
        """Make the folder.

        Raises:
            InputError: a run is there already, or the place cannot be written.
        """
        if self.config.exists():
            raise InputError(
                f"{self.path}: a run is here already: continue it with --resume {self.path}, or choose another --out"
            )
        checkpoints = self.path / "checkpoints"
        self.made = [place for place in (checkpoints, self.path, self.path.parent) if not place.exists()]
        make_folder(checkpoints)
        return self

    def discard(self) -> None:
        """Take back what `create` made, unless something is in it by now."""
        for place in self.made:
            try:
                place.rmdir()
            except OSError:
                return

    def open(self) -> RunFolder:
        """Check that this is a run.

        Raises:
            InputError: no such folder, or not a run.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such run folder: check the path")
        if not self.config.is_file():
            raise InputError(f"{self.path}: not a run folder (no config.json in it): give the folder that train made")
        return self

    def write(self, name: str, value: Any) -> None:
        """Write `name` (a .json file) atomically."""
        write_json(self.path / name, value)

    def read(self, name: str) -> Any:
        return read_json(self.path / name)

    def legs(self) -> Legs:
        try:
            return Legs.from_json(self.read("legs.json"))
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path / 'legs.json'}: damaged ({error}): train again into a new folder") from error

    def write_legs(self, legs: Legs) -> None:
        self.write("legs.json", legs.to_json())

    def append_log(self, event: dict[str, Any]) -> None:
        """Add one line to log.jsonl."""
        with appending(self.log) as file:
            file.write(json.dumps(event) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The events so far. A last line cut by a kill is left out."""
        if not self.log.is_file():
            return []
        events = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return events

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`: those steps will be taken, and logged, again."""
        kept = [event for event in self.read_log() if event.get("step", 0) <= step and event["kind"] != "end"]
        write_text(self.log, "".join(json.dumps(event) + "\n" for event in kept))


def new_run_path(parent: str | Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, ... where that is taken."""
    first = Path(parent) / name
    candidate, number = first, 2
    while candidate.exists():
        candidate, number = first.with_name(f"{name}-{number}"), number + 1
    return candidate
