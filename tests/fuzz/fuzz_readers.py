"""Damaged files against the readers: every one is read or refused with an InputError, and nothing else happens.

Run as a script for as many files as you like:

    python tests/fuzz/fuzz_readers.py --count 5000 --seed 0

It prints how many were tried, read and refused, and the traceback of every other end; then it exits with 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import io
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import tifffile
from PIL import Image

from perpixel.errors import InputError
from perpixel.files import read_json
from perpixel.images import probe_image, probe_volume, read_image, read_volume
from perpixel.labels import ClassTable, read_label_volume, read_mask

# A call may take this long, and the process may hold so much more than at its start.
MAX_SECONDS = 5.0
# A call that never ends takes the run with it, leaving its traceback and, with --keep, its file.
HANG_SECONDS = 60.0
MAX_BYTES = 3 * 2**30
HEADER_BYTES = 128
EXIF_TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
# Values that sit at the edges of length and size fields.
EDGES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\x01",
    b"\0\x01\0\0",
    b"\xff\xff",
)


# ---- sound files of every kind


def pillow_seeds(pixels: np.ndarray) -> dict[str, bytes]:
    """Name with suffix -> bytes, from (H, W, 3) uint8."""
    colour = Image.fromarray(pixels)
    grey = colour.convert("L")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    alpha = colour.convert("RGBA")
    alpha.putalpha(grey)
    paletted = colour.quantize(8)
    seeds = {
        "rgb.png": saved(colour, "PNG"),
        "grey.png": saved(grey, "PNG"),
        "bits.png": saved(grey.convert("1"), "PNG"),
        "palette.png": saved(paletted, "PNG", transparency=bytes([0, 128, 255])),
        "deep.png": saved(deep, "PNG"),
        "alpha.png": saved(alpha, "PNG"),
        "turned.png": saved(colour, "PNG", exif=EXIF_TURNED),
        "animated.png": saved(colour, "PNG", save_all=True, append_images=[colour.rotate(180)]),
        "rgb.jpg": saved(colour, "JPEG", exif=EXIF_TURNED),
        "grey.jpg": saved(grey, "JPEG", progressive=True),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "rgb.bmp": saved(colour, "BMP"),
        "palette.bmp": saved(paletted, "BMP"),
        "one.gif": saved(paletted, "GIF", transparency=1),
        "two.gif": saved(paletted, "GIF", save_all=True, append_images=[paletted.rotate(180)]),
        "lossy.webp": saved(colour, "WEBP", exif=EXIF_TURNED),
        "lossless.webp": saved(alpha, "WEBP", lossless=True),
        "two.webp": saved(colour, "WEBP", save_all=True, append_images=[colour.rotate(180)]),
    }
    seeds["deep_rgb.png"] = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    return seeds


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff_seeds(pixels: np.ndarray) -> dict[str, bytes]:
    """Name with suffix -> bytes, from (H, W, 3) uint8."""
    grey = pixels[..., 0]
    stack = np.stack([grey, 255 - grey])
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256), dtype=np.uint16)
    return {
        "rgb.tif": tiff(pixels),
        "grey.tif": tiff(grey),
        "bits.tif": tiff(grey > 100),
        "deep.tif": tiff(grey.astype(np.uint16) * 257),
        "float.tif": tiff(grey.astype(np.float32)),
        "int.tif": tiff(grey.astype(np.int32)),
        "alpha.tif": tiff(np.dstack([pixels, grey]), photometric="rgb", extrasamples=["unassalpha"], compression="lzw"),
        "jpeg.tif": tiff(pixels, photometric="rgb", compression="jpeg"),
        "white_is_zero.tif": tiff(grey, photometric="miniswhite", compression="packbits"),
        "imagej_channels.tif": tiff(np.stack([stack, stack]), imagej=True, metadata={"axes": "TCYX"}),
        "planar.tif": tiff(np.ascontiguousarray(pixels.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"),
        "tiled.tif": tiff(pixels, tile=(16, 16), compression="zlib", predictor=True),
        "palette.tif": tiff(grey, photometric="palette", colormap=colours),
        "stack.tif": tiff(stack, photometric="minisblack"),
        "imagej.tif": tiff(stack, imagej=True, metadata={"axes": "ZYX"}),
        "ome.tif": tiff(stack, ome=True, metadata={"axes": "CYX", "UUID": "0"}, photometric="minisblack"),
        "big.tif": tiff(pixels, bigtiff=True),
    }


def tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def nifti_seeds() -> dict[str, bytes]:
    """Name with suffix -> bytes: both versions and byte orders, scaled, several volumes, with an affine and without."""
    numbers = (np.arange(7 * 6 * 5) % 3).reshape(7, 6, 5)
    affine = np.array([[0.0, 0, -2, 4], [-1, 0, 0, 5], [0, 1.5, 0, 6], [0, 0, 0, 1]])
    bare = nibabel.Nifti1Image(numbers.astype(np.uint8), None)
    scaled = nibabel.Nifti1Image(numbers.astype(np.int16), affine)
    scaled.set_qform(affine, 1)
    scaled.header.set_slope_inter(2, 0)
    return {
        "bare.nii": bare.to_bytes(),
        "scaled.nii": scaled.to_bytes(),
        "big.nii": nibabel.Nifti1Image(numbers.astype(">i4"), affine, nibabel.Nifti1Header(endianness=">")).to_bytes(),
        "two.nii": nibabel.Nifti2Image(numbers.astype(np.float32), affine).to_bytes(),
        "packed.nii.gz": gzip.compress(scaled.to_bytes(), mtime=0),
        "channels.nii.gz": gzip.compress(
            nibabel.Nifti1Image(np.stack([numbers] * 2, -1).astype(np.float64), affine).to_bytes(), mtime=0
        ),
    }


def json_seeds() -> dict[str, bytes]:
    tables: list[Any] = [
        {"classes": [{"name": "cell", "colour": [255, 0, 0], "values": [1, 2]}, {"name": "rest", "values": [0]}]},
        {"classes": ["sky", "road", "void"], "ignore_index": 2},
        {"classes": ["a", "b"], "values": {"0": "a", "255": "b"}, "ignore_values": [9], "others": "ignore"},
        {"0": "background", "1": "cell"},
        {"#ff0000": "cell", "0 0 0": "background"},
        ["background", "cell"],
    ]
    return {f"table{i}.json": json.dumps(table).encode() for i, table in enumerate(tables)}


def make_seeds() -> dict[str, bytes]:
    """Sound files, smaller than a page each, that exercise every branch of the readers."""
    pixels = np.random.default_rng(0).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    pixels[5:15, 10:30] = (200, 30, 90)
    return {**pillow_seeds(pixels), **tiff_seeds(pixels), **nifti_seeds(), **json_seeds()}


# ---- damage


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def edit_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(min(len(data), HEADER_BYTES))
        patch = rng.choice(EDGES) if rng.random() < 0.6 else rng.randbytes(rng.choice((1, 2, 4)))
        data[place : place + len(patch)] = patch


def edit_anywhere(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    patch = rng.choice(EDGES)
    data[place : place + len(patch)] = patch


def insert_bytes(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.randbytes(rng.choice((1, 2, 7, 300)))


def delete_bytes(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 2, 7, 300))]


def repeat_bytes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    part = data[start : start + rng.randrange(1, 60)]
    data[start:start] = part * rng.choice((1, 3, 40))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    truncate,
    edit_header,
    edit_header,
    edit_anywhere,
    insert_bytes,
    delete_bytes,
    repeat_bytes,
)


def mend_png(data: bytes) -> bytes:
    """Right checksums over damaged chunks, so that decoders look further than the first one."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        parts += [data[place : place + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        place += 12 + length
    return b"".join(parts)


def damage(data: bytes, name: str, rng: random.Random) -> bytes:
    """`data` with one to three kinds of damage."""
    repack = name.endswith(".gz") and rng.random() < 0.7
    changed = bytearray(gzip.decompress(data) if repack else data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if changed:
            rng.choice(DAMAGES)(changed, rng)
    if name.endswith(".png") and rng.random() < 0.7:
        return mend_png(bytes(changed))
    return gzip.compress(changed, mtime=0) if repack else bytes(changed)


def damaged_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files as (name with suffix, bytes); the same for the same seed."""
    rng = random.Random(seed)
    seeds = make_seeds()
    names = sorted(seeds)
    for i in range(count):
        name = names[i % len(names)]
        yield name, damage(seeds[name], name, rng)


# ---- readers


@dataclass
class Tally:
    """What came of the files; `failures` holds one text for each that ended otherwise."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        return f"{self.tried} tried, {self.read} read, {self.refused} refused, {len(self.failures)} tracebacks"


def read_first(path: Path, reader: Callable[..., Any], **options: Any) -> Any:
    """Read, frame 0 where the file is a stack: else every damaged stack would end at the same refusal."""
    try:
        return reader(path, **options)
    except InputError as error:
        if "frames" not in str(error):
            raise
        return reader(path, frame=0, **options)


def read_as_probed(path: Path) -> Any:
    """The image, which must be what its header was said to promise."""
    image, info = read_first(path, read_image), probe_image(path)
    found = (*image.shape, image.dtype.name)
    assert found == (info.height, info.width, info.channels, info.dtype), f"read as {found}, probed as {info}"
    return image


def read_volume_as_probed(path: Path) -> Any:
    """The volume, which must be what its header was said to promise."""
    volume, info = read_volume(path), probe_volume(path)
    found = (*volume.array.shape, volume.array.dtype.name)
    promised = (info.channels, *info.geometry.shape, info.dtype)
    assert found == promised, f"read as {found}, probed as {promised}"
    return volume


def readers_for(path: Path) -> list[Callable[[], Any]]:
    if path.name.endswith((".nii", ".nii.gz")):
        return [lambda: probe_volume(path), lambda: read_volume_as_probed(path), lambda: read_label_volume(path)]
    if path.suffix == ".json":
        return [lambda: ClassTable.from_json(read_json(path), path.name)]
    return [
        lambda: probe_image(path),
        lambda: read_as_probed(path),
        lambda: read_first(path, read_mask),
    ]


def try_file(path: Path, tally: Tally) -> None:
    """Hand one file to the readers that it concerns."""
    for read in readers_for(path):
        tally.tried += 1
        start = time.perf_counter()
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=sys.__stderr__)
        try:
            read()
            tally.read += 1
        except InputError as error:
            tally.refused += 1
            if path.name not in str(error) or "\n" in str(error):
                tally.failures.append(f"{path.name}: an error without the file's name, or of several lines: {error!r}")
        except Exception:  # what the fuzz looks for
            tally.failures.append(f"{path.name}: {traceback.format_exc()}")
        faulthandler.cancel_dump_traceback_later()
        seconds = time.perf_counter() - start
        if seconds > MAX_SECONDS:
            tally.failures.append(f"{path.name}: took {seconds:.1f} s")


@contextmanager
def limited_memory() -> Iterator[None]:
    """Allocations fail once the process holds MAX_BYTES more of address space than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(count: int, seed: int, folder: Path, *, keep: bool = False) -> Tally:
    """Try `count` damaged files. A warning counts as a failure. With `keep`, files that fail stay in `folder`."""
    tally = Tally()
    with warnings.catch_warnings(), limited_memory():
        warnings.simplefilter("error")
        for i, (name, data) in enumerate(damaged_files(count, seed)):
            path = folder / f"{i}_{name}"
            path.write_bytes(data)
            failures = len(tally.failures)
            try_file(path, tally)
            if len(tally.failures) == failures or not keep:
                path.unlink()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged files against the readers.")
    parser.add_argument("--count", type=int, default=5000, help="number of files")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files")
    parser.add_argument("--keep", type=Path, help="folder that keeps the files that fail")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        tally = fuzz(options.count, options.seed, options.keep, keep=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tally = fuzz(options.count, options.seed, Path(folder))
    for failure in tally.failures:
        print(failure)
    print(tally.line())
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
