"""The table of the layouts of instance data, in the order in which format="auto" tries them."""

from __future__ import annotations

from perpixel.data.formats.layout import Format
from perpixel.data.instances import cityscapes, coco, label_images, labelme, separate_files, voc, yolo

INSTANCE_FORMATS: dict[str, Format] = {
    "voc": Format("JPEGImages/, SegmentationClass/, SegmentationObject/", voc.detect, voc.read),
    "cityscapes": Format("leftImg8bit/, gtFine/SPLIT/CITY/*_instanceIds.png", cityscapes.detect, cityscapes.read),
    "objects": Format(
        "ID/images/ID.png, ID/masks/*.png, one file per object", separate_files.detect, separate_files.read
    ),
    "yolo": Format("data.yaml, images/, labels/*.txt: class x y x y ...", yolo.detect, yolo.read),
    "coco": Format("a COCO JSON and its images", coco.detect, coco.read),
    "labelme": Format("a LabelMe JSON beside each image", labelme.detect, labelme.read),
    "label_images": Format("images/, labels/: one number per object", label_images.detect, label_images.read),
}
