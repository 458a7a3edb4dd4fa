"""The table of data set layouts, in the order in which format="auto" tries them."""

from __future__ import annotations

from perpixel.data.formats import (
    ade20k,
    camvid,
    cityscapes,
    coco,
    csv_lists,
    decathlon,
    labelme,
    nnunet,
    objects,
    pairs,
    voc,
)
from perpixel.data.formats.layout import SPLITS, Format, Layout

FORMATS: dict[str, Format] = {
    "nnunet": Format("dataset.json, imagesTr/CASE_0000.png, labelsTr/CASE.png", nnunet.detect, nnunet.read, True),
    "decathlon": Format("dataset.json with training [{image, label}]", decathlon.detect, decathlon.read, True),
    "voc": Format("JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt", voc.detect, voc.read),
    "cityscapes": Format("leftImg8bit/SPLIT/CITY/, gtFine/SPLIT/CITY/", cityscapes.detect, cityscapes.read),
    "ade20k": Format("images/training/, annotations/training/, objectInfo150.txt", ade20k.detect, ade20k.read),
    "camvid": Format("train/, trainannot/, val/, valannot/, ...", camvid.detect, camvid.read),
    "csv": Format("a CSV with the columns image,mask[,split][,group]", csv_lists.detect, csv_lists.read, True),
    "objects": Format("ID/images/ID.png, ID/masks/*.png, one file per object", objects.detect, objects.read),
    "coco": Format("a COCO JSON and its images", coco.detect, coco.read),
    "labelme": Format("a LabelMe JSON beside each image", labelme.detect, labelme.read),
    "pairs": Format("images/, masks/ with equal names", pairs.detect, pairs.read, True),
}

__all__ = ["FORMATS", "SPLITS", "Format", "Layout"]
