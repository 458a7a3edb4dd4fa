"""NIfTI: every orientation there and back, what files get wrong, and one sentence for each bad one."""

from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.images import Geometry, probe_volume, read_raw_volume, read_volume, to_canonical, write_volume

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel (extra volumes)")

SHAPE = (3, 4, 5)
ROUND_TRIPS = {"axis": 48, "oblique": 48 * 3}


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
    """A NIfTI-1 file by nibabel; `fields` are then written into its header as they are."""
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    nibabel.save(image, path)
    if fields:
        patch(path, **fields)
    return path


def patch(path: Path, **fields: Any) -> None:
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    data = gzip.decompress(data) if packed else data
    header = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    data = header.binaryblock + data[348:]
    path.write_bytes(gzip.compress(data) if packed else data)


def affines() -> list[np.ndarray]:
    """48 orders and flips of the axes, each straight and under three rotations, spacings 0.7, 1.5, 3 mm."""
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        for angle, about in ((0.0, (1, 0, 0)), (14.0, (1, 2, 3)), (31.0, (0, 1, -1)), (43.0, (1, 0, 0))):
            axis = np.array(about) / np.linalg.norm(about)
            cross = np.cross(np.eye(3), axis) * -1
            turn = np.eye(3) + np.sin(np.radians(angle)) * cross + (1 - np.cos(np.radians(angle))) * cross @ cross
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, list(order)] * signs * (0.7, 1.5, 3.0)
            affine[:3, :3] = turn @ affine[:3, :3]
            affine[:3, 3] = (-31.25, 7.5, 112.0)
            found.append(affine)
    return found


def test_every_orientation_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # 192 waits for the disk
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.int16)
    count = 0
    for number, affine in enumerate(affines()):
        source = save(tmp_path / "image.nii", labels, affine)
        stored = nibabel.load(source)
        volume = read_volume(source)
        assert volume.geometry.orientation == "SPL"
        assert sorted(volume.spacing_mm) == pytest.approx([0.7, 1.5, 3.0])
        # Reading by nibabel's own canonical form (RAS) says the same.
        canonical = nibabel.as_closest_canonical(stored)
        if number % 4 < 3:  # at 43 degrees two axes are nearly as near, and any order is right
            expected = np.asarray(canonical.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]
            np.testing.assert_array_equal(volume.array[0], expected)
        written = write_volume(tmp_path / "labels.nii", volume.array[0], volume.source)
        again = nibabel.load(written)
        assert (again.affine == stored.affine).all() and (np.asarray(again.dataobj) == labels).all()
        assert again.get_data_dtype() == np.uint8
        kept = ("qform_code", "sform_code", "pixdim", "xyzt_units", "quatern_b", "srow_x", "srow_y", "srow_z")
        assert all((again.header[name] == stored.header[name]).all() for name in kept)
        count += 1
    assert count == sum(ROUND_TRIPS.values()) == 192


def test_a_voxel_keeps_its_place_in_the_world(tmp_path: Path) -> None:
    for affine in affines()[::7]:
        array = np.zeros(SHAPE, np.uint8)
        array[2, 1, 3] = 1
        volume = read_volume(save(tmp_path / "one.nii", array, affine))
        (index,) = np.argwhere(volume.array[0])
        np.testing.assert_allclose(volume.geometry.position_mm(index), affine[:3] @ (2, 1, 3, 1), atol=1e-4)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "packed_inside.nii", "plain_inside.nii.gz"])
def test_packed_or_not_whatever_the_name_says(tmp_path: Path, name: str) -> None:
    array = np.arange(60, dtype=np.int16).reshape(SHAPE)
    path = save(tmp_path / name.replace("packed_inside", "y").replace("plain_inside", "y"), array)
    if name == "packed_inside.nii":
        path.write_bytes(gzip.compress(path.read_bytes()))
    if name == "plain_inside.nii.gz":
        path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(read_raw_volume(path).array[0], array)
    assert probe_volume(path).geometry.shape == (5, 4, 3)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_every_type(tmp_path: Path, dtype: str, version: int, byte_order: str) -> None:
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    array = np.arange(60).reshape(SHAPE).astype(dtype)
    header = (nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header)(endianness=byte_order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(byte_order))
    path = tmp_path / "x.nii"
    nibabel.save(kind(array, np.diag([2.0, 2.0, 2.0, 1.0]), header), path)
    volume = read_volume(path)
    kept = {"u1": "uint8", "i1": "int16", "i2": "int16", "u2": "uint16"}.get(dtype, "float32")
    assert volume.array.dtype == kept == probe_volume(path).dtype
    np.testing.assert_array_equal(volume.array[0], array.transpose(2, 1, 0)[:, ::-1, ::-1])
    again = nibabel.load(write_volume(tmp_path / "y.nii.gz", volume.array[0].astype(int), volume.source))
    np.testing.assert_array_equal(np.asarray(again.dataobj), array)
    np.testing.assert_array_equal(again.affine, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_scaled_whole_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "ct.nii.gz", np.full(SHAPE, 100, np.int16), scl_slope=0.5, scl_inter=-1024)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32 and probe_volume(path).dtype == "float32"
    assert (volume.array == -974).all()


@pytest.mark.parametrize(("slope", "intercept"), [(0, 5), (np.nan, np.nan), (np.inf, 1)])
def test_scaling_that_makes_no_sense_is_none(tmp_path: Path, slope: float, intercept: float) -> None:
    path = save(tmp_path / "x.nii", np.full(SHAPE, 3, np.int16), scl_slope=slope, scl_inter=intercept)
    assert (read_volume(path).array == 3).all()


def test_four_dimensions_are_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (*SHAPE, 2)).astype(np.uint8)
    path = save(tmp_path / "x.nii.gz", array)
    volume = read_volume(path)
    assert volume.array.shape == (2, 5, 4, 3) and probe_volume(path).channels == 2
    np.testing.assert_array_equal(volume.array[1], array[..., 1].transpose(2, 1, 0)[:, ::-1, ::-1])
    both = nibabel.load(write_volume(tmp_path / "probs.nii.gz", volume.array.astype(np.float32), volume.source))
    np.testing.assert_array_equal(np.asarray(both.dataobj), array)
    one = nibabel.load(write_volume(tmp_path / "label.nii.gz", volume.array[0], volume.source))
    assert one.shape == SHAPE


def test_colours_are_channels(tmp_path: Path) -> None:
    colours = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    colours["G"] = 7
    volume = read_volume(save(tmp_path / "x.nii", colours))
    assert volume.array.shape == (3, 5, 4, 3)
    assert [int(channel.max()) for channel in volume.array] == [0, 7, 0]


def test_modalities_are_put_together(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    one = save(tmp_path / "a_0000.nii.gz", np.full(SHAPE, 1, np.uint8), affine)
    # The same grid, stored in another order of its axes.
    turned = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    other = save(tmp_path / "a_0001.nii.gz", np.full((5, 4, 3), -2, np.int16), turned)
    volume = read_volume([one, other])
    assert volume.array.shape == (2, 5, 4, 3) and volume.array.dtype == np.int16
    assert volume.array[0].max() == 1 and volume.array[1].max() == -2
    moved = save(tmp_path / "b.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([-1.0, -1.0, 3.0, 1.0]))
    with pytest.raises(InputError, match=r"b\.nii\.gz: does not lie on a_0000\.nii\.gz \(spacing 3 x 1 x 1 mm against"):
        read_volume([one, moved])


# ---- affines


def test_without_orientation(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.nii", np.zeros(SHAPE, np.uint8), sform_code=0, qform_code=0, pixdim=[1, 2, 3, 4, 0, 0, 0, 0]
    )
    volume = read_volume(path)
    assert volume.spacing_mm == (4, 3, 2)
    assert not volume.source.header.has_orientation and volume.source.header.has_spacing
    assert volume.notes == ("no orientation (sform and qform): its axes are taken as right, anterior, superior",)
    again = nibabel.load(write_volume(tmp_path / "y.nii", volume.array[0], volume.source))
    assert (int(again.header["sform_code"]), int(again.header["qform_code"])) == (0, 0)


@pytest.mark.parametrize("size", [0, np.nan, np.inf])
def test_without_voxel_sizes(tmp_path: Path, size: float) -> None:
    pixdim = [1, size, 1, 1, 0, 0, 0, 0]
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8), sform_code=0, qform_code=0, pixdim=pixdim)
    volume = read_volume(path)
    assert volume.spacing_mm == (1, 1, 1) and not volume.source.header.has_spacing
    assert "1 mm is assumed" in volume.notes[0]


@pytest.mark.parametrize("broken", [[0, 0, 0, 5], [np.nan, 0, 0, 0]])
def test_a_broken_sform_falls_back_on_the_qform(tmp_path: Path, broken: list[float]) -> None:
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8), np.diag([-2.0, 2.0, 2.0, 1.0]))
    patch(path, srow_x=broken, qform_code=1)
    volume = read_volume(path)
    assert volume.source.geometry.orientation == "LAS"
    assert volume.notes == ("a broken sform (not finite, or an axis without length): passed over",)
    assert volume.source.header.has_orientation


def test_two_broken_forms(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8))
    patch(path, srow_x=[0, 0, 0, 0], qform_code=1, quatern_b=3)
    volume = read_volume(path)
    assert len(volume.notes) == 3 and "no usable orientation" in volume.notes[-1]
    assert not volume.source.header.has_orientation


def test_forms_that_disagree(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8), np.diag([1.0, 1.0, 1.0, 1.0]))
    patch(path, qform_code=1, qoffset_x=12)
    volume = read_volume(path)
    assert volume.notes == ("sform and qform place the volume up to 12 mm apart: the sform is taken",)
    assert volume.source.geometry.affine[0, 3] == 0


@pytest.mark.parametrize(
    ("unit", "size", "spacing", "said"),
    [(3, 500.0, 0.5, "micrometres were turned"), (1, 0.001, 1.0, "metres were turned"), (1, 1.0, 1.0, "mm is assumed")],
)
def test_units_of_length(tmp_path: Path, unit: int, size: float, spacing: float, said: str) -> None:
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8), np.diag([size, size, size, 1.0]), xyzt_units=unit)
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((spacing,) * 3)
    assert said in volume.notes[0]
    again = nibabel.load(write_volume(tmp_path / "y.nii", volume.array[0], volume.source))
    assert int(again.header["xyzt_units"]) == unit
    np.testing.assert_array_equal(again.affine, nibabel.load(path).affine)


# ---- writing


def test_a_new_file_from_a_geometry(tmp_path: Path) -> None:
    affine = affines()[5]
    stored = Geometry(SHAPE, affine)
    canonical = to_canonical(stored).geometry(stored)
    values = np.random.default_rng(0).integers(0, 300, canonical.shape)
    volume = read_volume(write_volume(tmp_path / "x.nii.gz", values, canonical))
    np.testing.assert_array_equal(volume.array[0], values)
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-5)
    assert volume.array.dtype == np.uint16 and volume.notes == ()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "uint8"), ([0, 256], "uint16"), ([-1, 4], "int16"), ([0, 70000], "int32"), ([0.0, 0.5], "float32")],
)
def test_the_smallest_type(tmp_path: Path, values: list[float], dtype: str) -> None:
    array = np.resize(np.array(values), (2, 3, 4))
    path = write_volume(tmp_path / "x.nii", array, Geometry((2, 3, 4), np.eye(4)))
    assert nibabel.load(path).get_data_dtype() == dtype


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    geometry = Geometry((4, 4, 4), np.eye(4))
    paths = [write_volume(tmp_path / name, np.ones((4, 4, 4)), geometry) for name in ("a.nii.gz", "b.nii.gz")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_writing_is_refused(tmp_path: Path) -> None:
    source = read_volume(save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8))).source
    with pytest.raises(InputError, match=r"an array of \(3, 4, 5\) voxels does not lie on its source of \(5, 4, 3\)"):
        write_volume(tmp_path / "y.nii", np.zeros(SHAPE), source)
    with pytest.raises(InputError, match=r"volumes are written as \.nii\.gz, \.nii"):
        write_volume(tmp_path / "y.png", np.zeros((5, 4, 3)), source)
    with pytest.raises(InputError, match="do not fit 32 bits"):
        write_volume(tmp_path / "y.nii", np.full((5, 4, 3), 2**40), source)


# ---- bad files


def flat(path: Path) -> None:
    save(path, np.zeros((7, 6), np.uint8))


def one_slice(path: Path) -> None:
    save(path, np.zeros((7, 6, 1), np.uint8))


def film(path: Path) -> None:
    save(path, np.zeros((3, 3, 3, 40), np.uint8))


def five_axes(path: Path) -> None:
    save(path, np.zeros((3, 3, 3, 2, 2), np.uint8))


def complex_voxels(path: Path) -> None:
    save(path, np.zeros(SHAPE, np.complex64))


def not_a_number(path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, :2] = (np.nan, np.inf)
    save(path, array)


def cut_short(path: Path) -> None:
    save(path, np.zeros((20, 20, 20), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])


def cut_short_inside(path: Path) -> None:
    save(path, np.zeros(SHAPE, np.uint8))
    path.write_bytes(gzip.compress(path.read_bytes()[:380]))


def huge(path: Path) -> None:
    save(path, np.zeros(SHAPE, np.float64), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])


def pair(path: Path) -> None:
    save(path, np.zeros(SHAPE, np.uint8), magic=b"ni1")


def text(path: Path) -> None:
    path.write_text("no volume" * 100)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def negative(path: Path) -> None:
    save(path, np.zeros(SHAPE, np.uint8), dim=[3, 3, -4, 5, 1, 1, 1, 1])


BAD = {
    flat: "holds one slice of 7 x 6 pixels, where a volume is needed",
    one_slice: "holds one slice of 7 x 6 pixels, where a volume is needed",
    film: r"a 4-D file of 40 volumes, more than 16 channels \(a time series\?\)",
    five_axes: r"5 axes \(3 x 3 x 3 x 2 x 2\)",
    complex_voxels: "complex voxels: save their magnitude",
    not_a_number: "2 of 60 voxels are NaN or infinite",
    cut_short: "cannot hold: cut short or damaged",
    cut_short_inside: "cut short: 28 of 60 voxels are there",
    huge: "cannot hold: cut short or damaged",
    pair: r"the header of a pair \.hdr and \.img",
    text: "no NIfTI file",
    nothing: r"an empty file \(0 bytes\)",
    negative: r"its header claims \(3, -4, 5\) voxels",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_one_sentence_for_a_bad_file(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "bad.nii"
    make(path)
    with pytest.raises(InputError, match=BAD[make]) as error:
        read_volume(path)
    assert str(error.value).startswith(f"{path}: ") and str(error.value).count("\n") == 0


def test_missing_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "x.nii.gz")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(400))
    with pytest.raises(InputError, match=r"no volume .* pictures are read in two dimensions"):
        read_volume(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"a folder without DICOM files and no zarr"):
        read_volume(tmp_path)
    with pytest.raises(InputError, match="give one path or more"):
        read_volume([])


def test_without_nibabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.nii", np.zeros(SHAPE, np.uint8))
    import sys

    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r"pip install 'perpixel\[volumes\]'"):
        read_volume(path)
