"""Which way for which objects: the choice, and a reason that names what decided."""

from __future__ import annotations

from dataclasses import replace

from perpixel.data import InstanceFacts
from perpixel.planning import choose_way

NUCLEI = InstanceFacts(
    images=178,
    empty_images=0,
    objects=7192,
    objects_per_image=27.0,
    most_objects=258,
    median_area=313.0,
    median_side=17.7,
    size_spread=4.0,
    small_share=0.9,
    contact_share=0.33,
    overlap_share=0.0,
    frame_share=0.19,
    relative_side=0.043,
)
PERSONS = replace(
    NUCLEI,
    objects=200,
    objects_per_image=2.0,
    most_objects=14,
    median_area=20000.0,
    size_spread=8.0,
    contact_share=0.4,
    overlap_share=0.02,
    relative_side=0.25,
)


def test_crowded_small_objects_get_the_map() -> None:
    for settings in ({}, {"on_gpu": True}, {"is_pretrained": True}, {"budget_s": 900.0}):
        way, _ = choose_way(NUCLEI, **settings)
        assert way == "unet_watershed"
    assert "up to 258 objects in an image" in choose_way(NUCLEI)[1]
    way, reason = choose_way(replace(NUCLEI, most_objects=90))
    assert way == "unet_watershed" and "27 objects in the median image, small (4.3% of the image's side)" in reason


def test_few_large_objects_get_the_detector() -> None:
    assert choose_way(PERSONS)[0] == "mask_rcnn"
    assert choose_way(PERSONS, budget_s=3600, on_gpu=True)[0] == "mask_rcnn"
    assert choose_way(PERSONS, budget_s=900, is_pretrained=True)[0] == "mask_rcnn"


def test_without_time_or_weights_the_map_is_taken_unless_objects_overlap_heavily() -> None:
    way, reason = choose_way(PERSONS, budget_s=900)
    assert way == "unet_watershed" and "900 s on a CPU are too few" in reason
    assert choose_way(replace(PERSONS, overlap_share=0.3), budget_s=900)[0] == "unet_watershed"
    way, reason = choose_way(replace(PERSONS, overlap_share=0.5), budget_s=900)
    assert way == "mask_rcnn" and "50% of the objects overlap" in reason


def test_overlapping_objects_get_the_detector_where_it_can_be_trained() -> None:
    assert choose_way(replace(NUCLEI, overlap_share=0.3), on_gpu=True)[0] == "mask_rcnn"


def test_touching_objects_of_one_size_get_the_map() -> None:
    tiles = replace(PERSONS, objects_per_image=12.0, contact_share=0.9, size_spread=1.5, overlap_share=0.0)
    assert choose_way(tiles)[0] == "unet_watershed"
    assert choose_way(replace(tiles, size_spread=9.0))[0] == "mask_rcnn"


def test_no_object_at_all() -> None:
    nothing = replace(NUCLEI, objects=0, objects_per_image=0.0, most_objects=0, relative_side=0.0)
    assert choose_way(nothing) == ("unet_watershed", "no object is known: the quicker way")
