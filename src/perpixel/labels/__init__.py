"""Label maps, instance maps and objects: classes, colours, reading, relabelling, overlaps, outlines, pictures."""

from perpixel.labels.borders import (
    check_gaps,
    distance_to,
    edge_weights,
    gap_weights,
    objects_of,
    signed_distance,
)
from perpixel.labels.classes import ClassInfo, ClassTable, FileValue
from perpixel.labels.coco_json import coco_entries
from perpixel.labels.colours import default_colours
from perpixel.labels.instances import (
    VOID,
    Instances,
    is_in_contact,
    join_instances,
    outline_map,
    runs_of_label_map,
    union_of,
)
from perpixel.labels.maps import boundaries, connected_components, relabel_sequential, resize_label_map
from perpixel.labels.object_pictures import distinct_colours, draw_objects
from perpixel.labels.overlap import OverlapTable, overlap_table, overlaps
from perpixel.labels.pictures import colourise, error_map, overlay
from perpixel.labels.planes import (
    SHOWN_PERCENT,
    Plane,
    background_index,
    cut_planes,
    draw_planes,
    middle_of_structures,
    middle_planes,
)
from perpixel.labels.polygons import outline_polygons, polygon_spans
from perpixel.labels.read import RawMask, read_mask
from perpixel.labels.rle import Runs, counts_of_text, merge_spans, spans_of_counts, spans_of_mask, text_of_counts
from perpixel.labels.volumes import LabelVolume, read_label_volume
from perpixel.labels.watershed import Grouping, fill_holes, group_objects, persistent_basins
from perpixel.labels.windows import Window, cut_runs, place_runs

__all__ = [
    "SHOWN_PERCENT",
    "VOID",
    "ClassInfo",
    "ClassTable",
    "FileValue",
    "Grouping",
    "Instances",
    "LabelVolume",
    "OverlapTable",
    "Plane",
    "RawMask",
    "Runs",
    "Window",
    "background_index",
    "boundaries",
    "check_gaps",
    "coco_entries",
    "colourise",
    "connected_components",
    "counts_of_text",
    "cut_planes",
    "cut_runs",
    "default_colours",
    "distance_to",
    "distinct_colours",
    "draw_objects",
    "draw_planes",
    "edge_weights",
    "error_map",
    "fill_holes",
    "gap_weights",
    "group_objects",
    "is_in_contact",
    "join_instances",
    "merge_spans",
    "middle_of_structures",
    "middle_planes",
    "objects_of",
    "outline_map",
    "outline_polygons",
    "overlap_table",
    "overlaps",
    "overlay",
    "persistent_basins",
    "place_runs",
    "polygon_spans",
    "read_label_volume",
    "read_mask",
    "relabel_sequential",
    "resize_label_map",
    "runs_of_label_map",
    "signed_distance",
    "spans_of_counts",
    "spans_of_mask",
    "text_of_counts",
    "union_of",
]
