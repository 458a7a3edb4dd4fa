"""What a run starts from where that is not chance: the weights of another run or bundle.

They are written into the folder of the new run before its first step, so that it is resumed alike from there on,
whatever becomes of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perpixel.apps.config import TrainConfig
from perpixel.apps.wording import plural
from perpixel.engine.run_folder import RunFolder
from perpixel.errors import InputError
from perpixel.inference.bundle import BundleConfig, find_bundle, load_bundle, read_bundle_config
from perpixel.labels import ClassTable
from perpixel.models import FORESTS, MODELS, create_model, load_weights, option_names, save_weights
from perpixel.planning import Plan, is_free

OnEvent = Callable[[dict[str, Any]], None]

PARTIAL = "or give start_from_partial (--start-from-partial), which keeps the tensors that fit"
# Of the peak learning rate from scratch: a customary share, so that little of what the weights know is undone.
RATE_SHARE = 0.25
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Start:
    """A bundle whose weights a run starts from."""

    path: Path
    config: BundleConfig
    is_partial: bool

    @property
    def name(self) -> str:
        """That of the run that left it; of the folder where there was none."""
        return str(self.config.training.get("run") or self.path.name)

    def to_json(self) -> dict[str, Any]:
        """For the run's records."""
        return {"name": self.name, "path": str(self.path), "model": self.config.model, "is_partial": self.is_partial}


def open_start(config: TrainConfig) -> Start | None:
    """The bundle that the settings name; None where they name none.

    Raises:
        InputError: no bundle there, or settings that contradict each other.
    """
    if config.start_from is None:
        if config.start_from_partial:
            raise InputError("start_from_partial: there is nothing to take part of: give start_from as well")
        return None
    if config.options.get("weights") is not None:
        raise InputError(
            f"start_from '{config.start_from}' and weights={config.options['weights']!r} were both given: keep one"
        )
    folder = find_bundle(config.start_from).resolve()
    found = read_bundle_config(folder)
    if found.model in FORESTS:
        raise InputError(
            f"start_from '{config.start_from}': its model is a {found.model}, which has no weights to start from: "
            "give the run of a net"
        )
    return Start(folder, found, config.start_from_partial)


def with_start(config: TrainConfig, start: Start) -> TrainConfig:
    """The settings with what the start decides where the user does not: model, its options, working scale."""
    model = start.config.model if config.model == "auto" else config.model
    options = config.options
    if model in MODELS and _is_same_kind(model, start.config.model):
        known = option_names(MODELS[model])
        theirs = {name: value for name, value in start.config.options.items() if name in known and name != "weights"}
        options = {**theirs, **config.options}
        if is_free(model, options):  # or the plan would choose another size of net
            options = {**known, **options, "weights": None}
    return config.model_copy(update={"model": model, "options": options, "scale": config.scale or start.config.scale})


def _is_same_kind(model: str, other: str) -> bool:
    """Whether the options of one mean the same in the other: FCNs of several strides are one class."""
    import torch

    if model == other or other not in MODELS:
        return model == other
    with torch.device("meta"):
        return type(create_model(model)) is type(create_model(other))


def adapt_plan(plan: Plan, config: TrainConfig, start: Start) -> Plan:
    """The plan with a lower learning rate, and with reasons for what the start decided.

    Args:
        config: the settings as the user gave them.
    """
    given = {"model": config.model != "auto", "options": bool(config.options), "scale": config.scale is not None}
    lines = []
    for line in plan.lines:
        if line.setting == "learning_rate" and config.learning_rate is None:
            reason = f"{RATE_SHARE:g} of that from scratch, since the weights of '{start.name}' are trained"
            line = replace(line, value=line.value * RATE_SHARE, reason=reason)
        elif not given.get(line.setting, True):
            line = replace(line, reason=f"that of '{start.name}', whose weights it starts from")
        lines.append(line)
    return Plan(tuple(lines))


def compare_data(start: Start, *, channels: int, classes: ClassTable, on_event: OnEvent) -> None:
    """Hold the data that the start was trained on against those at hand, and say where classes have other names.

    Raises:
        InputError: another number of channels; another number of classes, unless what fits is enough.
    """
    where = f"start_from '{start.path}'"
    if start.config.channels != channels:
        raise InputError(
            f"{where}: its images have {start.config.channels} channel(s), these {channels}: give images of "
            f"{start.config.channels}, or train without start_from"
        )
    theirs, mine = start.config.classes.names, classes.names
    if len(theirs) == len(mine):
        others = [(index, *names) for index, names in enumerate(zip(theirs, mine)) if names[0] != names[1]]
        for index, there, here in others[:1]:
            count = plural(len(others) - 1, "more class has", "more classes have")
            more = f"; {count} another name" if len(others) > 1 else ""
            text = f"Note: class {index} was '{there}' in the training of {start.name}, here it is '{here}'"
            on_event({"kind": "phase", "text": f"{text}: its scores start as those of '{there}'{more}"})
    elif not start.is_partial:
        raise InputError(
            f"{where}: it knows {len(theirs)} classes ({_short(theirs)}), the data have {len(mine)} ({_short(mine)}): "
            f"give data of the same classes, {PARTIAL}"
        )


def write_start(folder: RunFolder, model: Any, plan: Plan, start: Start, *, on_event: OnEvent) -> None:
    """The first weights as a file of the run, so that it does not depend on where they came from.

    Args:
        model: as planned, with weights that the seed decides; it is changed.
    Raises:
        InputError: the weights do not fit it.
    """
    text = load_start(model, plan["model"], plan["options"], start)
    on_event({"kind": "phase", "text": text})
    save_weights(model, folder.initial)
    folder.write("start.json", start.to_json())


def read_start(folder: RunFolder, model: Any) -> None:
    """Give `model` the first weights that `write_start` left.

    Raises:
        InputError: the file is gone or damaged.
    """
    if not folder.initial.is_file():
        raise InputError(
            f"{folder.initial}: the weights that this run starts from are gone, and it has no checkpoint yet: "
            "train again into a new folder"
        )
    load_weights(model, folder.initial)


def start_record(folder: RunFolder) -> dict[str, Any]:
    """What a bundle says of the weights that its run started from: no paths, since bundles are passed on."""
    return {name: value for name, value in folder.read("start.json").items() if name in ("name", "model", "is_partial")}


def load_start(model: Any, name: str, options: dict[str, Any], start: Start) -> str:
    """Give `model`, built as `name` with `options`, the weights of the start, and say what it took.

    A finer net of a family that is trained in stages (FCN) takes over all that its coarser parent has.

    Raises:
        InputError: another architecture or tensors that do not fit, unless what fits is enough; then that nothing fits.
    """
    file, where = start.path / "model.safetensors", f"start_from '{start.path}'"
    differing = _differing(name, options, start.config)
    if start.is_partial:
        return _take_fitting(model, start)
    if name != start.config.model:
        return _take_stage(model, name, start)
    try:
        load_weights(model, file)
    except InputError as error:
        if not differing:
            raise
        raise InputError(
            f"{where}: {', '.join(differing)}, and its tensors do not fit: give the same options, {PARTIAL}"
        ) from error
    remark = f" (Note: {', '.join(differing)})" if differing else ""
    return f"Starting from the weights of {start.path}{remark}"


def _take_fitting(model: Any, start: Start) -> str:
    names = list(model.state_dict())
    new = load_weights(model, start.path / "model.safetensors", strict=False)
    text = f"Starting from {len(names) - len(new)} of {len(names)} tensors of {start.path}"
    return f"{text}; new are {_short(new)}" if new else text


def _take_stage(model: Any, name: str, start: Start) -> str:
    parent, _ = load_bundle(start.path)
    take_over = getattr(model, "from_parent", None)
    if take_over is None or type(parent) is not type(model):
        raise InputError(
            f"start_from '{start.path}': its model is '{start.config.model}', this one '{name}': give the same model, "
            f"{PARTIAL}"
        )
    try:
        take_over(parent)
    except InputError as error:
        raise InputError(f"start_from '{start.path}': {error}") from error
    return f"Starting from '{start.config.model}' of {start.path}: what '{name}' adds starts at zero"


def _differing(name: str, options: dict[str, Any], theirs: BundleConfig) -> list[str]:
    """ "option width is 16 there, 32 here", for every option of one model that differs."""
    if name != theirs.model:
        return []
    defaults = {option: value for option, value in option_names(MODELS[name]).items() if option != "weights"}
    pairs = {option: (theirs.options.get(option, value), options.get(option, value))
             for option, value in defaults.items()}  # fmt: skip
    return [
        f"option {option} is {there!r} there, {here!r} here"
        for option, (there, here) in pairs.items()
        if _plain(there) != _plain(here)
    ]


def _plain(value: Any) -> Any:
    """Tuples as the lists that a file makes of them."""
    return list(value) if isinstance(value, tuple) else value


def _short(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
