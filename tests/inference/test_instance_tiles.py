"""Objects cut by tiles come back whole: exactly from an ideal detector, and hardly worse from one that errs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from object_scenes import draw_scene, look, look_as_a_net, look_in_pieces

from perpixel.data.instances import open_instances
from perpixel.errors import InputError
from perpixel.inference.instance_tiles import merge_tiles, subtract_spans
from perpixel.inference.instance_views import Tile, tile_image
from perpixel.labels import Instances, Runs
from perpixel.metrics import object_errors


def masks_of(instances: Instances) -> set[tuple[int, bytes]]:
    return {(int(instances.classes[i]), instances.masks.of(i).tobytes()) for i in range(len(instances))}


def connected(scene: Instances) -> Instances:
    """Each piece an object: where no tile sees two pieces of an object together, nothing says that they are one."""
    return look_in_pieces(scene, tile_image(scene.size, scene.size, 0.25)[0])


def box(*bounds: tuple[int, int, int, int], size: tuple[int, int], **more: object) -> Instances:
    """Rectangles x0 y0 x1 y1."""
    masks = np.zeros((len(bounds), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, bounds):
        mask[y0:y1, x0:x1] = True
    return Instances.of(Runs.from_masks(masks, size), **more)


@pytest.mark.parametrize(("size", "tile", "overlap"), [((50, 70), (20, 30), 0.25), ((9, 40), (16, 16), 0.5)])
def test_cores_cover_each_pixel_once(size: tuple[int, int], tile: tuple[int, int], overlap: float) -> None:
    counts = np.zeros(size, int)
    for part in tile_image(size, tile, overlap):
        x0, y0, x1, y1 = part.core
        counts[y0:y1, x0:x1] += 1
        assert part.box[0] <= x0 and part.box[1] <= y0 and x1 <= part.box[2] and y1 <= part.box[3]
    assert (counts == 1).all()


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize(("tile", "overlap"), [((64, 64), 0.25), ((50, 70), 0.1), ((40, 40), 0.4), ((150, 64), 0.25)])
def test_an_ideal_detector_gives_the_truth(tile: tuple[int, int], overlap: float, overlapping: bool) -> None:
    for seed in range(3):
        scene = connected(draw_scene(seed, overlapping=overlapping))
        tiles = tile_image(scene.size, tile, overlap)
        merged = merge_tiles(scene.size, tiles, [look(scene, each) for each in tiles])
        assert len(merged) == len(scene) and masks_of(merged) == masks_of(scene)
        assert merged.scores is not None and (np.diff(merged.scores) <= 0).all()
        assert merged.boxes.tolist() == merged.masks.boxes.tolist()
        assert merged.areas.tolist() == merged.masks.areas.tolist()


def test_objects_without_scores_and_images_without_objects() -> None:
    scene = Instances.of(connected(draw_scene(1)).masks)
    tiles = tile_image(scene.size, (64, 64), 0.25)
    merged = merge_tiles(scene.size, tiles, [look(scene, each) for each in tiles])
    assert masks_of(merged) == masks_of(scene) and merged.scores is not None and (merged.scores == 1).all()
    nothing = merge_tiles(scene.size, tiles, [Instances.none(each.size) for each in tiles])
    assert len(nothing) == 0 and nothing.size == scene.size and nothing.scores is not None


# Two tiles of 20 x 30 that share columns 20 to 30; cores meet at 25.
PAIR = tile_image((20, 50), (20, 30), 0.3)


def test_the_two_tiles() -> None:
    left, right = PAIR
    assert left == Tile((0, 0, 30, 20), (0, 0, 25, 20)) and right == Tile((20, 0, 50, 20), (25, 0, 50, 20))


def test_a_whole_object_is_that_of_the_tile_whose_core_holds_it() -> None:
    found = [box((22, 4, 25, 8), size=(20, 30), scores=[0.3]), box((2, 4, 6, 9), size=(20, 30), scores=[0.9])]
    merged = merge_tiles((20, 50), PAIR, found)
    assert merged.boxes.tolist() == [[22, 4, 25, 8]] and merged.scores is not None and merged.scores.tolist() == [0.3]


def test_a_whole_view_stands_for_a_cut_one() -> None:
    found = [box((22, 4, 30, 8), size=(20, 30), scores=[0.9]), box((5, 4, 14, 9), size=(20, 30), scores=[0.4])]
    merged = merge_tiles((20, 50), PAIR, found)
    assert merged.boxes.tolist() == [[25, 4, 34, 9]] and merged.scores is not None and merged.scores.tolist() == [0.4]


def test_cut_views_are_joined_at_the_border_of_the_cores() -> None:
    # The left tile sees rows 4 to 8 up to its border, the right one rows 5 to 9 from its own on.
    found = [box((10, 4, 30, 8), size=(20, 30), scores=[0.8]), box((0, 5, 20, 9), size=(20, 30), scores=[0.4])]
    merged = merge_tiles((20, 50), PAIR, found)
    wanted = np.zeros((20, 50), bool)
    wanted[4:8, 10:25], wanted[5:9, 25:40] = True, True
    assert np.array_equal(merged.masks.mask(0), wanted) and len(merged) == 1
    assert merged.scores is not None and np.allclose(merged.scores, 0.6)  # areas are equal


def test_the_class_of_a_joined_object_is_that_of_the_larger_part() -> None:
    found = [box((2, 4, 30, 8), size=(20, 30), classes=[2]), box((0, 4, 14, 8), size=(20, 30), classes=[1])]
    merged = merge_tiles((20, 50), PAIR, found)
    assert merged.classes.tolist() == [2] and merged.boxes.tolist() == [[2, 4, 34, 8]]


def test_what_no_other_tile_confirms_counts_in_the_core_only() -> None:
    left = box((21, 2, 24, 6), (26, 10, 29, 13), size=(20, 30))
    merged = merge_tiles((20, 50), PAIR, [left, Instances.none((20, 30))])
    assert merged.boxes.tolist() == [[21, 2, 24, 6]]


def test_a_dispute_loses_nothing_and_leaves_nothing_twice() -> None:
    for left, right in (
        ([(21, 4, 29, 8)], [(1, 4, 4, 8), (5, 4, 9, 8)]),  # one on the left is two on the right
        ([(22, 4, 30, 8)], [(1, 4, 5, 8), (5, 4, 13, 8)]),
        ([(20, 4, 23, 8), (24, 4, 30, 8)], [(0, 4, 10, 8)]),  # the other way round
    ):
        views = [box(*left, size=(20, 30)), box(*right, size=(20, 30))]
        merged = merge_tiles((20, 50), PAIR, views)
        assert 1 <= len(merged) <= 2
        covered = np.count_nonzero(merged.masks.paint(np.arange(len(merged)), np.ones(len(merged))))
        assert merged.masks.areas.sum() == covered >= min(view.masks.areas.sum() for view in views)


def test_the_tile_that_sees_the_place_best_decides() -> None:
    # Three tiles that share 40 columns; the dispute lies 6 columns from the border of one, 26 from that of the other.
    tiles = tile_image((30, 200), (30, 80), 0.5)
    assert [tile.box[0] for tile in tiles[:2]] == [0, 40]
    found = [Instances.none((30, 80)) for _ in tiles]
    found[0], found[1] = box((46, 5, 58, 15), size=(30, 80)), box((6, 5, 10, 15), (11, 5, 18, 15), size=(30, 80))
    assert merge_tiles((30, 200), tiles, found).boxes.tolist() == [[46, 5, 58, 15]]


def test_tiles_without_overlapping_objects_give_none() -> None:
    found = [box((10, 4, 28, 12), size=(20, 30), scores=[0.5]), box((6, 8, 20, 16), size=(20, 30), scores=[0.9])]
    merged = merge_tiles((20, 50), PAIR, found)
    assert merged.masks.areas.sum() == np.count_nonzero(merged.to_label_map())
    double = Instances.of(Runs.join((20, 30), [found[0].masks.of(0)] * 2), scores=[0.5, 0.4])
    assert len(merge_tiles((20, 50), PAIR, [double, found[1]])) == 3  # a tile's own overlaps stay


def test_low_scores_are_left_out() -> None:
    found = box((1, 1, 4, 4), (8, 8, 12, 12), size=(20, 30), scores=[0.2, 0.6])
    assert len(merge_tiles((20, 50), PAIR, [found, Instances.none((20, 30))], min_score=0.5)) == 1


def test_objects_of_another_size_than_the_tile() -> None:
    with pytest.raises(InputError, match=r"\(20, 20\) in a tile of \(20, 30\)"):
        merge_tiles((20, 50), PAIR, [Instances.none((20, 30)), Instances.none((20, 20))])


def test_subtract_spans() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = rng.random((2, 1, 40, 1)) < rng.random((2, 1, 1, 1))
        left = subtract_spans(Runs.from_masks(one).of(0), Runs.from_masks(other).of(0))
        assert left.tolist() == Runs.from_masks(one & ~other).of(0).tolist()


def test_the_same_input_gives_the_same_output() -> None:
    scene = draw_scene(4)
    tiles = tile_image(scene.size, (64, 64), 0.25)
    found = [look_as_a_net(scene, tile, np.random.default_rng(i)) for i, tile in enumerate(tiles)]
    one, two = merge_tiles(scene.size, tiles, found), merge_tiles(scene.size, tiles, found)
    assert np.array_equal(one.masks.spans, two.masks.spans) and np.array_equal(one.scores, two.scores)


def crowd(seed: int) -> Instances:
    """Discs that hardly touch, each smaller than the overlap."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:260, :260]
    label_map = np.zeros((260, 260), int)
    for number in range(1, 220):
        row, col, radius = *rng.integers(0, 260, 2), rng.integers(4, 9)
        disc = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
        near = (rows - row) ** 2 + (cols - col) ** 2 <= (radius + 2) ** 2
        if not label_map[near].any():
            label_map[disc] = number
    found = Instances.from_label_map(label_map)
    return found.take(found.masks.areas > 20)


def test_seams_cost_a_detector_that_errs_next_to_nothing() -> None:
    totals = {"whole": 0, "tiles": 0}
    for seed in range(2):
        scene, rng = crowd(seed), np.random.default_rng(seed)
        for name, tile in (("whole", (260, 260)), ("tiles", (96, 96))):
            tiles = tile_image(scene.size, tile, 0.25)
            merged = merge_tiles(scene.size, tiles, [look_as_a_net(scene, each, rng) for each in tiles])
            counts = object_errors(merged, scene).counts()
            totals[name] += counts["missed"] + counts["false"] + counts["merged"] + counts["split"]
    assert totals["tiles"] <= totals["whole"] + 4


def test_nuclei_cut_by_tiles(shared_data: Path) -> None:
    dataset = open_instances(shared_data / "nuclei")
    for sample in dataset.split("test")[:4]:
        scene = connected(dataset.load_instances(sample))
        tiles = tile_image(scene.size, (96, 96), 0.25)
        merged = merge_tiles(scene.size, tiles, [look(scene, tile) for tile in tiles])
        assert len(merged) == len(scene) and masks_of(merged) == masks_of(scene)


@pytest.mark.slow
def test_all_nuclei_cut_by_tiles(shared_data: Path) -> None:
    dataset = open_instances(shared_data / "nuclei")
    for sample in dataset.split("test"):
        scene = connected(dataset.load_instances(sample))
        for tile, overlap in (((96, 96), 0.25), ((64, 64), 0.125)):
            tiles = tile_image(scene.size, tile, overlap)
            merged = merge_tiles(scene.size, tiles, [look(scene, each) for each in tiles])
            assert len(merged) == len(scene) and masks_of(merged) == masks_of(scene), sample.name
