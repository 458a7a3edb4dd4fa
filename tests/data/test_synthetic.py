from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from perpixel.data.synthetic import (
    CELL,
    CLASS_COLOURS,
    CLASS_NAMES,
    DIVIDING,
    SceneImage,
    describe_scene,
    draw_scene,
    draw_volume,
    write_demo,
)
from perpixel.errors import InputError


@pytest.fixture(scope="module")
def scenes() -> list[SceneImage]:
    return [draw_scene(seed) for seed in range(24)]


def test_shapes_and_ranges(scenes: list[SceneImage]) -> None:
    for scene in scenes:
        assert scene.image.shape == (192, 256, 3) and scene.image.dtype == np.uint8
        assert scene.label_map.shape == (192, 256) and scene.label_map.dtype == np.uint8
        assert scene.instance_map.shape == (192, 256) and scene.instance_map.dtype == np.uint16
        assert scene.image.max() > 120 and np.median(scene.image) < 120
        assert set(np.unique(scene.label_map)) <= {0, CELL, DIVIDING}


def test_labels_and_instances_say_the_same(scenes: list[SceneImage]) -> None:
    for scene in scenes:
        assert ((scene.label_map == 0) == (scene.instance_map == 0)).all()
        numbers = np.unique(scene.instance_map)
        assert (numbers == np.arange(len(numbers))).all()
        for number in numbers[1:]:
            assert len(np.unique(scene.label_map[scene.instance_map == number])) == 1


def test_shares_of_the_classes(scenes: list[SceneImage]) -> None:
    share = np.bincount(np.concatenate([scene.label_map.ravel() for scene in scenes])) / (24 * 192 * 256)
    assert 0.3 < share[0] < 0.6
    assert 0.005 < share[DIVIDING] < 0.025


def test_neighbours_touch(scenes: list[SceneImage]) -> None:
    for scene in scenes:
        blobs = ndimage.label(scene.instance_map)[1]
        assert blobs < 0.8 * scene.instance_map.max()


def test_classes_can_be_told_apart_but_not_by_one_threshold(scenes: list[SceneImage]) -> None:
    image = np.stack([scene.image for scene in scenes]).astype(float)
    label_map = np.stack([scene.label_map for scene in scenes])
    blue = [image[label_map == value][:, 2] for value in range(3)]
    green = [image[label_map == value][:, 1] for value in range(3)]
    assert green[DIVIDING].mean() > 1.3 * green[CELL].mean() > 2 * green[0].mean()
    assert (green[CELL] > np.median(green[DIVIDING])).mean() > 0.02
    assert (blue[CELL] > np.median(blue[DIVIDING])).mean() > 0.1


def test_light_is_uneven_and_the_camera_noisy(scenes: list[SceneImage]) -> None:
    spread = []
    for scene in scenes:
        dark = scene.image[..., 1][scene.label_map == 0].astype(float)
        spread.append(dark.std())
    assert min(spread) > 2


def test_same_seed_same_pixels() -> None:
    first, again, other = draw_scene(5, (64, 80)), draw_scene(5, (64, 80)), draw_scene(6, (64, 80))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.instance_map.tobytes() == again.instance_map.tobytes()
    assert (first.image != other.image).any()
    assert describe_scene(5, (64, 80)) == describe_scene(5, (64, 80))


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (7, 3), (130, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    scene = draw_scene(0, size)
    assert scene.image.shape == (*size, 3)
    assert scene.label_map.shape == scene.instance_map.shape == size


def test_volume_is_drawn_from_ellipsoids() -> None:
    volume = draw_volume(3, (28, 64, 72))
    assert volume.image.shape == volume.label_map.shape == volume.instance_map.shape == (28, 64, 72)
    assert volume.image.dtype == volume.label_map.dtype == np.uint8
    assert volume.instance_map.dtype == np.uint16
    assert ((volume.label_map == 0) == (volume.instance_map == 0)).all()
    assert volume.image[volume.label_map > 0].mean() > 1.5 * volume.image[volume.label_map == 0].mean()
    areas = (volume.instance_map > 0).sum(axis=(1, 2))
    assert len(set(areas.tolist())) > 10  # sections grow and shrink along the depth
    assert draw_volume(3, (28, 64, 72)).image.tobytes() == volume.image.tobytes()


def test_size_is_checked() -> None:
    with pytest.raises(InputError, match=r"size is \(0, 8\): give \(height, width\)"):
        draw_scene(0, (0, 8))
    with pytest.raises(InputError, match=r"size is \(8,\)"):
        describe_scene(0, (8,))  # type: ignore[arg-type]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_write_demo(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    root = write_demo(
        tmp_path / "demo", num_train=2, num_val=1, num_test=1, size=(48, 64), on_progress=lambda *at: calls.append(at)
    )
    assert root == tmp_path / "demo"
    files = digest(root)
    kinds = ("images", "instances", "masks")
    expected = [
        f"{split}/{kind}/cells_{i:04d}.png"
        for split, i in (("train", 0), ("train", 1), ("val", 0), ("test", 0))
        for kind in kinds
    ]
    assert sorted(files) == sorted(["classes.json", *expected])
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    pictures = [files[name] for name in expected if "/images/" in name]
    assert len(set(pictures)) == 4  # no split repeats a picture of another

    table = json.loads((root / "classes.json").read_text())
    assert [item["name"] for item in table["classes"]] == list(CLASS_NAMES)
    assert [item["values"] for item in table["classes"]] == [[0], [1], [2]]
    assert table["ignore_values"] == []

    with Image.open(root / "train/masks/cells_0001.png") as mask:
        assert mask.mode == "P" and mask.size == (64, 48)
        assert np.array(mask.getpalette()[:9]).reshape(3, 3).tolist() == [list(colour) for colour in CLASS_COLOURS]
        labels = np.asarray(mask)
    instances = cv2.imread(str(root / "train/instances/cells_0001.png"), cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16
    assert ((instances > 0) == (labels > 0)).all()
    with Image.open(root / "train/images/cells_0001.png") as image:
        assert image.mode == "RGB" and image.size == (64, 48)


def test_write_demo_again_gives_the_same_bytes(tmp_path: Path) -> None:
    options = {"num_train": 1, "num_val": 1, "num_test": 0, "size": (40, 40)}
    first = digest(write_demo(tmp_path / "a", **options))
    assert digest(write_demo(tmp_path / "b", **options)) == first
    assert digest(write_demo(tmp_path / "a", **options)) == first
    assert digest(write_demo(tmp_path / "c", seed=1, **options)) != first


def test_write_demo_refuses(tmp_path: Path) -> None:
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/images/mine.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"mine.png is not of this demo: choose another folder"):
        write_demo(tmp_path, num_train=1, num_val=0, num_test=0)
    assert not (tmp_path / "classes.json").exists()
    with pytest.raises(InputError, match=r"num_train, num_val, num_test are \(0, 0, 0\)"):
        write_demo(tmp_path / "b", num_train=0, num_val=0, num_test=0)
