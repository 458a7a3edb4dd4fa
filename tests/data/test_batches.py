"""Batches are a function of (seed, draw number) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perpixel.data import open_dataset, repeat_factors
from perpixel.data.batches import BatchDraws, TrainingCrops, batches
from perpixel.data.transforms import Augmentation
from perpixel.files import write_json
from perpixel.images import Normalisation, write_png
from perpixel.models.valid_sizes import ValidSizes

NORMALISATION = Normalisation((0.0,), (255.0,), (0.5,), (0.25,))


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 1)):
        for i in range(count):
            label_map = np.zeros((30, 40), np.uint8)
            label_map[i : i + 3, 35:38] = 1
            write_png(tmp_path / split / "images" / f"{i}.png", rng.integers(0, 255, (30, 40), dtype=np.uint8))
            write_png(tmp_path / split / "masks" / f"{i}.png", label_map)
    write_json(tmp_path / "classes.json", ["background", "spot"])
    return tmp_path


def crops(folder: Path, **settings: object) -> TrainingCrops:
    dataset = open_dataset(folder)
    values = {
        "crop": (16, 16),
        "normalisation": NORMALISATION,
        "augmentation": Augmentation(rotate_degrees=9),
        "seed": 3,
    }
    return TrainingCrops(dataset, dataset.split("train"), **{**values, **settings})  # type: ignore[arg-type]


def test_any_start_gives_the_same_batches(dataset_folder: Path) -> None:
    whole = list(batches(crops(dataset_folder), batch_size=2, start_step=0, end_step=6))
    later = list(batches(crops(dataset_folder), batch_size=2, start_step=4, end_step=6))
    assert len(whole) == 6
    for one, other in zip(whole[4:], later, strict=True):
        assert (
            torch.equal(one.image, other.image) and torch.equal(one.target, other.target) and one.names == other.names
        )


def test_workers_change_nothing(dataset_folder: Path) -> None:
    here = list(batches(crops(dataset_folder), batch_size=2, start_step=0, end_step=3))
    there = list(batches(crops(dataset_folder), batch_size=2, start_step=0, end_step=3, num_workers=1))
    assert all(torch.equal(one.image, other.image) for one, other in zip(here, there, strict=True))


def test_each_pass_shows_every_image_once(dataset_folder: Path) -> None:
    drawn = crops(dataset_folder)
    first, second = ([drawn.sample_of(draw) for draw in range(start, start + 5)] for start in (0, 5))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


def test_ranks_share_the_draws() -> None:
    shares = [
        list(BatchDraws(batch_size=2, start_step=1, end_step=3, shrink=2, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert shares == [[[(4, 2), (5, 2)], [(8, 2), (9, 2)]], [[(6, 2), (7, 2)], [(10, 2), (11, 2)]]]


def test_layout_and_dtypes(dataset_folder: Path) -> None:
    batch = next(batches(crops(dataset_folder), batch_size=2, start_step=0, end_step=1))
    assert batch.image.shape == (2, 1, 16, 16) and batch.image.dtype == torch.float32
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.shape == (2, 16, 16) and batch.target.dtype == torch.int64


def test_rare_share_finds_the_spot(dataset_folder: Path) -> None:
    def share(rare: float) -> float:
        drawn = crops(dataset_folder, rare_share=rare, crop=(8, 8), augmentation=Augmentation(flip_horizontal=False))
        return float(np.mean([(drawn[draw, 1][1] == 1).any() for draw in range(60)]))

    assert share(1.0) > 0.45 > share(0.0) + 0.15


def seen_share(drawn: TrainingCrops, value: int, draws: int) -> float:
    """Share of the pixels of the first crops that have this class."""
    return float(np.mean([(drawn[draw, 1][1] == value).mean() for draw in range(draws)]))


def test_rare_classes_are_drawn_more_often(tmp_path: Path) -> None:
    """Crops placed on classes show more of the rare one than crops placed anywhere; weighed by rarity, more still."""
    label_map = np.zeros((80, 100), np.uint8)
    label_map[:30], label_map[:, 70:], label_map[40:46, 10:16] = 1, 2, 3
    for split in ("train", "val"):
        write_png(tmp_path / split / "images" / "a.png", label_map * 60)
        write_png(tmp_path / split / "masks" / "a.png", label_map)
    write_json(tmp_path / "classes.json", ["ground", "sky", "wall", "sign"])
    pixels = np.bincount(label_map.ravel())
    plain = {"crop": (20, 20), "augmentation": Augmentation()}
    anywhere = seen_share(crops(tmp_path, **plain), 3, 300)
    alike = seen_share(crops(tmp_path, **plain, rare_share=0.5), 3, 300)
    by_rarity = seen_share(crops(tmp_path, **plain, rare_share=0.5, class_chances=pixels**-0.5), 3, 300)
    assert by_rarity > 1.3 * alike and alike > 1.5 * anywhere > 0


def test_classes_without_a_chance_place_no_crop(dataset_folder: Path) -> None:
    placed = crops(dataset_folder, rare_share=1.0, class_chances=[0.0, 1.0], augmentation=Augmentation(), crop=(8, 8))
    assert np.mean([(placed[draw, 1][1] == 1).any() for draw in range(30)]) > 0.9
    nowhere = crops(dataset_folder, rare_share=1.0, class_chances=[0.0, 0.0], augmentation=Augmentation(), crop=(8, 8))
    assert np.mean([(nowhere[draw, 1][1] == 1).any() for draw in range(60)]) < 0.4


def test_repeated_images_show_their_class_more_often(tmp_path: Path) -> None:
    """A class in one of twelve images; the threshold of 1 shows that image sqrt(12) times as often as the others."""
    for split, count in (("train", 12), ("val", 1)):
        for i in range(count):
            label_map = np.zeros((24, 24), np.uint8)
            label_map[:8] = 2 if i == 5 else 1
            write_png(tmp_path / split / "images" / f"{i:02}.png", label_map * 90)
            write_png(tmp_path / split / "masks" / f"{i:02}.png", label_map)
    write_json(tmp_path / "classes.json", ["ground", "grass", "rare"])
    factors = repeat_factors([[0, 2] if i == 5 else [0, 1] for i in range(12)], threshold=1)
    assert factors[5] == pytest.approx(np.sqrt(12))
    once, often = crops(tmp_path, crop=(16, 16)), crops(tmp_path, crop=(16, 16), repeats=factors)
    ratio = seen_share(often, 2, 300) / seen_share(once, 2, 300)
    assert ratio == pytest.approx(12 * factors[5] / factors.sum(), rel=0.15)


def test_any_start_and_any_worker_gives_the_same_batches_with_repeats(dataset_folder: Path) -> None:
    settings = {"repeats": [1.0, 2.3, 1.0, 1.7, 1.0], "rare_share": 0.5, "class_chances": [0.1, 0.9]}
    whole = list(batches(crops(dataset_folder, **settings), batch_size=3, start_step=0, end_step=6))
    later = list(batches(crops(dataset_folder, **settings), batch_size=3, start_step=3, end_step=6, num_workers=1))
    for one, other in zip(whole[3:], later, strict=True):
        assert torch.equal(one.image, other.image) and one.names == other.names
    assert sorted({name for batch in whole[:3] for name in batch.names}) == [f"train/{i}" for i in range(5)]


def test_margin_widens_the_image_only(dataset_folder: Path) -> None:
    image, target, _ = crops(dataset_folder, margin=4)[0, 1]
    assert image.shape == (24, 24, 1) and target.shape == (16, 16)


def test_scale_and_cache(dataset_folder: Path) -> None:
    drawn = crops(dataset_folder, scale=0.5, cache_bytes=2 * (15 * 20 + 30 * 40))
    sizes = {(drawn.source(index).image.shape, drawn.source(index).label_map.shape) for index in range(5)}
    assert sizes == {((15, 20, 1), (30, 40))}
    assert len(drawn._cache) == 2


def test_sizes_are_those_that_the_net_takes(dataset_folder: Path) -> None:
    sizes = ValidSizes(pools=2)
    image, target, _ = crops(dataset_folder, margin=sizes.margin, fit_size=sizes.fit_size)[0, 1]
    sizes.check(*image.shape[:2])
    assert [side - 2 * sizes.margin for side in image.shape[:2]] == list(target.shape) >= [16, 16]


def test_coarse_draws_see_as_much_in_fewer_pixels(dataset_folder: Path) -> None:
    drawn = crops(dataset_folder, crop=(30, 40), augmentation=Augmentation(flip_horizontal=False))
    coarse, fine = drawn[1, 2], drawn[1, 1]
    assert coarse[0].shape == (15, 20, 1) and fine[0].shape == (30, 40, 1)
    assert np.abs(fine[1][::2, ::2].astype(int) - coarse[1]).mean() < 0.1
    assert coarse[0].mean() == pytest.approx(fine[0].mean(), abs=0.05)


@pytest.mark.parametrize("scale", [1.0, 0.75, 0.5, 0.25])
def test_labels_stay_on_the_image_at_every_scale(tmp_path: Path, scale: float) -> None:
    """The middle of a disc, seen in image and target, over many draws: no offset of half a pixel."""
    rows, cols = np.mgrid[:64, :80]
    disc = ((rows - 30.5) ** 2 + (cols - 41.5) ** 2 < 150).astype(np.uint8)
    for split in ("train", "val"):
        write_png(tmp_path / split / "images" / "a.png", disc * 200)
        write_png(tmp_path / split / "masks" / "a.png", disc)
    drawn = crops(
        tmp_path,
        scale=scale,
        crop=(round(64 * scale), round(80 * scale)),
        normalisation=Normalisation((0.0,), (200.0,), (0.0,), (1.0,)),
        augmentation=Augmentation(flip_horizontal=False, scale=(0.8, 1.2), rotate_degrees=10, aspect=0.1),
    )

    def middle(values: np.ndarray) -> np.ndarray:
        places = np.mgrid[: values.shape[0], : values.shape[1]]
        return (places * values).sum((1, 2)) / values.sum()

    offsets = [
        middle(target.astype(float)) - middle(image[..., 0]) for image, target, _ in (drawn[i, 1] for i in range(80))
    ]
    assert np.abs(np.mean(offsets, axis=0)).max() / scale < 0.1


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("shrink", [1, 2])
def test_an_offset_of_the_labels_survives_mirrors_and_turns(tmp_path: Path, scale: float, shrink: int) -> None:
    rows, cols = np.mgrid[:64, :64]
    for split in ("train", "val"):
        write_png(
            tmp_path / split / "images" / "a.png",
            ((rows - 30.5) ** 2 + (cols - 32.5) ** 2 < 150).astype(np.uint8) * 200,
        )
        write_png(
            tmp_path / split / "masks" / "a.png", ((rows - 33.5) ** 2 + (cols - 31.5) ** 2 < 150).astype(np.uint8)
        )
    drawn = crops(
        tmp_path,
        scale=scale,
        offset=(3 * scale, -1 * scale),
        crop=(round(64 * scale), round(64 * scale)),
        normalisation=Normalisation((0.0,), (200.0,), (0.0,), (1.0,)),
        augmentation=Augmentation(flip_vertical=True, quarter_turns=True, rotate_degrees=10),
    )
    found = []
    for draw in range(24):
        image, target, _ = drawn[draw, shrink]
        places = np.mgrid[: target.shape[0], : target.shape[1]]
        middles = [(places * each).sum((1, 2)) / each.sum() for each in (image[..., 0], target.astype(float))]
        found.append((middles[1] - middles[0]) * shrink / scale)
    # Labels are rounded to pixels of the crop; turned round by a mirror, they would be 6 or 2 px off.
    assert np.abs(np.array(found) - [3, -1]).max() < 1
    assert np.mean(found, axis=0) == pytest.approx([3, -1], abs=0.25)
