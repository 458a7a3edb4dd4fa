"""Drawn fluorescence microscopy: cells that touch, under uneven light, blurred and noisy, with every label known.

One description of a scene (`CellScene`: a list of cells, debris, light and camera) gives the image, the label map and
the instance map, as a plane or as a volume; a plane is the volume's section of thickness one. Classes:

    0 background   with debris and haze from other depths, which are no cells
    1 cell         cytoplasm (green) around a nucleus (blue) with dark nucleoli
    2 dividing     rounder and brighter, the nucleus condensed into one plate or two parting ones; about 1-2 % of pixels

Nothing here imitates a particular microscope; it is a data set for demonstrations and tests, made in seconds anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.files import make_folder, write_json
from perpixel.images import write_png

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

CLASS_NAMES = ("background", "cell", "dividing")
CLASS_COLOURS = ((18, 18, 28), (64, 190, 140), (255, 140, 40))
CELL, DIVIDING = 1, 2

# Share of red, green, blue that each stain sends to the camera; some light leaks into the neighbouring channels.
_CYTOPLASM_COLOUR = np.array((0.10, 0.92, 0.14), np.float32)
_DNA_COLOUR = np.array((0.16, 0.22, 1.00), np.float32)
_DEBRIS_COLOUR = np.array((0.95, 0.55, 0.25), np.float32)
_HAZE_COLOUR = np.array((0.25, 0.80, 0.60), np.float32)
# A cell is sought in a box of this many radii around its centre: outline harmonics reach beyond one.
_REACH = 1.35


@dataclass(frozen=True)
class Cell:
    """One cell. Lengths in pixels, angles in radians."""

    centre: tuple[float, float, float]  # depth, row, col
    radii: tuple[float, float, float]  # depth, short, long
    angle: float  # of the long axis, in the plane
    wobble: tuple[tuple[int, float, float], ...]  # (harmonic, amplitude, phase) of the outline
    brightness: float  # of the cytoplasm
    dna: float  # brightness of the nucleus
    nucleus: tuple[float, float, float]  # offset along and across the long axis, and size, as shares of the radii
    nucleoli: tuple[tuple[float, float], ...]  # places in the nucleus, as shares of its radii
    is_dividing: bool
    parting: float  # half the distance between the two plates as a share of the radius; 0 = one plate


@dataclass(frozen=True)
class Debris:
    """A speck or a fibre that is no cell."""

    centre: tuple[float, float, float]  # depth, row, col
    length: float
    width: float
    angle: float
    brightness: float
    is_dna: bool  # sends out the light of DNA, as dead cells do


@dataclass(frozen=True)
class CellScene:
    """All that a picture shows, before it is drawn."""

    size: tuple[int, int, int]  # D, H, W; D = 1 is a plane
    cells: tuple[Cell, ...]
    debris: tuple[Debris, ...]
    haze: tuple[tuple[float, float, float, float], ...]  # row, col, radius, brightness: cells far out of focus
    light_centre: tuple[float, float]  # brightest place, as shares of height and width
    light_fall: float  # how much darker the farthest corner is, 0..1
    background: float
    blur: float  # standard deviation in pixels
    photons: float  # per pixel at full brightness: fewer is noisier
    seed: int


@dataclass(frozen=True)
class SceneImage:
    """A drawn plane.

    Attributes:
        image: (H, W, 3) uint8.
        label_map: (H, W) uint8, indices of `CLASS_NAMES`.
        instance_map: (H, W) uint16, 0 = background, 1..N cells without gaps.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    instance_map: NDArray[np.uint16]


@dataclass(frozen=True)
class SceneVolume:
    """A drawn volume: image (D, H, W) uint8 grey, label_map (D, H, W) uint8, instance_map (D, H, W) uint16."""

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    instance_map: NDArray[np.uint16]


# ---- describe ------------------------------------------------------------------------------------------------------


def describe_scene(seed: int, size: tuple[int, int] | tuple[int, int, int]) -> CellScene:
    """Invent a scene. Same seed and size, same scene.

    Args:
        size: (H, W) of a plane or (D, H, W) of a volume, each 1 or more.
    """
    if len(size) not in (2, 3) or min(size) < 1:
        raise InputError(f"size is {tuple(size)}: give (height, width) or (depth, height, width), each 1 or more")
    depth, height, width = size if len(size) == 3 else (1, *size)
    rng = np.random.default_rng(seed)
    return CellScene(
        size=(depth, height, width),
        cells=tuple(_place_cells(rng, (depth, height, width))),
        debris=tuple(_scatter_debris(rng, (depth, height, width))),
        haze=tuple(
            (*rng.uniform((-0.1, -0.1), (1.1, 1.1)) * (height, width), rng.uniform(18, 45), rng.uniform(0.02, 0.10))
            for _ in range(rng.integers(2, 6))
        ),
        light_centre=(rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)),
        light_fall=rng.uniform(0.3, 0.8),
        background=rng.uniform(0.02, 0.06),
        blur=rng.uniform(0.7, 1.3),
        photons=rng.uniform(60, 220),
        seed=seed,
    )


def _place_cells(rng: np.random.Generator, size: tuple[int, int, int]) -> Iterator[Cell]:
    """Cells in clumps: most sit against one that is already there, the rest anywhere; none lies inside another."""
    radius = rng.uniform(12, 17)
    crowding = rng.uniform(0.45, 0.85)
    # The square of a cell's share of the plane, times the layers that fit into the depth.
    layers = max(1.0, size[0] / (1.6 * radius))
    number = min(65535, int(crowding * layers * size[1] * size[2] / (np.pi * radius**2)) + 1)
    centres, reaches, placed = np.empty((number, 3)), np.empty(number), 0
    for _ in range(30 * number):
        if placed == number:
            break
        mean_radius = radius * rng.uniform(0.8, 1.25)
        centre = _propose(rng, size, centres[:placed], reaches[:placed], mean_radius)
        gaps = np.linalg.norm(centres[:placed] - centre, axis=1) / (reaches[:placed] + mean_radius)
        if (gaps < 0.78).any():
            continue
        centres[placed], reaches[placed] = centre, mean_radius
        placed += 1
        yield _make_cell(rng, centre, mean_radius, is_flat=size[0] == 1)


def _propose(
    rng: np.random.Generator, size: tuple[int, int, int], centres: Array, reaches: Array, radius: float
) -> Array:
    """A place for a cell of `radius`: against one of those at `centres` (N, 3), or anywhere."""
    in_plane = np.array((0 if size[0] == 1 else 1, 1, 1))
    if len(centres) and rng.random() < 0.7:
        other = rng.integers(len(centres))
        direction = rng.normal(size=3) * in_plane
        step = (radius + reaches[other]) * rng.uniform(0.8, 0.98)
        centre = centres[other] + direction / np.linalg.norm(direction) * step
        if ((centre > -0.5 * radius) & (centre < np.array(size) + 0.5 * radius)).all():
            return centre
    return rng.uniform(-0.3 * radius, np.array(size) + 0.3 * radius) * in_plane


def _make_cell(rng: np.random.Generator, centre: Array, radius: float, is_flat: bool) -> Cell:
    is_dividing = bool(rng.random() < 0.028)
    stretch = rng.uniform(1.0, 1.08) if is_dividing else rng.uniform(1.05, 1.45)
    roughness = 0.25 if is_dividing else 1.0
    wobble = tuple((k, roughness * abs(rng.normal(0, 0.10 / k**0.5)), rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    return Cell(
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        radii=(radius * (1.0 if is_flat else rng.uniform(0.7, 0.95)), radius / stretch**0.5, radius * stretch**0.5),
        angle=rng.uniform(0, np.pi),
        wobble=wobble,
        # Some resting cells are as bright as dividing ones: brightness alone must not tell them apart.
        brightness=rng.uniform(0.6, 0.95) if is_dividing else float(np.clip(rng.lognormal(-0.75, 0.35), 0.2, 0.9)),
        dna=rng.uniform(0.9, 1.3) if is_dividing else float(np.clip(rng.lognormal(-0.6, 0.3), 0.25, 0.95)),
        nucleus=(rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15), rng.uniform(0.42, 0.58)),
        nucleoli=tuple((rng.uniform(-0.55, 0.55), rng.uniform(-0.55, 0.55)) for _ in range(rng.integers(1, 4))),
        is_dividing=is_dividing,
        parting=float(rng.choice((0.0, rng.uniform(0.2, 0.45)))),
    )


def _scatter_debris(rng: np.random.Generator, size: tuple[int, int, int]) -> Iterator[Debris]:
    area = size[1] * size[2] * max(1, size[0] / 12)
    for _ in range(rng.poisson(area / 4500)):
        is_fibre = rng.random() < 0.2
        yield Debris(
            centre=(
                rng.uniform(0, size[0]) if size[0] > 1 else 0.0,
                rng.uniform(0, size[1]),
                rng.uniform(0, size[2]),
            ),
            length=rng.uniform(5, 14) if is_fibre else rng.uniform(0.8, 3.2),
            width=rng.uniform(0.6, 1.1) if is_fibre else rng.uniform(0.8, 2.4),
            angle=rng.uniform(0, np.pi),
            brightness=rng.uniform(0.25, 0.6) if is_fibre else rng.uniform(0.3, 1.0),
            is_dna=bool(rng.random() < 0.35),
        )


# ---- draw ----------------------------------------------------------------------------------------------------------


def draw_scene(seed: int, size: tuple[int, int] = (192, 256)) -> SceneImage:
    """A plane of `size` (H, W). Same seed and size, same pixels."""
    image, label_map, instance_map = _draw(describe_scene(seed, (size[0], size[1])))
    return SceneImage(image[0], label_map[0], instance_map[0])


def draw_volume(seed: int, size: tuple[int, int, int] = (32, 96, 96)) -> SceneVolume:
    """A volume of `size` (D, H, W), grey: both stains in one channel. Same seed and size, same voxels."""
    image, label_map, instance_map = _draw(describe_scene(seed, (size[0], size[1], size[2])))
    grey = image.max(axis=-1)
    return SceneVolume(grey, label_map, instance_map)


def _draw(scene: CellScene) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    """(D, H, W, 3) image, (D, H, W) label map, (D, H, W) instance map."""
    rng = np.random.default_rng([scene.seed, 1])
    nearest, second, instance_map = _share_out(scene)
    label_map = np.zeros(scene.size, np.uint8)
    for number, cell in enumerate(scene.cells, start=1):
        box = _box(scene.size, cell.centre, _REACH * max(cell.radii))
        label_map[box][instance_map[box] == number] = DIVIDING if cell.is_dividing else CELL
    light = _stain(scene, rng, nearest, second, instance_map)
    image = _photograph(scene, rng, light)
    return image, label_map, _close_gaps(instance_map)


def _box(size: tuple[int, int, int], centre: tuple[float, float, float], reach: float) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, int(middle - reach)), max(0, min(side, int(middle + reach) + 2)))
        for side, middle in zip(size, centre, strict=True)
    )


def _axes(box: tuple[slice, ...], centre: tuple[float, float, float], angle: float) -> tuple[Floats, Floats, Floats]:
    """(depth, across, along) coordinates of the pixels of `box`, relative to `centre`, turned by `angle`."""
    depth, row, col = (
        np.arange(part.start, part.stop, dtype=np.float32) - np.float32(middle)
        for part, middle in zip(box, centre, strict=True)
    )
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    along = cosine * col[None, :] + sine * row[:, None]
    across = cosine * row[:, None] - sine * col[None, :]
    return depth[:, None, None], across[None], along[None]


def _cell_distance(cell: Cell, box: tuple[slice, ...]) -> Floats:
    """0 at the centre of the cell, 1 on its outline."""
    depth, across, along = _axes(box, cell.centre, cell.angle)
    flat, short, long = cell.radii
    turn = np.arctan2(across / short, along / long)
    outline = np.ones_like(turn)
    for harmonic, amplitude, phase in cell.wobble:
        outline += np.float32(amplitude) * np.cos(harmonic * turn + np.float32(phase))
    plane = ((across / short) ** 2 + (along / long) ** 2) / outline**2
    return np.sqrt(plane + (depth / flat) ** 2)


def _share_out(scene: CellScene) -> tuple[Floats, Floats, NDArray[np.uint16]]:
    """Give each pixel to the nearest cell, by distance over radius: neighbours that press together share a border.

    Returns: the distance to that cell, the distance to the next nearest, and the map of cell numbers.
    """
    nearest = np.full(scene.size, 9, np.float32)
    second = nearest.copy()
    instance_map = np.zeros(scene.size, np.uint16)
    for number, cell in enumerate(scene.cells, start=1):
        box = _box(scene.size, cell.centre, _REACH * max(cell.radii))
        distance = _cell_distance(cell, box)
        is_nearer = distance < nearest[box]
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
        nearest[box] = np.minimum(nearest[box], distance)
        instance_map[box][is_nearer & (distance < 1)] = number
    return nearest, second, instance_map


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int, int], grain: float) -> Floats:
    """(D, H, W) noise of mean 0 and spread 1 whose patches are about `grain` pixels wide."""
    coarse = tuple(int(np.ceil(side / grain)) + 3 for side in size[1:])
    layers = 1 if size[0] == 1 else int(np.ceil(size[0] / grain)) + 3
    noise = rng.standard_normal((layers, *coarse)).astype(np.float32)
    whole = tuple(int(np.ceil(side * grain)) for side in coarse)
    planes = np.stack([cv2.resize(layer, whole[::-1], interpolation=cv2.INTER_CUBIC) for layer in noise])
    planes = planes[:, : size[1], : size[2]]
    if layers == 1:
        return planes
    depth = np.arange(size[0], dtype=np.float32) / np.float32(grain)
    below = depth.astype(int)
    share = (depth - below)[:, None, None]
    return planes[below] * (1 - share) + planes[below + 1] * share


def _stain(
    scene: CellScene, rng: np.random.Generator, nearest: Floats, second: Floats, instance_map: NDArray[np.uint16]
) -> Floats:
    """(D, H, W, 3) light that the scene sends out, full brightness about 1, before lens and camera."""
    patches = 1 + 0.24 * _smooth_noise(rng, scene.size, 6) + 0.10 * _smooth_noise(rng, scene.size, 2.5)
    # Ridges of smooth noise look like the fibres of a cytoskeleton.
    fibres = 1.15 - 0.5 * np.abs(_smooth_noise(rng, scene.size, 4))
    grain = 1 + 0.25 * _smooth_noise(rng, scene.size, 2.5)
    seam = 0.62 + 0.38 * np.clip((second - nearest) / 0.12, 0, 1)  # darker where two cells meet
    thickness = np.sqrt(np.clip(1 - nearest**2, 0, 1))
    body = (0.40 + 0.60 * thickness) * seam * patches * fibres
    cytoplasm = np.zeros(scene.size, np.float32)
    dna = np.zeros(scene.size, np.float32)
    for number, cell in enumerate(scene.cells, start=1):
        box = _box(scene.size, cell.centre, _REACH * max(cell.radii))
        own = instance_map[box] == number
        chromatin = _dividing_dna(cell, box) if cell.is_dividing else _resting_dna(cell, box)
        hole = 1 - (0.35 if cell.is_dividing else 0.45) * np.clip(chromatin, 0, 1)
        cytoplasm[box] += own * cell.brightness * body[box] * hole
        dna[box] += own * cell.dna * chromatin * grain[box]
    light = cytoplasm[..., None] * _CYTOPLASM_COLOUR + dna[..., None] * _DNA_COLOUR
    for speck in scene.debris:
        box = _box(scene.size, speck.centre, 3 * max(speck.length, speck.width))
        depth, across, along = _axes(box, speck.centre, speck.angle)
        exponent = (along / speck.length) ** 2 + (across / speck.width) ** 2 + (depth / speck.width) ** 2
        light[box] += (speck.brightness * np.exp(-exponent))[..., None] * (
            _DNA_COLOUR if speck.is_dna else _DEBRIS_COLOUR
        )
    return np.clip(light, 0, None)


def _resting_dna(cell: Cell, box: tuple[slice, ...]) -> Floats:
    """A soft-edged nucleus with dark nucleoli, 0..1."""
    depth, across, along = _axes(box, cell.centre, cell.angle)
    flat, short, long = (cell.nucleus[2] * radius for radius in cell.radii)
    across = across - np.float32(cell.nucleus[1] * cell.radii[1])
    along = along - np.float32(cell.nucleus[0] * cell.radii[2])
    distance = np.sqrt((across / short) ** 2 + (along / long) ** 2 + (depth / flat) ** 2)
    nucleus = np.clip((1.08 - distance) / 0.16, 0, 1)
    for up, right in cell.nucleoli:
        spot = ((across / short - up) ** 2 + (along / long - right) ** 2 + (depth / flat) ** 2) / 0.05
        nucleus = nucleus * (1 - 0.55 * np.exp(-spot))
    return nucleus


def _dividing_dna(cell: Cell, box: tuple[slice, ...]) -> Floats:
    """One bright plate across the middle of the cell, or two on their way apart, 0..1."""
    depth, across, along = _axes(box, cell.centre, cell.angle)
    flat, short, long = cell.radii
    height = (across / (0.62 * short)) ** 2 + (depth / (0.62 * flat)) ** 2
    ends = np.exp(-(height**2))
    thin = 0.17 * long
    plates = [np.exp(-(((along - sign * cell.parting * long) / thin) ** 2)) for sign in (-1, 1)]
    return np.maximum(*plates) * ends


def _photograph(scene: CellScene, rng: np.random.Generator, light: Floats) -> NDArray[np.uint8]:
    """Haze, uneven light, blur, shot noise and read noise, then 8 bits: (D, H, W, 3)."""
    _, height, width = scene.size
    row, col = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    # The lens is less sharp along the depth.
    sigma = (0.0 if scene.size[0] == 1 else 1.6 * scene.blur, scene.blur, scene.blur, 0.0)
    seen = ndimage.gaussian_filter(light, sigma, mode="nearest")
    # A part of the light is scattered widely: the glow around crowded places.
    glow = ndimage.gaussian_filter(light, (0.0, 9.0, 9.0, 0.0), mode="nearest", truncate=2.5)
    seen = 0.88 * seen + 0.16 * glow + np.float32(scene.background)
    for middle_row, middle_col, radius, brightness in scene.haze:
        blob = brightness * np.exp(-((row - middle_row) ** 2 + (col - middle_col) ** 2) / radius**2)
        seen += blob[None, :, :, None] * _HAZE_COLOUR
    reach = (row / height - scene.light_centre[0]) ** 2 + (col / width - scene.light_centre[1]) ** 2
    seen *= (1 - scene.light_fall * np.clip(reach, 0, 1))[None, :, :, None]
    counts = rng.poisson(np.clip(seen, 0, 4) * scene.photons) / scene.photons
    counts += rng.normal(0, 0.012, size=counts.shape)
    return np.clip(np.rint(counts * 255), 0, 255).astype(np.uint8)


def _close_gaps(instance_map: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Number the cells that are in the picture 1..N: some lie beyond its edge."""
    _, numbers = np.unique(np.concatenate([[0], instance_map.ravel()]), return_inverse=True)
    return numbers[1:].reshape(instance_map.shape).astype(np.uint16)


# ---- write ---------------------------------------------------------------------------------------------------------


def write_demo(
    root: str | Path,
    *,
    num_train: int = 48,
    num_val: int = 12,
    num_test: int = 16,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write a data set of drawn cells.

        root/classes.json
        root/{train,val,test}/images/cells_0000.png      RGB
                             /masks/cells_0000.png       class indices with a palette
                             /instances/cells_0000.png   16-bit cell numbers

    Args:
        size: (H, W) of every image.
        seed: same arguments, same bytes. No two images share a scene, in whatever split.
        on_progress: called with (images done, images in all, name).
    Returns:
        `root`.
    Raises:
        InputError: a negative number of images, none at all, or other files in the folders of the splits.
    """
    numbers = {"train": num_train, "val": num_val, "test": num_test}
    if min(numbers.values()) < 0 or not sum(numbers.values()):
        raise InputError(
            f"num_train, num_val, num_test are {tuple(numbers.values())}: give 0 or more, at least one image"
        )
    folder = make_folder(root)
    names = [f"{split}/{{}}/cells_{i:04d}.png" for split, number in numbers.items() for i in range(number)]
    _refuse_strangers(folder, names)
    seeds = np.random.SeedSequence(seed).generate_state(len(names), dtype=np.uint64)
    palette = np.array(CLASS_COLOURS, np.uint8)
    for i, name in enumerate(names):
        scene = draw_scene(int(seeds[i]), size)
        write_png(folder / name.format("images"), scene.image)
        write_png(folder / name.format("masks"), scene.label_map, palette=palette)
        write_png(folder / name.format("instances"), scene.instance_map)
        if on_progress is not None:
            on_progress(i + 1, len(names), name.format("images"))
    classes = [
        {"name": name, "colour": list(colour), "values": [value]}
        for value, (name, colour) in enumerate(zip(CLASS_NAMES, CLASS_COLOURS, strict=True))
    ]
    write_json(folder / "classes.json", {"classes": classes, "ignore_values": []})
    return folder


def _refuse_strangers(folder: Path, names: list[str]) -> None:
    """Old images beside the new ones would end up in the data set."""
    own = {folder / name.format(kind) for name in names for kind in ("images", "masks", "instances")}
    for split in ("train", "val", "test"):
        for path in sorted((folder / split).rglob("*")):
            if path.is_file() and path not in own:
                raise InputError(f"{path} is not of this demo: choose another folder, or remove {folder / split}")
