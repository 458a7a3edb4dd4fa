"""TIFF stacks, DICOM series and zarr as volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from perpixel.errors import InputError
from perpixel.images import probe_volume, read_volume, read_zarr_region, write_volume

SHAPE = (4, 5, 6)


def values(dtype: str = "uint16") -> np.ndarray:
    return np.arange(120).reshape(SHAPE).astype(dtype)


# ---- TIFF


def imagej(path: Path, array: np.ndarray, unit: str = "um", axes: str = "ZYX") -> Path:
    tifffile.imwrite(
        path, array, imagej=True, resolution=(4.0, 2.0), metadata={"axes": axes, "spacing": 3.0, "unit": unit}
    )
    return path


def test_an_imagej_stack(tmp_path: Path) -> None:
    path = imagej(tmp_path / "x.tif", values())
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], values())
    assert volume.spacing_mm == pytest.approx((0.003, 0.0005, 0.00025))
    assert volume.geometry.orientation == "SPL" and volume.notes == ()
    info = probe_volume(path)
    assert (info.geometry.shape, info.channels, info.dtype) == (SHAPE, 1, "uint16")


def test_an_imagej_stack_with_channels(tmp_path: Path) -> None:
    stack = np.stack([values(), values() + 500], axis=1)  # (Z, C, Y, X)
    volume = read_volume(imagej(tmp_path / "x.tif", stack, axes="ZCYX"))
    np.testing.assert_array_equal(volume.array, [values(), values() + 500])


def test_an_ome_stack(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3, "PhysicalSizeZ": 1.5, "PhysicalSizeZUnit": "mm"}
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, values("float32"), ome=True, metadata={"axes": "ZYX", **sizes})
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((1.5, 0.0003, 0.0002))
    assert volume.array.dtype == np.float32


@pytest.mark.parametrize("unit", ["pixel", ""])
def test_a_stack_without_voxel_size(tmp_path: Path, unit: str) -> None:
    path = imagej(tmp_path / "x.tif", values(), unit)
    volume = read_volume(path)
    assert volume.spacing_mm == (1, 1, 1) and not volume.source.header.has_spacing
    assert "no voxel size" in volume.notes[0]


def test_a_stack_there_and_back(tmp_path: Path) -> None:
    volume = read_volume(imagej(tmp_path / "x.tif", values()))
    labels = (values() % 3).astype(np.int64)
    again = read_volume(write_volume(tmp_path / "y.tif", labels, volume.source))
    np.testing.assert_array_equal(again.array[0], labels)
    assert again.array.dtype == np.uint8
    assert again.spacing_mm == pytest.approx(volume.spacing_mm, rel=1e-4)
    with pytest.raises(InputError, match="do not fit an ImageJ stack"):
        write_volume(tmp_path / "y.tif", labels - 70000, volume.source)


def test_one_page_is_no_volume(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", values()[0])
    with pytest.raises(InputError, match="holds one slice of 5 x 6 pixels"):
        read_volume(tmp_path / "x.tif")


def test_a_stack_over_time_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.stack([values(), values()]), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="a stack of axes TZYX"):
        read_volume(tmp_path / "x.tif")


# ---- DICOM

STEP = 2.5


def series(folder: Path, *, count: int = 4, **changes: Any) -> Path:
    """An axial CT: values 0..29 plus 30 a slice, names in reversed order; `changes` set the tags of each slice."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom (extra dicom)")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(exist_ok=True)
    uid = generate_uid(entropy_srcs=["a"])
    for number in range(count):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID = uid
        data.Modality, data.SamplesPerPixel, data.PhotometricInterpretation = "CT", 1, "MONOCHROME2"
        data.Rows, data.Columns, data.PixelSpacing = 5, 6, [0.5, 0.75]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10, -20, 100 + STEP * number]
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 2, -1000
        data.PixelData = (np.arange(30) + 30 * number).astype(np.uint16).tobytes()
        for name, change in changes.items():
            value = change(number) if callable(change) else change
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        pydicom.dcmwrite(folder / f"{9 - number}.dcm", data, enforce_file_format=True)
    return folder


def test_a_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "notes.txt").write_text("left alone")
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array[0], np.arange(120).reshape(4, 5, 6) * 2.0 - 1000)
    assert volume.spacing_mm == pytest.approx((2.5, 0.5, 0.75))
    assert volume.geometry.orientation == "SPL" and volume.notes == ()
    # 10 mm to the right of, 20 mm in front of and 100 mm above the origin.
    np.testing.assert_allclose(volume.geometry.position_mm((0, 0, 0)), (10, 20, 100))
    assert probe_volume(folder).geometry.shape == (4, 5, 6)
    again = read_volume(write_volume(tmp_path / "x.nii.gz", volume.array, volume.source))
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    assert again.source.geometry.shape == (6, 5, 4) and again.source.geometry.orientation == "LPS"


def test_a_sagittal_series_is_turned(tmp_path: Path) -> None:
    folder = series(
        tmp_path / "mr",
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImagePositionPatient=lambda number: [5 * number, 0, 0],
    )
    volume = read_volume(folder)
    # Rows run down (inferior), columns to the back, slices to the left.
    assert volume.array.shape == (1, 5, 6, 4) and volume.spacing_mm == pytest.approx((0.5, 0.75, 5))
    assert volume.array[0, 4, 0, 1] == 2 * 30 - 1000


def test_a_tilted_gantry_is_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", ImagePositionPatient=lambda number: [0, 0.8 * number, 2.5 * number])
    assert "tilted gantry" in read_volume(folder).notes[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"SeriesInstanceUID": lambda n: f"1.2.{n % 2}"}, r"2 DICOM series are mixed \(2 files of 1\.2\."),
        ({"ImagePositionPatient": lambda n: [0, 0, n + (n > 1)]}, "gaps between slices differ from the usual"),
        ({"ImagePositionPatient": lambda n: [0, 0, n // 2]}, r"two slices at one position \("),
        ({"PixelSpacing": lambda n: [1, 1 + (n == 2)]}, "another pixel spacing than"),
        ({"ImageOrientationPatient": lambda n: [1, 0, 0, 0, 0, 1] if n == 3 else [1, 0, 0, 0, 1, 0]}, "a localiser"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"NumberOfFrames": 3}, "a DICOM file of several frames"),
        ({"PixelData": b"12"}, "cannot be read as a volume"),
    ],
)
def test_a_bad_series(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        read_volume(series(tmp_path / "ct", **changes))


def test_one_dicom_file(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", count=1)
    with pytest.raises(InputError, match="1 DICOM slices"):
        read_volume(folder)
    with pytest.raises(InputError, match="a single DICOM file: give the folder"):
        read_volume(folder / "9.dcm")


# ---- zarr


def ome_zarr(folder: Path, array: np.ndarray, axes: str, scale: list[float], *, version: int = 2) -> Path:
    zarr = pytest.importorskip("zarr", reason="OME-Zarr needs zarr (extra zarr)")
    group = zarr.open_group(str(folder), mode="w", zarr_format=version)
    stored = group.create_array("0", shape=array.shape, dtype=array.dtype, chunks=(2,) * array.ndim)
    stored[...] = array
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    named = [{"name": axis, **kinds.get(axis, {"type": "space", "unit": "micrometer"})} for axis in axes]
    steps = [{"type": "scale", "scale": scale}]
    content = {"multiscales": [{"axes": named, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]}
    group.attrs.update(content if version == 2 else {"ome": content})
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path: Path, version: int) -> None:
    array = np.stack([values(), values() + 1])
    path = ome_zarr(tmp_path / "x.zarr", array, "czyx", [1, 2000, 1000, 500], version=version)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing_mm == pytest.approx((2, 1, 0.5)) and volume.notes == ()
    assert probe_volume(path).channels == 2
    part = read_zarr_region(path, (slice(1, 3), slice(0, 2), slice(4, 6)))
    np.testing.assert_array_equal(part, array[:, 1:3, 0:2, 4:6])
    written = write_volume(tmp_path / "y.tif", values() % 2, volume.source)
    assert read_volume(written).spacing_mm == pytest.approx((2, 1, 0.5))


def test_a_channel_axis_that_comes_last(tmp_path: Path) -> None:
    array = np.stack([values(), values() + 1], axis=-1)
    volume = read_volume(ome_zarr(tmp_path / "x.zarr", array, "zyxc", [1, 1, 1, 1]))
    np.testing.assert_array_equal(volume.array[1], values() + 1)


def test_a_plain_array(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="OME-Zarr needs zarr (extra zarr)")
    zarr.save_array(str(tmp_path / "x.zarr"), values())
    volume = read_volume(tmp_path / "x.zarr")
    np.testing.assert_array_equal(volume.array[0], values())
    assert "no voxel size" in volume.notes[0]


def test_bad_zarr(tmp_path: Path) -> None:
    films = ome_zarr(tmp_path / "t.zarr", np.stack([values()] * 2), "tzyx", [1, 1, 1, 1])
    with pytest.raises(InputError, match="2 time points"):
        read_volume(films)
    flat = ome_zarr(tmp_path / "f.zarr", values()[0], "yx", [1, 1])
    with pytest.raises(InputError, match="holds one slice"):
        read_volume(flat)
    broken = ome_zarr(tmp_path / "b.zarr", values(), "zyx", [1, 1, 1])
    attributes = json.loads((broken / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = "7"
    (broken / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(InputError, match="cannot be read as a volume"):
        read_volume(broken)


@pytest.mark.parametrize(("package", "extra"), [("pydicom", "dicom"), ("zarr", "zarr")])
def test_the_install_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    if package == "zarr":
        (tmp_path / ".zarray").write_text("{}")
    else:
        for name in "ab":
            (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=rf"pip install 'perpixel\[{extra}\]'"):
        read_volume(tmp_path)
