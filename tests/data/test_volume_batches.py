"""Batches of patches are a function of (seed, draw number) alone, and hold the foreground that they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perpixel.data.volume_batches import VolumeCrops, volume_batches
from perpixel.data.volume_transforms import NNUNET_AUGMENTATION, NO_VOLUME_AUGMENTATION, VolumeAugmentation
from perpixel.errors import InputError

SHAPES = [(20, 24, 18), (30, 16, 22), (5, 6, 7), (26, 26, 26)]
NAMES = ["a", "b", "tiny", "empty"]


class Loader:
    """Volumes whose image is their label map plus noise; the last one holds no foreground; class 3 is one voxel."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(index)
        label_map = np.zeros(SHAPES[index], np.int64)
        if index < 3:
            label_map[1:4, 2:5, 2:6] = 1
            label_map[4, 5, 6] = 3
        label_map[0, 0, 0] = 255
        noise = np.random.default_rng(index).normal(size=(2, *SHAPES[index]))
        return (label_map + noise).astype(np.float32), label_map


def crops(loader: Loader | None = None, **settings: object) -> VolumeCrops:
    values = {"num_classes": 4, "patch": (10, 12, 8), "augmentation": NNUNET_AUGMENTATION, "seed": 3, **settings}
    return VolumeCrops(loader or Loader(), NAMES, **values)  # type: ignore[arg-type]


def equal(one: object, other: object) -> bool:
    return (
        torch.equal(one.image, other.image)  # type: ignore[attr-defined]
        and torch.equal(one.target, other.target)  # type: ignore[attr-defined]
        and one.names == other.names  # type: ignore[attr-defined]
    )


def test_any_start_gives_the_same_batches() -> None:
    whole = list(volume_batches(crops(), batch_size=2, start_step=0, end_step=8))
    later = list(volume_batches(crops(), batch_size=2, start_step=5, end_step=8))
    assert len(whole) == 8 and all(equal(*pair) for pair in zip(whole[5:], later, strict=True))
    assert whole[0].image.shape == (2, 2, 10, 12, 8) and whole[0].image.dtype == torch.float32
    assert whole[0].target.shape == (2, 10, 12, 8) and whole[0].target.dtype == torch.int64
    other = next(volume_batches(crops(seed=4), batch_size=2, start_step=0, end_step=1))
    assert not torch.equal(whole[0].image, other.image)


def test_threads_and_caches_change_nothing() -> None:
    here = list(volume_batches(crops(), batch_size=2, start_step=0, end_step=6))
    there = list(volume_batches(crops(cache_bytes=0), batch_size=2, start_step=0, end_step=6, num_workers=3))
    assert all(equal(*pair) for pair in zip(here, there, strict=True))


def test_a_stream_may_be_left() -> None:
    stream = volume_batches(crops(), batch_size=2, start_step=0, end_step=1000, num_workers=2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_an_error_of_the_loader_reaches_the_caller() -> None:
    def broken(index: int) -> tuple[np.ndarray, np.ndarray]:
        raise InputError(f"volume {index} is damaged")

    patches = VolumeCrops(broken, NAMES, num_classes=2, patch=(4, 4, 4), augmentation=VolumeAugmentation(), seed=0)
    for workers in (0, 2):
        with pytest.raises(InputError, match="is damaged"):
            next(volume_batches(patches, batch_size=1, start_step=0, end_step=3, num_workers=workers))


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.5, 1.0])
def test_the_promised_share_holds_foreground(share: float) -> None:
    patches = crops(foreground_share=share, patch=(6, 6, 6))
    has = [bool(((target == 1) | (target == 3)).any()) for _, target, _ in (patches[draw, 1] for draw in range(60))]
    forced = [patches.needs_foreground(draw) for draw in range(60)]
    assert all(there for there, needed in zip(has, forced) if needed)
    assert sum(forced) >= int(60 * share)
    for first in range(50):
        assert sum(forced[first : first + 10]) >= int(10 * share + 1e-9)
    if share == 0:
        assert not any(forced)


def test_classes_come_alike_however_small() -> None:
    patches = crops(foreground_share=1.0, patch=(1, 1, 1), augmentation=VolumeAugmentation())
    drawn = [int(patches[draw, 1][1].item()) for draw in range(200)]
    assert set(drawn) == {1, 3}
    assert drawn.count(3) / 200 == pytest.approx(0.5, abs=0.12)
    only = crops(foreground_share=1.0, patch=(1, 1, 1), augmentation=VolumeAugmentation(), class_chances=[0, 0, 0, 1])
    assert {int(only[draw, 1][1].item()) for draw in range(40)} == {3}


def test_a_pass_shows_every_volume() -> None:
    patches = crops(foreground_share=0.0)
    assert sorted(patches[draw, 1][2] for draw in range(4)) == sorted(NAMES)
    assert sorted(patches.case_of(draw) for draw in range(4, 8)) == [0, 1, 2, 3]
    always = crops(foreground_share=1.0)
    assert "empty" not in {always[draw, 1][2] for draw in range(12)}


def test_volumes_without_any_foreground_are_drawn_all_the_same() -> None:
    def empty(index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 9, 9, 9), np.float32), np.zeros((9, 9, 9), np.uint8)

    patches = VolumeCrops(
        empty, ["a", "b"], num_classes=2, patch=(4, 4, 4), augmentation=VolumeAugmentation(), seed=0, foreground_share=1
    )
    assert [patches[draw, 1][1].max() for draw in range(4)] == [0] * 4


def test_label_values_are_kept_and_the_outside_is_marked() -> None:
    patches = crops(patch=(32, 32, 32), outside_label=255, augmentation=NO_VOLUME_AUGMENTATION)
    for draw in range(8):
        image, target, name = patches[draw, 1]
        index = NAMES.index(name)
        _, source = Loader()(index)
        for value in (1, 3):
            assert (target == value).sum() == (source == value).sum()
        assert (target == 255).sum() == 32**3 - source.size + 1
        # Noise is nowhere exactly 0, so that the image's 0 is what lies outside.
        assert ((image == 0).all(0).sum()) == 32**3 - source.size


def test_the_cache_is_bounded() -> None:
    loader = Loader()
    sizes = [int(np.prod(shape)) * (2 * 4 + 1) for shape in SHAPES]
    patches = crops(loader, cache_bytes=sizes[0] + sizes[2], foreground_share=0.0)
    for _ in range(3):
        for index in (0, 2, 1, 3):
            patches.case(index)
    assert [loader.calls.count(index) for index in range(4)] == [1, 3, 1, 3]
    assert patches.case(0).label_map.dtype == np.uint8


def test_shrunken_patches_keep_a_coarse_axis() -> None:
    assert crops()[0, 2][1].shape == (5, 6, 4)
    assert crops(spacing=(5, 1, 1))[0, 2][1].shape == (10, 6, 4)
    assert crops()[0, 100][1].shape == (1, 1, 1)


def test_errors() -> None:
    with pytest.raises(InputError, match="no volumes to draw patches from"):
        VolumeCrops(Loader(), [], num_classes=2, patch=(4, 4, 4), augmentation=VolumeAugmentation(), seed=0)
    with pytest.raises(InputError, match=r"patch is \(4, 0, 4\): give \(depth, height, width\)"):
        crops(patch=(4, 0, 4))
    with pytest.raises(InputError, match=r"foreground_share is 1\.5"):
        crops(foreground_share=1.5)
    flat = VolumeCrops(
        lambda _: (np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)),
        ["case 7"],
        num_classes=2,
        patch=(4, 4, 4),
        augmentation=VolumeAugmentation(),
        seed=0,
    )
    with pytest.raises(InputError, match=r"case 7: image \(4, 4, 4\) and label map \(4, 4, 4\)"):
        flat[0, 1]
