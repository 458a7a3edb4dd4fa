"""What the values of masks are taken for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builder import Builder, bands

from perpixel.data.infer_classes import Inference, infer_classes
from perpixel.data.sample import FileMask, Sample
from perpixel.data.scan_masks import scan_masks
from perpixel.errors import InputError


def infer(paths: list[Path], **options: object) -> Inference:
    samples = [Sample(path.stem, (path,), FileMask(path)) for path in paths]
    return infer_classes(scan_masks(samples, workers=1), **options)  # type: ignore[arg-type]


def values(inference: Inference) -> list[tuple[str, object]]:
    return [(info.name, info.values[0]) for info in inference.classes.classes]


def blobs(seed: int, value: int = 255) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((96, 96)), (0, 0), 6)
    return np.where(noise > np.median(noise), value, 0).astype(np.uint8)


def test_0_and_255_are_background_and_foreground(build: Builder) -> None:
    found = infer([build.mask("a.png", 0, 255), build.mask("b.png", 0)])
    assert values(found) == [("background", 0), ("foreground", 255)]
    assert found.classes.ignore_values == ()
    assert found.notes == ("masks hold 0 and 255: read as background and foreground; write classes.json to name them",)


def test_0_128_255_are_three_classes(build: Builder) -> None:
    found = infer([build.mask("a.png", 0, 128, 255)])
    assert values(found) == [("class_0", 0), ("class_128", 128), ("class_255", 255)]
    assert "read as 3 classes called after their values" in found.notes[0]


def test_gaps_stay_gaps_and_255_beside_indices_is_void(build: Builder) -> None:
    found = infer([build.mask("a.png", 0, 2, 255), build.mask("b.png", 3, 5)])
    assert values(found) == [("class_0", 0), ("class_2", 2), ("class_3", 3), ("class_5", 5)]
    assert found.classes.ignore_values == (255,)
    assert found.notes[0].endswith("255 is taken for void and ignored in training and scores")


def test_ignored_values_are_no_class(build: Builder) -> None:
    found = infer([build.mask("a.png", 0, 1, 7)], ignore_values=(7,))
    assert values(found) == [("background", 0), ("foreground", 1)]
    assert found.classes.ignore_values == (7,)


def test_a_palette_gives_the_colours(build: Builder) -> None:
    palette = [10, 20, 30, 200, 100, 50, 0, 0, 250]
    found = infer([build.array("a.png", bands((0, 1, 2)), palette)])
    assert [info.colour for info in found.classes.classes] == [(10, 20, 30), (200, 100, 50), (0, 0, 250)]
    assert [info.values for info in found.classes.classes] == [(0,), (1,), (2,)]


def test_colour_codes_are_classes_even_where_a_mask_is_all_grey(build: Builder) -> None:
    coloured = np.zeros((6, 8, 3), dtype=np.uint8)
    coloured[:, 2:4] = (255, 0, 0)
    coloured[:, 4:] = (64, 128, 32)
    found = infer([build.array("a.png", coloured), build.mask("b.png", 0)])
    assert values(found) == [("background", (0, 0, 0)), ("#408020", (64, 128, 32)), ("red", (255, 0, 0))]
    assert "3 colours read as classes (background, #408020, red)" in found.notes[0]


def test_one_bit_masks(build: Builder) -> None:
    found = infer([build.array("a.png", bands((0, 1)).astype(bool))])
    assert [name for name, _ in values(found)] == ["background", "foreground"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_object_numbers_are_seen_and_said(build: Builder, dtype: type) -> None:
    paths = [build.mask(f"{n}.png", *range(n + 1), size=(8, 120), dtype=dtype) for n in (3, 17, 40)]
    found = infer(paths)
    assert found.instances
    assert [info.name for info in found.classes.classes] == ["background", "object"]
    assert "masks number their objects (3 to 40 in an image)" in found.notes[0]
    assert '"instances": true' in found.notes[0]


def test_the_same_classes_in_every_image_are_no_objects(build: Builder) -> None:
    found = infer([build.mask(f"{n}.png", *range(20), size=(8, 120)) for n in range(4)])
    assert not found.instances and found.classes.num_classes == 20


def test_jpeg_masks_are_refused_then_snapped(build: Builder) -> None:
    paths = [build.array(f"{seed}.jpg", blobs(seed)) for seed in range(2)]
    with pytest.raises(
        InputError,
        match=r"\d\.jpg: \d+ different values, \d+ pixels between the main values 0 and 255 "
        r"\(lossy file; 2 of 2 masks are like this\): .*--snap",
    ):
        infer(paths)
    found = infer(paths, snap=True)
    assert found.snap_to == (0, 255)
    restored = FileMask(paths[0], snap_to=found.snap_to).read().values
    assert (restored == blobs(0)).mean() > 0.99
    assert "snapped to the nearest of 0 and 255" in found.notes[-1]


def test_smoothed_png_masks_are_refused_then_snapped(build: Builder) -> None:
    small = np.select([blobs(1) > 0, blobs(2) > 0], [255, 128], 0).astype(np.uint8)
    smooth = cv2.resize(small, (160, 160), interpolation=cv2.INTER_LINEAR)
    path = build.array("a.png", smooth)
    with pytest.raises(InputError, match=r"main values 0, 128 and 255 \(smoothed or resized; 1 of 1"):
        infer([path])
    assert infer([path], snap=True).snap_to == (0, 128, 255)


def test_smoothed_colours_are_refused_then_snapped(build: Builder) -> None:
    colour = np.zeros((96, 96, 3), dtype=np.uint8)
    colour[blobs(1) > 0] = (255, 0, 0)
    colour[blobs(2) > 0] = (0, 128, 255)
    path = build.array("a.png", cv2.resize(colour, (160, 160), interpolation=cv2.INTER_LINEAR))
    with pytest.raises(InputError, match=r"main values \(0, 0, 0\), \(0, 128, 255\) and \(255, 0, 0\)"):
        infer([path])
    assert infer([path], snap=True).snap_to == ((0, 0, 0), (0, 128, 255), (255, 0, 0))


def test_thin_classes_are_not_taken_for_smoothing(build: Builder) -> None:
    lines = np.zeros((64, 64), dtype=np.uint8)
    for index in range(1, 12):
        lines[5 * index] = index * 20
    assert infer([build.array("a.png", lines)]).classes.num_classes == 12


def test_one_value_teaches_nothing(build: Builder) -> None:
    with pytest.raises(InputError, match=r"hold only 0: nothing can be learnt from one class"):
        infer([build.mask("a.png", 0), build.mask("b.png", 0)])
