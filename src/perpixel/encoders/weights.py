"""Weights of encoders from local files, and what becomes of a pretrained stem on other channel counts."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from perpixel.errors import InputError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
# What torch.load raises at files cut short or with bytes changed; a pickle is a program, which fails where it likes.
DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, LookupError, AssertionError,
          AttributeError, TypeError, OverflowError, struct.error)  # fmt: skip


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file, or from a .pth/.pt/.bin one opened with weights_only=True.

    A dictionary nested under "state_dict", "model" or "model_state_dict" is unwrapped, and the prefixes of
    parallel ("module.") and compiled ("_orig_mod.") models are cut.
    Nothing in the file is ever executed.

    Raises:
        InputError: no such file, another suffix, damaged, or holding something else than tensors.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such weights file: check the path, or use weights=None or weights='imagenet'")
    if source.suffix == ".safetensors":
        return _read_safetensors(source)
    if source.suffix in TORCH_SUFFIXES:
        return _read_torch(source)
    raise InputError(
        f"{source}: weights must be a .safetensors file or a {', '.join(TORCH_SUFFIXES)} one, not '{source.suffix}'"
    )


def _read_safetensors(source: Path) -> dict[str, Tensor]:
    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{source}: not a readable safetensors file ({error}): copy or download it again") from error


def _read_torch(source: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles before it refuses them
            loaded: Any = torch.load(source, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise InputError(f"{source}: cannot be opened as plain weights: {_why_refused(error)}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{source}: does not hold a state dict of tensors: save model.state_dict()")
    return {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in loaded.items()}


def _why_refused(error: Exception) -> str:
    """torch's reason in a few words. Its own text advises to open the file without protection, which we never do."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted is not None:
        return f"it holds more than tensors ({wanted[1]}): save only model.state_dict(), best as .safetensors"
    return "it is empty, damaged or no PyTorch file: copy or download it again"


def adapt_stem_weight(weight: Tensor, in_channels: int) -> Tensor:
    """Make a pretrained first convolution (O, 3, k, k) take `in_channels`: (O, in_channels, k, k).

    One channel sums the three (grey as equal red, green, blue); others repeat them in turn, scaled by
    3 / in_channels, so that the response to an image of equal channels stays what it was. timm does the same.
    """
    known = weight.shape[1]
    if in_channels == known:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_channels // known)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (known / in_channels)


def check_covers(name: str, path: str | Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse a file that lacks tensors of the encoder, or has them in other shapes (the stem's channels aside).

    Raises:
        InputError: naming the first differences.
    """
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{path}: lacks {len(missing)} of the {len(wanted)} tensors of encoder '{name}', first '{missing[0]}': "
            "the file belongs to another network"
        )
    for key, value in wanted.items():
        if key in state and not _fits(state[key], value):
            raise InputError(
                f"{path}: tensor '{key}' is {tuple(state[key].shape)}, encoder '{name}' needs {tuple(value.shape)}: "
                "the file belongs to another network"
            )


@torch.no_grad()
def copy_weights(name: str, path: str | Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Copy `state` into the tensors of an encoder, `wanted`, all or none; a stem of three channels is adapted.

    Raises:
        InputError: a tensor is missing or has another shape.
    """
    check_covers(name, path, state, wanted)
    for key, own in wanted.items():
        if key in state:
            given = state[key]
            own.copy_(adapt_stem_weight(given, own.shape[1]) if given.shape != own.shape else given)


def download_torchvision(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights of a classifier: the files that published segmentation nets began with.

    Raises:
        InputError: no network.
    """
    from torchvision import models  # slow to import

    try:
        return dict(models.get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise InputError(
            f"weights of '{name}' could not be downloaded ({error}): "
            "check the network, give a local file, or use weights=None"
        ) from error


def _fits(given: Tensor, wanted: Tensor) -> bool:
    if given.shape == wanted.shape:
        return True
    is_stem = given.ndim == 4 and wanted.ndim == 4 and given.shape[1] == 3
    return is_stem and given.shape[0] == wanted.shape[0] and given.shape[2:] == wanted.shape[2:]
