"""Crops with objects: a function of (seed, draw number) alone, the objects where the image shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perpixel.data import InstanceDataset, open_instances
from perpixel.data.instance_crops import (
    DrawnObjects,
    InstanceCrops,
    ObjectsSource,
    draw_place,
    instance_batches,
    paint_layers,
    warp_objects,
)
from perpixel.data.transforms import NO_AUGMENTATION, Augmentation, Geometry
from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.labels import Instances, Runs

PLAIN = Normalisation((0.0,), (255.0,), (0.0,), (1.0,))
ROUGH = Augmentation(rotate_degrees=180, flip_vertical=True, scale=(0.7, 1.4), elastic_px=3, contrast=0.1, noise=0.02)


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceDataset:
    """Five images of 40 x 48 pixels: number i of n squares is as bright as 20 i."""
    for split, count in (("train", 5), ("test", 1)):
        for index in range(count):
            instance_map = np.zeros((40, 48), np.uint16)
            for number in range(1, 5):
                row, col = 9 * number - 7, (11 * number + 7 * index) % 40
                instance_map[row : row + 6, col : col + 6] = number
            write_png(tmp_path / split / "images" / f"{index}.png", (instance_map * 20).astype(np.uint8))
            write_png(tmp_path / split / "labels" / f"{index}.png", instance_map)
    return open_instances(tmp_path)


def crops(dataset: InstanceDataset, **settings: object) -> InstanceCrops:
    values = {"crop": (24, 32), "normalisation": PLAIN, "augmentation": ROUGH, "seed": 3}
    return InstanceCrops(dataset, dataset.split("train"), **{**values, **settings})  # type: ignore[arg-type]


def source_of(instances: Instances, image: np.ndarray | None = None) -> ObjectsSource:
    image = np.zeros((*instances.size, 1), np.uint8) if image is None else image
    return ObjectsSource(image, paint_layers(instances), instances, np.zeros(1), np.ones(1))


def shifted(right: float, down: float, *, step: float = 1.0) -> Geometry:
    return Geometry(np.array([[step, 0, right], [0, step, down]]), None)


def test_a_drawn_object_lies_where_the_image_shows_it(dataset: InstanceDataset) -> None:
    augmentation = Augmentation(quarter_turns=True, flip_vertical=True)
    drawn = crops(dataset, augmentation=augmentation, object_share=1.0)
    met = 0
    for draw in range(12):
        image, objects, _ = drawn[draw, 1]
        assert objects.layers.shape == (1, 24, 32) and objects.layers.dtype == torch.int32
        shown = image[..., 0] * 255 / 20
        for mask in objects.masks().numpy():
            met += 1
            # Bilinear at the border: the nearest pixel has a quarter of the weight at least.
            assert shown[mask].min() >= 0.24 * shown[mask].max() > 0
        rest = shown[~objects.masks().numpy().any(axis=0)]
        assert rest.size and rest.max() <= 0.76 * 4
    assert met > 12


def test_any_start_and_any_worker_give_the_same_batches(dataset: InstanceDataset) -> None:
    whole = list(instance_batches(crops(dataset), batch_size=2, start_step=0, end_step=4))
    later = instance_batches(crops(dataset), batch_size=2, start_step=2, end_step=4)
    there = list(instance_batches(crops(dataset), batch_size=2, start_step=2, end_step=4, num_workers=1))
    for one, other, third in zip(whole[2:], later, there, strict=True):
        assert one.image.shape == (2, 1, 24, 32) and one.image.is_contiguous(memory_format=torch.channels_last)
        assert one.names == other.names == third.names
        for batch in (other, third):
            assert torch.equal(one.image, batch.image)
            assert all(torch.equal(a.layers, b.layers) for a, b in zip(one.objects, batch.objects, strict=True))


def test_half_the_resolution_shows_the_same_place(dataset: InstanceDataset) -> None:
    drawn = crops(dataset, augmentation=NO_AUGMENTATION, crop=(40, 48), object_share=0.0)
    whole, half = drawn[1, 1][1], drawn[1, 2][1]
    assert half.layers.shape == (1, 20, 24)
    assert len(half) == len(whole) == 4
    assert torch.allclose(half.boxes() * 2, whole.boxes(), atol=2)


def test_each_pass_shows_every_image_once(dataset: InstanceDataset) -> None:
    drawn = crops(dataset)
    count = len(drawn)
    assert sorted(drawn.sample_of(draw) for draw in range(count, 2 * count)) == list(range(count))


def test_overlapping_objects_lie_in_layers() -> None:
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2, :4] = masks[1, 1:3, 2:6] = masks[2, 3:, :] = True
    instances = Instances.of(Runs.from_masks(masks), [1, 2, 1], is_crowd=[False, False, True])
    layers = paint_layers(instances)
    assert layers.shape == (2, 4, 6) and set(np.unique(layers[0])) == {0, 1, 3} and set(np.unique(layers[1])) == {0, 2}
    drawn = warp_objects(source_of(instances), shifted(0, 0), (4, 6), least_pixels=1)
    assert np.array_equal(drawn.masks().numpy(), masks)
    assert drawn.boxes().tolist() == [[0, 0, 4, 2], [2, 1, 6, 3], [0, 3, 6, 4]]
    assert drawn.classes.tolist() == [1, 2, 1] and drawn.is_crowd.tolist() == [False, False, True]


def test_what_a_crop_cuts_away_is_gone_and_the_rest_renumbered() -> None:
    instance_map = np.zeros((6, 12), np.uint16)
    instance_map[0:3, 0:4], instance_map[4:6, 3:9], instance_map[0:2, 9:12] = 1, 2, 3
    instances = Instances.from_label_map(instance_map, {1: 1, 2: 2, 3: 3})
    drawn = warp_objects(source_of(instances), shifted(3, 0), (6, 9))
    # Three pixels of object 1 are left.
    assert drawn.classes.tolist() == [2, 3]
    assert drawn.layers[0, 4:, :6].unique().tolist() == [1] and drawn.layers[0, :2, 6:].unique().tolist() == [2]
    assert int((drawn.layers > 0).sum()) == 12 + 6


def test_a_reflection_is_an_object_of_its_own_unless_the_frame_cuts_it() -> None:
    instance_map = np.zeros((5, 20), np.uint16)
    instance_map[1:4, 2:5], instance_map[1:4, 17:20] = 1, 2
    source = source_of(Instances.from_label_map(instance_map, {1: 1, 2: 2}))
    drawn = warp_objects(source, shifted(-8, 0), (5, 36))
    # Object 1 lies at 10..12 and, reflected at column 8, at 4..6; object 2 at 25..27 goes on to 29.
    assert drawn.boxes()[:, [0, 2]].tolist() == [[4, 7], [10, 13], [25, 30]]
    assert drawn.classes.tolist() == [1, 1, 2]
    far = warp_objects(source, shifted(-200, -40), (90, 400))
    assert len(far) > 100 and len(np.unique(far.boxes().numpy(), axis=0)) == len(far)


def test_an_image_without_objects() -> None:
    drawn = warp_objects(source_of(Instances.none((5, 6))), shifted(-2, 0), (4, 4))
    assert drawn.layers.shape == (1, 4, 4) and len(drawn) == 0
    assert drawn.masks().shape == (0, 4, 4) and drawn.boxes().shape == (0, 4)
    assert draw_place(source_of(Instances.none((5, 6))), np.random.default_rng(0)) is None


def test_more_objects_than_16_bits() -> None:
    side = 260
    instances = Instances.from_label_map(np.arange(side * side).reshape(side, side))
    layers = paint_layers(instances)
    assert layers.dtype == np.float32 and int(layers.max()) == side * side - 1
    drawn = warp_objects(source_of(instances), shifted(0, 0), (side, side), least_pixels=1)
    assert len(drawn) == side * side - 1


def test_places_are_drawn_from_all_classes_alike() -> None:
    instance_map = np.zeros((10, 30), np.uint16)
    instance_map[1, 1:29:2] = np.arange(1, 15)
    instance_map[8, 20] = 15
    instances = Instances.from_label_map(instance_map, {**dict.fromkeys(range(1, 15), 1), 15: 2})
    source = source_of(instances, np.zeros((20, 60, 1), np.uint8))
    rng = np.random.default_rng(0)
    places = [draw_place(source, rng) for _ in range(200)]
    rows = [place[0] for place in places if place is not None]
    assert set(rows) == {2.5, 16.5}
    assert 70 < rows.count(16.5) < 130


def test_draws_with_an_object(dataset: InstanceDataset) -> None:
    drawn = crops(dataset, object_share=1.0, crop=(12, 12), augmentation=NO_AUGMENTATION)
    assert all(len(drawn[draw, 1][1]) for draw in range(20))


def test_a_cache_too_small_reads_again(dataset: InstanceDataset) -> None:
    first, second = (crops(dataset, cache_bytes=room)[2, 1] for room in (0, 2**20))
    assert np.array_equal(first[0], second[0]) and torch.equal(first[1].layers, second[1].layers)


def test_refused(dataset: InstanceDataset) -> None:
    with pytest.raises(InputError, match=r"object_share is 1\.5"):
        crops(dataset, object_share=1.5)
    with pytest.raises(InputError, match="no images"):
        InstanceCrops(dataset, (), crop=(8, 8), normalisation=PLAIN, augmentation=ROUGH, seed=0)


def test_drawn_objects_of_overlapping_layers_have_boxes() -> None:
    layers = torch.zeros((2, 4, 5), dtype=torch.int32)
    layers[0, 1:3, 1:4], layers[1, 2:, 3:] = 2, 1
    drawn = DrawnObjects(layers, torch.tensor([1, 1]), torch.tensor([False, False]))
    assert drawn.boxes().tolist() == [[3, 2, 5, 4], [1, 1, 4, 3]]
    assert drawn.masks().sum(dim=(1, 2)).tolist() == [4, 6]
