"""Several models on one data set: trained one after the other with the same budget, seed and splits, then judged alike.

DIR/
  settings.json                           what is compared; with it the folder is a comparison
  splits.json  classes.json  check.json   the data as the comparison found them, the same for every model
  files.json                              a stamp of their files: data that change on the way are noticed
  LABEL/                                  the run folder of each model, as `train` and `evaluate` leave it
  results/LABEL.json                      written once, when a model is done or has failed
  results/LABEL.txt                       what the process of a failed model printed
  measured.json  pictures/                the last round: prediction times, and the same test images by every model
  compare.json  compare.csv  compare.html

Whatever is killed, the same call goes on: a model with a result is done, one with a run folder is resumed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from perpixel.apps.compare_document import assemble, write_table
from perpixel.apps.compare_settings import (
    Entry,
    Settings,
    entries_of,
    entry_config,
    make_settings,
    read_settings,
    result_of,
)
from perpixel.apps.config import parse_duration
from perpixel.apps.wording import format_duration, one_line, plural
from perpixel.errors import InputError
from perpixel.files import appending, make_folder, read_json, write_json
from perpixel.planning import DEFAULT_BUDGET_S

if TYPE_CHECKING:
    from perpixel.apps.reading import AnyDataset

OnEvent = Callable[[dict[str, Any]], None]
# How long to wait for an earlier call in the same folder that is just ending.
LOCK_WAIT_S = 20.0


@dataclass(frozen=True)
class Comparison:
    """`path` of the folder, `page` to look at, and `document`, the content of compare.json."""

    path: Path
    page: Path
    document: dict[str, Any]

    @property
    def failed(self) -> list[str]:
        """Labels of the models that failed."""
        return [row["label"] for row in self.document["models"] if row["state"] == "failed"]


def compare(
    data: str | Path | None = None,
    *,
    models: str | Sequence[str] | None = None,
    budget: str | float | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    split: str = "test",
    resume: str | Path | None = None,
    isolated: bool = True,
    retry: bool = False,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Comparison:
    """Train several models on the same data with the same budget, judge them alike, and write one table and one page.

    The same call with the same `out` goes on where it was stopped; models may be added to a comparison.

    Args:
        data: as for `train`.
        models: "unet,fcn8s", a list of names, or "all"; "label=name" gives a model a name of its own here.
        budget: wall time for the training of each model: "10m", "2h", or seconds. Default 10 minutes.
        epochs: passes over the training images, in place of a budget.
        out: folder of the comparison; default runs/DATA-compare.
        options: "width" for every model that has this option, "label.width" for one.
        split: the images to judge by.
        resume: the folder of a comparison, in place of everything that says what to compare.
        isolated: each model in a process of its own; False works in this one.
        retry: try those models again that failed.
        settings: for all alike: loss, scale, crop, batch_size, ..., as for `train`.
    Returns:
        Folder, page and compare.json. A model that failed is in it, with the reason; the others are not harmed.
    Raises:
        InputError: unknown models or options, broken data, another comparison in `out`, settings beside `resume`.
    """
    tell = on_event or (lambda event: None)
    if resume is not None:
        told = {"data": data, "models": models, "budget": budget, "epochs": epochs, "out": out, "options": options}
        given = [name for name, value in {**told, **settings}.items() if value is not None]
        if given:
            raise InputError(f"{', '.join(given)}: cannot be given with resume, which keeps the comparison's settings")
        return resume_comparison(Path(resume), isolated=isolated, retry=retry, on_event=tell)
    if data is None or models is None:
        raise InputError("data and models: give both, or resume=")
    if budget is not None and epochs is not None:
        raise InputError(f"budget {budget} and epochs {epochs} were both given: give one of them")
    budget_s = parse_duration(budget) if budget is not None else None if epochs is not None else DEFAULT_BUDGET_S
    asked = make_settings(
        data, models=models, options=options or {}, split=split, budget_s=budget_s, epochs=epochs, seed=seed, **settings
    )
    folder = Path(out) if out is not None else Path("runs", f"{Path(data).resolve().stem}-compare")
    return run_comparison(folder, asked, isolated=isolated, retry=retry, on_event=tell)


def run_comparison(folder: Path, settings: Settings, *, isolated: bool, retry: bool, on_event: OnEvent) -> Comparison:
    """Do what is not done yet of a comparison and write its table and page.

    Args:
        folder: where a comparison with the same settings may be, finished or not; models may be added to it.
        isolated: each model in a process of its own, which gives its memory back and cannot take others with it.
        retry: try the models again that failed.
    Raises:
        InputError: another comparison in `folder`, or broken data. Before anything is trained.
        KeyboardInterrupt: stopped; its text says how to go on.
    """
    from perpixel.apps import compare_worker as work

    make_folder(folder)
    with _alone(folder) as lock:
        settings = _claim(folder, settings)
        dataset = _prepare_data(folder, settings, on_event)
        waiting = [entry for entry in entries_of(settings) if not _is_done(folder, entry, retry)]
        if waiting:
            _check_files(folder, dataset)
            # What is to be done anew must not be found again as a result, should this be stopped.
            (folder / "measured.json").unlink(missing_ok=True)
        for entry in waiting:
            (folder / "results" / f"{entry.label}.json").unlink(missing_ok=True)
        try:
            for number, entry in enumerate(waiting):
                tell = _told(on_event, f"{entry.label} ({number + 1} of {len(waiting)})")
                tell({"kind": "phase", "text": _outlook(settings, len(waiting) - number)})
                result = work.perform(folder, entry.label, tell, lock=lock if isolated else None)
                write_json(folder / "results" / f"{entry.label}.json", result)
                if result["state"] == "failed":
                    tell({"kind": "phase", "text": f"failed: {result['reason']}"})
                _write(folder, settings, with_page=False)
            _measure(folder, settings, on_event, lock if isolated else None)
        except KeyboardInterrupt as stop:
            _write(folder, settings, with_page=False)
            said = f"{one_line(stop)}; " if str(stop) else ""
            raise KeyboardInterrupt(f"{said}go on with perpixel compare --resume {folder}") from stop
        return _write(folder, settings, with_page=True)


def resume_comparison(folder: Path, *, isolated: bool, retry: bool, on_event: OnEvent) -> Comparison:
    """Go on with the settings saved in `folder`.

    Raises:
        InputError: no comparison there.
    """
    return run_comparison(folder, read_settings(folder), isolated=isolated, retry=retry, on_event=on_event)


def _claim(folder: Path, settings: Settings) -> Settings:
    """Write the settings down, or refuse a folder where others are. Models may be added to the ones there."""
    path = folder / "settings.json"
    if not path.is_file():
        strange = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if strange:
            raise InputError(f"{folder}: holds other files than a comparison ({strange[0]}): choose another --out")
        write_json(path, settings)
        return settings
    before = read_settings(folder)
    for what, old, new in _differences(before, settings):
        raise InputError(
            f"{folder}: a comparison with {what} {old} is here, not {new}: go on with it by "
            f"perpixel compare --resume {folder}, or choose another --out"
        )
    known = [entry["label"] for entry in before["models"]]
    added = [entry for entry in settings["models"] if entry["label"] not in known]
    merged = {**before, "models": before["models"] + added}
    if added:
        write_json(path, merged)
    return merged


def _differences(before: Settings, now: Settings) -> Iterator[tuple[str, Any, Any]]:
    """(what, value there, value asked for) of each setting that differs."""
    for what in ("data", "split"):
        if before[what] != now[what]:
            yield what, before[what], now[what]
    for part in ("training", "reading"):
        for name in sorted({*before[part], *now[part]}):
            old, new = before[part].get(name, "left open"), now[part].get(name, "left open")
            if old != new:
                yield name, old, new
    new_entries = {entry["label"]: entry for entry in now["models"]}
    for entry in before["models"]:
        label, wanted = entry["label"], new_entries.get(entry["label"])
        if wanted is None:
            yield "models", ", ".join(each["label"] for each in before["models"]), ", ".join(new_entries)
        elif wanted["model"] != entry["model"]:
            yield f"{label} as", entry["model"], wanted["model"]
        elif wanted["options"] != entry["options"]:
            yield f"the options of {label}", entry["options"] or "none", wanted["options"] or "none"


def _prepare_data(folder: Path, settings: Settings, on_event: OnEvent) -> AnyDataset:
    """Open the data, check them once for all models, and write down what was found. check.json comes last."""
    from perpixel.apps.preparing import check_data, open_data
    from perpixel.data import save_classes, save_splits

    if (folder / "check.json").is_file():
        return open_data(entry_config(settings, entries_of(settings)[0], folder))
    try:
        dataset = open_data(entry_config(settings, entries_of(settings)[0]))
        result = check_data(dataset, on_event=on_event)
        dataset.split(settings["split"])
    except InputError:
        (folder / "settings.json").unlink()  # nothing has begun
        raise
    save_splits(dataset, folder / "splits.json")
    save_classes(dataset, folder / "classes.json")
    write_json(folder / "files.json", {"stamp": _stamp(dataset)})
    write_json(folder / "check.json", result.to_json())
    return dataset


def _stamp(dataset: AnyDataset) -> str:
    """A digest of name, size and time of change of every file."""
    samples = [sample for split in dataset.splits.values() for sample in split]
    paths = {path for each in samples for path in (*each.images, *(each.mask.paths if each.mask else ()))}
    digest = hashlib.sha256()
    for path in sorted(paths):
        facts = path.stat() if path.exists() else None
        digest.update(f"{path.name} {facts and (facts.st_size, facts.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _check_files(folder: Path, dataset: AnyDataset) -> None:
    """Refuse to put results on other data beside those that are here."""
    path = folder / "files.json"
    if path.is_file() and read_json(path)["stamp"] != _stamp(dataset):
        raise InputError(
            f"{folder}: files of the data set have changed since this comparison began, so results would not be "
            "comparable: compare anew with another --out"
        )


def _is_done(folder: Path, entry: Entry, retry: bool) -> bool:
    path = folder / "results" / f"{entry.label}.json"
    return path.is_file() and not (retry and read_json(path)["state"] == "failed")


def _told(on_event: OnEvent, who: str) -> OnEvent:
    """`on_event` with the model's name before each phase."""

    def tell(event: dict[str, Any]) -> None:
        on_event({**event, "text": f"{who}: {event['text']}"} if event.get("kind") == "phase" else event)

    return tell


def _outlook(settings: Settings, left: int) -> str:
    budget_s, epochs = settings["training"].get("budget_s"), settings["training"].get("epochs")
    if budget_s is None:
        return f"{epochs} epochs"
    return f"{format_duration(budget_s)} of training, about {format_duration(left * budget_s)} for all that is left"


def _measure(folder: Path, settings: Settings, on_event: OnEvent, lock: int | None) -> None:
    """The last round, over all models that are done: measured side by side, so that the numbers can be compared."""
    from perpixel.apps import compare_worker as work

    done = [entry.label for entry in entries_of(settings) if result_of(folder, entry.label)["state"] == "done"]
    path = folder / "measured.json"
    if not done or (path.is_file() and sorted(read_json(path)["speed"]) == sorted(done)):
        return
    on_event({"kind": "phase", "text": f"Timing the predictions of {plural(len(done), 'model')}, turn by turn"})
    result = work.perform(folder, work.MEASURE, on_event, lock=lock)
    if result["state"] == "failed":
        on_event({"kind": "phase", "text": f"prediction times could not be taken: {result['reason']}"})


def _write(folder: Path, settings: Settings, *, with_page: bool) -> Comparison:
    document = assemble(folder, settings)
    write_json(folder / "compare.json", document)
    write_table(folder / "compare.csv", document)
    page = folder / "compare.html"
    if with_page:
        from perpixel.apps.compare_page import write_comparison

        write_comparison(folder, document, page)
    return Comparison(folder, page, document)


LOCK = ".lock"


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold the folder for this call and the process that it starts: two at work would spoil each other's files.

    Yields:
        The descriptor that holds it, for a process to inherit.
    Raises:
        InputError: another call is at work there, or nothing can be written there.
    """
    with appending(folder / LOCK):  # tells a folder that cannot be written to
        pass
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        _lock(file, folder)
        yield file.fileno()


def _lock(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: there nothing keeps two calls apart
        return
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise InputError(
                    f"{folder}: another perpixel compare is at work here: wait for it, or choose another --out"
                ) from None
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return
