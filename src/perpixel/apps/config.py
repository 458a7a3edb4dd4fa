"""From text to values, once: what a run was asked to do, checked, and saved beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perpixel.errors import InputError

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> float:
    """Seconds of "90s", "10m", "2h", "1.5h", "1h30m", or of a plain number of seconds.

    Raises:
        InputError: not a duration, or not positive.
    """
    if isinstance(text, (int, float)):
        seconds = float(text)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
        whole = re.fullmatch(r"(\s*\d+(?:\.\d+)?\s*[smhd])+\s*|\d+(?:\.\d+)?", text.strip().lower())
        if not whole:
            raise InputError(f"budget '{text}' is not a duration: write 90s, 10m, 2h or 1h30m")
        seconds = sum(float(number) * UNITS_S[unit] for number, unit in parts) if parts else float(text)
    if not seconds > 0 or seconds == float("inf"):
        raise InputError(f"budget '{text}' is not a positive duration: write 90s, 10m, 2h or 1h30m")
    return seconds


class TrainConfig(BaseModel):
    """A run's settings. None means: let the plan decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    model: str = "auto"
    task: str = "auto"
    budget_s: float | None = None
    epochs: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None
    start_from_partial: bool = False
    loss: str | None = None
    class_weights: str | None = None
    rare_share: float | None = Field(default=None, ge=0, le=1)
    rare_power: float | None = Field(default=None, ge=0, le=2)
    repeat_threshold: float | None = Field(default=None, ge=0, le=1)
    batch_size: int | None = Field(default=None, ge=1)
    crop: tuple[int, int] | tuple[int, int, int] | None = None
    scale: float | None = Field(default=None, gt=0, le=4)
    learning_rate: float | None = Field(default=None, gt=0)
    optimizer: str | None = None
    schedule: str | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    ema: bool = True
    patience: int | None = Field(default=None, ge=1)
    precision: str = "auto"
    device: str = "auto"
    devices: int = Field(default=1, ge=1)
    num_workers: int | None = Field(default=None, ge=0)
    checkpoint_every_s: float = Field(default=60.0, ge=0)
    tensorboard: bool = False
    format: str = "auto"
    classes: str | None = None
    splits: str | None = None
    group: str | None = None
    ignore_values: tuple[int, ...] = ()
    snap: bool = False
    threads: int | None = Field(default=None, ge=1)

    @field_validator("start_from", mode="before")
    @classmethod
    def _start_from(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("precision")
    @classmethod
    def _precision(cls, value: str) -> str:
        if value not in ("auto", "fp32", "bf16"):
            raise ValueError("choose auto, fp32 or bf16")
        return value

    @field_validator("crop")
    @classmethod
    def _crop(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and min(value) < 1:
            raise ValueError("every side must be at least 1")
        return value

    def given(self) -> dict[str, Any]:
        """What the user decided instead of the plan, under the plan's names."""
        recipe = ("loss", "class_weights", "learning_rate", "optimizer", "schedule", "weight_decay")
        sampling = ("rare_share", "rare_power", "repeat_threshold")
        names = ("options", "batch_size", "scale", *recipe, *sampling)
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, {})}
        if self.crop is not None:
            chosen["crop"] = list(self.crop)
        if self.model != "auto":
            chosen["model"] = self.model
        if self.precision != "auto":
            chosen["precision"] = self.precision
        if not self.ema:
            chosen["ema_share"] = 0.0
        return chosen


# Settings that mean something to a forest. The others are about the steps of a net.
FOREST_SETTINGS = frozenset(
    ("data", "model", "task", "budget_s", "seed", "options", "scale", "device", "num_workers", "checkpoint_every_s",
     "format", "classes", "splits", "group", "ignore_values", "snap", "threads")
)  # fmt: skip


def refuse_net_settings(config: TrainConfig) -> None:
    """Refuse settings that a forest cannot follow.

    Raises:
        InputError: one that is about the steps of a net was given.
    """
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        if name not in FOREST_SETTINGS and value != field.get_default(call_default_factory=True):
            if name == "precision" and value == "fp32":
                continue
            raise InputError(f"{name} {value}: a {config.model} is grown, not trained in steps: leave it out")


def make_config(**values: Any) -> TrainConfig:
    """A checked TrainConfig.

    Raises:
        InputError: a value of the wrong kind or range, or an unknown setting; one line.
    """
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "setting"
        said = first["msg"].removeprefix("Value error, ").lower()
        raise InputError(f"{name} is {first['input']!r}: {said}") from error
