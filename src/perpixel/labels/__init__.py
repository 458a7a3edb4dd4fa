"""Label maps and instance maps: classes, colours, reading, relabelling, outlines, pictures."""

from perpixel.labels.borders import (
    check_gaps,
    distance_to,
    edge_weights,
    gap_weights,
    objects_of,
    signed_distance,
)
from perpixel.labels.classes import ClassInfo, ClassTable, FileValue
from perpixel.labels.colours import default_colours
from perpixel.labels.maps import boundaries, connected_components, relabel_sequential, resize_label_map
from perpixel.labels.pictures import colourise, error_map, overlay
from perpixel.labels.read import RawMask, read_mask

__all__ = [
    "ClassInfo",
    "ClassTable",
    "FileValue",
    "RawMask",
    "boundaries",
    "check_gaps",
    "colourise",
    "connected_components",
    "default_colours",
    "distance_to",
    "edge_weights",
    "error_map",
    "gap_weights",
    "objects_of",
    "overlay",
    "read_mask",
    "relabel_sequential",
    "resize_label_map",
    "signed_distance",
]
