"""Text files that list the samples of each split: train.txt, val.txt, test.txt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from perpixel.data.formats.folder_words import SPLIT_WORDS, bare_name
from perpixel.data.formats.layout import first_few
from perpixel.data.sample import Sample
from perpixel.errors import InputError

LIST_FOLDERS = ("", "splits", "split", "lists", "ImageSets", "ImageSets/Segmentation")


def read_list(path: Path) -> list[str]:
    """The lines of a text file, stripped; empty ones are skipped.

    Raises:
        InputError: not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}): check the file") from error
    return [line.strip() for line in lines if line.strip()]


def find_list_files(root: Path) -> dict[str, Path]:
    """Split -> its list file in the first of the usual places that has a train list."""
    for name in LIST_FOLDERS:
        folder = root / name
        if not folder.is_dir():
            continue
        found = {
            SPLIT_WORDS[path.stem.lower()]: path
            for path in sorted(folder.glob("*.txt"))
            if path.stem.lower() in SPLIT_WORDS
        }
        if "train" in found:
            return found
    return {}


class NameFinder:
    """Finds a sample by what people write in lists: its name, with or without suffix and leading folders."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            for name in {sample.name, sample.name.rpartition("/")[2]}:
                self.by_name.setdefault(name, []).append(sample)
        self.exact = {sample.name: sample for found in self.by_name.values() for sample in found}

    def find(self, text: str) -> Sample | None:
        """The one sample that `text` can mean, or None."""
        path = text.replace("\\", "/").strip("/")
        if path in self.exact:
            return self.exact[path]
        last = path.rpartition("/")[2]
        stem = bare_name(Path(last))
        folder = path[: len(path) - len(last)]
        tries = [path, last, *((folder + stem, stem) if stem != last else ())]
        for name in tries:
            found = self.by_name.get(name, [])
            if len(found) == 1:
                return found[0]
        return None


def split_by_list_files(root: Path, samples: list[Sample]) -> tuple[dict[str | None, list[Sample]], list[str]]:
    """Split `samples` by the list files under `root`, if there are any that speak of these samples.

    Returns:
        Splits (key None = no list files) and notes.
    Raises:
        InputError: a list names samples that do not exist, or one sample stands in two lists.
    """
    files = find_list_files(root)
    if not files:
        return {None: samples}, []
    finder = NameFinder(samples)
    listed = {split: read_list(path) for split, path in files.items()}
    resolved = {split: [_resolve(finder, line) for line in lines] for split, lines in listed.items()}
    if not any(sample for found in resolved.values() for sample in found):
        names = ", ".join(path.name for path in files.values())
        return {None: samples}, [f"the lists {names} name none of these images and are not used"]
    splits: dict[str | None, list[Sample]] = {}
    owner: dict[str, str] = {}
    for split, found in resolved.items():
        missing = [line for line, sample in zip(listed[split], found) if sample is None]
        if missing:
            raise InputError(
                f"{files[split]}: {len(missing)} of {len(found)} lines name no image with a mask "
                f"({first_few(missing)}): correct the list or add the files"
            )
        kept = [sample for sample in found if sample is not None]
        for sample in kept:
            if owner.setdefault(sample.name, split) != split:
                raise InputError(
                    f"{files[split]}: '{sample.name}' also stands in {files[owner[sample.name]].name}: "
                    "list each image in one split only"
                )
        splits[split] = list(dict.fromkeys(kept))
    notes = [f"splits from {', '.join(str(path.relative_to(root)) for path in files.values())}"]
    rest = len(samples) - len(owner)
    if rest:
        notes.append(f"{rest} images stand in none of these lists and are left out")
    return splits, notes


def _resolve(finder: NameFinder, line: str) -> Sample | None:
    # SegNet's lists hold "image mask" on a line; a name with blanks stands alone.
    return finder.find(line) or finder.find(line.split()[0])
