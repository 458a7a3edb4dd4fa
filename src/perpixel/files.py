"""Files that are never half written: beside first, flushed to the disk, then renamed into place."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from perpixel.errors import InputError

# What a user can mend (space, permissions, a file where a folder should be) against what is our failure.
USER_ERRNOS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EACCES: "no permission to write there: choose another place",
    errno.EPERM: "no permission to write there: choose another place",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place",
    errno.EISDIR: "a folder stands at this path: choose another name",
    errno.EEXIST: "a file stands where a folder is needed: choose another place",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EFBIG: "the file would be larger than allowed here: choose another place",
}


def _explain(path: Path, error: OSError) -> Exception:
    remedy = USER_ERRNOS.get(error.errno or 0)
    return error if remedy is None else InputError(f"{path}: cannot be written, {remedy}")


def make_folder(path: str | Path) -> Path:
    """Create a folder with its parents. Raises InputError where the user can mend the cause."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(folder, error) from error
    return folder


@contextmanager
def appending(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` to add UTF-8 text at its end.

    Raises:
        InputError: disk full, no permission and other causes that the user can mend.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise _explain(Path(path), error) from error


def save_tensors(path: str | Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """Write torch tensors as a safetensors file atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:
            # The library hides the system's error number in its text.
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from error
    return Path(path)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; at a clean exit it is flushed and renamed onto `path`.

    The temporary name keeps the suffix, since image writers choose the format by it. After an error the temporary
    file is gone and whatever stood at `path` is untouched.

    Raises:
        InputError: disk full, no permission and other causes that the user can mend.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:40]}.", suffix=f".part{target.suffix}", dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _explain(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 `text` to `path` atomically."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as readable JSON (NaN is refused: it is not JSON) to `path` atomically."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: missing, unreadable, not UTF-8, or not JSON (with line and column).
    """
    source = Path(path)
    try:
        return json.loads(source.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file: check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as UTF-8 text ({error}): check the file") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}): mend the file"
        ) from error
    except RecursionError as error:
        raise InputError(f"{source}: nested too deeply to be read: mend the file") from error
