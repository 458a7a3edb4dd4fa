"""NIfTI-1 and NIfTI-2, plain or gzipped, by nibabel's headers: affine, units, scaling, and what files get wrong.

Which affine counts (nifti1.h): the sform where its code is set, else the qform where its code is set, else the voxel
sizes alone. A form that is broken (not finite, without volume) is passed over, and that is said.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from perpixel.errors import InputError, import_extra
from perpixel.files import atomic
from perpixel.images.geometry import Geometry, is_sound_affine
from perpixel.images.raw_volume import RawVolume, VolumeHeader, check_volume_size, three_sides

NIFTI_SUFFIXES = (".nii", ".nii.gz")
GZIP_START = b"\x1f\x8b"
HEADER_BYTES = {1: 348, 2: 540}
MAX_SIDE = {1: 2**15 - 1, 2: 2**31 - 1}
# Codes of length in xyzt_units, in mm; the code of files that say nothing is 0.
UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
UNIT_NAMES = {1: "metres", 3: "micrometres"}
LARGEST_VOXEL_MM = 100.0
# Two forms that place a corner further apart than this disagree.
FORMS_APART_MM = 0.1
# Deflate cannot pack more tightly.
MAX_GZIP_RATIO = 1032
SMALL_BYTES = 64 * 2**20
GZIP_LEVEL = 4
# Voxels scaled at once.
SCALED_AT_ONCE = 2**22


def is_nifti(path: Path) -> bool:
    """By its first bytes, whatever its suffix."""
    try:
        with _open(path) as file:
            start = file.read(348)
    except (OSError, EOFError, zlib.error):
        return False
    return _version(start) is not None


def nifti_header(path: Path) -> VolumeHeader:
    """The header alone; nothing behind it is unpacked."""
    with _open(path) as file:
        return _facts(path, _read_header(path, file))


def read_nifti(path: Path) -> RawVolume:
    """Header and voxels, scaled where the file says so."""
    with _open(path) as file:
        header = _read_header(path, file)
        facts = _facts(path, header)
        stored = header.get_data_dtype()
        shape = tuple(int(side) for side in header.get_data_shape())
        count = math.prod(shape)
        skip = _offset(header) - len(header.binaryblock)
        left = file.read(skip) if skip > 0 else b""
        data = file.read(count * stored.itemsize)
    if len(left) < skip or len(data) < count * stored.itemsize:
        raise InputError(
            f"{path}: cut short: {len(data) // stored.itemsize} of {count} voxels are there: copy it again from its "
            "source"
        )
    values = np.frombuffer(data, stored).reshape(shape, order="F")
    if stored.names:
        values = np.stack([values[name] for name in stored.names], axis=-1)
    values = values.reshape(*facts.geometry.shape, -1, order="F")
    array = np.moveaxis(values, -1, 0).astype(stored.newbyteorder("=") if not stored.names else np.uint8, copy=False)
    slope, intercept = _scaling(header)
    if (slope, intercept) != (1.0, 0.0):
        array = _scaled(array, slope, intercept)
    return RawVolume(facts, array)


def write_nifti(path: Path, array: np.ndarray, geometry: Geometry, header: bytes) -> Path:
    """Write (three axes) or (C, three axes) in the order of `geometry`, atomically; equal arrays give equal bytes.

    Args:
        header: of the NIfTI file whose numbers are kept (forms, codes, voxel sizes, units); empty = made new.
    """
    volumes = array if array.ndim == 4 else array[None]
    data = np.moveaxis(volumes, 0, -1)
    shape = data.shape if array.ndim == 4 else data.shape[:3]
    made = _kept_header(header) if header else _new_header(geometry)
    if max(shape) > MAX_SIDE[1] and _version(made.binaryblock) == 1:
        made = _new_header(geometry, version=2)
    made.set_data_dtype(data.dtype.newbyteorder("="))
    made.set_data_shape(shape)
    made.set_slope_inter(1, 0)
    made["cal_min"] = made["cal_max"] = 0
    made["vox_offset"] = len(made.binaryblock) + 4
    made["magic"] = b"n+1" if _version(made.binaryblock) == 1 else made["magic"]
    body = np.asfortranarray(data).astype(made.get_data_dtype(), copy=False)
    with atomic(path) as temporary, open(temporary, "wb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed:
                _write_parts(packed, made.binaryblock, body)
        else:
            _write_parts(raw, made.binaryblock, body)
    return path


def _write_parts(file: IO[bytes] | gzip.GzipFile, header: bytes, body: np.ndarray) -> None:
    file.write(header + bytes(4))
    file.write(body.reshape(-1, order="F").data)


def _kept_header(source: bytes) -> Any:
    """The numbers of a source's header, free of what belongs to its voxels."""
    nibabel = import_extra("nibabel", "volumes")
    kind = nibabel.Nifti1Header if _version(source) == 1 else nibabel.Nifti2Header
    made = kind(source, check=False)
    made["intent_code"] = 0
    made["descrip"] = b"label map or probabilities by perpixel"
    for name in ("intent_p1", "intent_p2", "intent_p3", "toffset", "slice_duration"):
        made[name] = 0
    return made


def _new_header(geometry: Geometry, version: int = 1) -> Any:
    nibabel = import_extra("nibabel", "volumes")
    made = nibabel.Nifti1Header() if version == 1 else nibabel.Nifti2Header()
    made["pixdim"][1:4] = geometry.spacing_mm
    made.set_sform(geometry.affine, code="scanner")
    # The quaternion of a qform cannot hold a shear: it is set only where it says the same.
    made.set_qform(geometry.affine, code="scanner", strip_shears=True)
    if np.abs(made.get_qform() - geometry.affine).max() > FORMS_APART_MM:
        made["qform_code"] = 0
    made.set_xyzt_units("mm")
    return made


# ---- bytes


def _open(path: Path) -> IO[bytes]:
    """The unpacked bytes, by what the file is and not by what it is called: either is found under both suffixes."""
    raw = open(path, "rb")  # noqa: SIM115
    start = raw.read(2)
    raw.seek(0)
    if start != GZIP_START:
        return raw
    raw.close()
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _version(start: bytes) -> int | None:
    """1 or 2 by length and magic, or None."""
    for order in ("<i4", ">i4"):
        length = int(np.frombuffer(start[:4], order)[0]) if len(start) >= 4 else 0
        if length == 348 and start[344:347] in (b"n+1", b"ni1"):
            return 1
        if length == 540 and start[4:7] in (b"n+2", b"ni2"):
            return 2
    return None


def _read_header(path: Path, file: IO[bytes]) -> Any:
    nibabel = import_extra("nibabel", "volumes")
    start = file.read(348)
    version = _version(start)
    if version is None:
        raise InputError(f"{path}: no NIfTI file (its first bytes are no NIfTI header): copy it again, or convert it")
    if b"ni" in (start[344:346], start[4:6]) and start[344:347] != b"n+1" and start[4:7] != b"n+2":
        raise InputError(
            f"{path}: the header of a pair .hdr and .img, whose voxels are in another file: save it as one .nii.gz"
        )
    start += file.read(HEADER_BYTES[version] - len(start))
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    header = kind.from_fileobj(io.BytesIO(start), check=False)
    stored = header.get_data_dtype()
    if stored.kind == "c":
        raise InputError(f"{path}: complex voxels: save their magnitude")
    if stored.names is None and stored.kind not in "uif":
        raise InputError(f"{path}: voxels of type {stored}: save them as whole numbers or float")
    _check_length(path, header)
    return header


def _check_length(path: Path, header: Any) -> None:
    """Refuse a header that claims more than the file can hold, before memory is asked for."""
    shape = tuple(int(side) for side in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: its header claims {shape} voxels: no volume: copy it again from its source")
    size = math.prod(shape) * header.get_data_dtype().itemsize
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP_START
    length = path.stat().st_size
    most = length * MAX_GZIP_RATIO if packed else length
    if (size > most and (size > SMALL_BYTES or not packed)) or _offset(header) > most + SMALL_BYTES:
        raise InputError(
            f"{path}: its header claims {' x '.join(map(str, shape))} voxels of {header.get_data_dtype()}, which a "
            f"file of {length} bytes cannot hold: cut short or damaged: copy it again from its source"
        )


def _offset(header: Any) -> int:
    """Where the voxels begin; 0 and nonsense mean right behind the header and its 4 bytes of flags."""
    least = len(header.binaryblock) + 4
    stored = float(header["vox_offset"])
    return max(least, int(stored)) if math.isfinite(stored) else least


def _scaling(header: Any) -> tuple[float, float]:
    """(slope, intercept); (1, 0) where there is none, or none that makes sense."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope) or header.get_data_dtype().names:
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _scaled(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Float32 of `array` * slope + intercept, computed in float64 piece by piece."""
    result = np.empty(array.shape, np.float32, order="F")
    step = max(1, SCALED_AT_ONCE // max(1, math.prod(array.shape[1:3])))
    with np.errstate(all="ignore"):
        for volume, out in zip(array, result):
            for start in range(0, array.shape[3], step):
                part = volume[..., start : start + step].astype(np.float64)
                out[..., start : start + step] = part * slope + intercept
    return result


# ---- meaning


def _facts(path: Path, header: Any) -> VolumeHeader:
    shape = tuple(int(side) for side in header.get_data_shape())
    stored = header.get_data_dtype()
    sides = three_sides(path, shape)
    further = [side for side in shape[3:] if side != 1]
    if len(further) > 1 or (further and stored.names):
        raise InputError(f"{path}: {len(shape)} axes ({' x '.join(map(str, shape))}): save volumes of three axes")
    channels = len(stored.names) if stored.names else further[0] if further else 1
    kept = np.dtype(np.uint8) if stored.names else stored.newbyteorder("=")
    check_volume_size(path, sides, channels, kept)
    affine, has_spacing, has_orientation, notes = _affine(header)
    dtype = kept.name if _scaling(header) == (1.0, 0.0) else "float32"
    geometry = Geometry(sides, affine)
    return VolumeHeader(
        "nifti", geometry, channels, dtype, has_spacing, has_orientation, tuple(notes), header.binaryblock
    )


def _affine(header: Any) -> tuple[np.ndarray, bool, bool, list[str]]:
    """(affine in mm, whether the spacing is known, whether the orientation is, what was assumed)."""
    notes: list[str] = []
    forms = {name: _form(header, name, notes) for name in ("sform", "qform")}
    found = next((form for form in forms.values() if form is not None), None)
    if found is None:
        spacing, has_spacing = _voxel_sizes(header, notes)
        what = "no orientation" if not notes else "no usable orientation"
        notes.append(f"{what} (sform and qform): its axes are taken as right, anterior, superior")
        return np.diag([*spacing, 1.0]), has_spacing, False, notes
    if forms["sform"] is not None and forms["qform"] is not None:
        notes.extend(_disagreement(forms["sform"], forms["qform"], header))
    unit, unit_notes = _unit(header, found)
    notes.extend(unit_notes)
    affine = found.copy()
    affine[:3] *= unit
    return affine, True, True, notes


def _form(header: Any, name: str, notes: list[str]) -> np.ndarray | None:
    """One of the two forms, or None where its code is 0 or it is broken."""
    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_sform() if name == "sform" else header.get_qform(), np.float64)
    except Exception as error:  # nibabel raises several kinds over a quaternion that is none
        notes.append(f"a broken {name} ({error}): passed over")
        return None
    if not is_sound_affine(affine):
        notes.append(f"a broken {name} (not finite, or an axis without length): passed over")
        return None
    return affine


def _voxel_sizes(header: Any, notes: list[str]) -> tuple[list[float], bool]:
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    unit = UNITS_MM.get(int(header["xyzt_units"]) % 8, 1.0)
    if not (np.isfinite(sizes).all() and (sizes > 1e-9).all() and (sizes < 1e9).all()):
        notes.append(f"voxel sizes of {', '.join(f'{size:g}' for size in sizes)}: 1 mm is assumed")
        return [1.0, 1.0, 1.0], False
    scaled = sizes * unit
    return (scaled if scaled.max() <= LARGEST_VOXEL_MM else sizes).tolist(), True


def _disagreement(sform: np.ndarray, qform: np.ndarray, header: Any) -> list[str]:
    last = np.asarray(header.get_data_shape()[:3], float) - 1
    apart = max(np.linalg.norm((sform - qform) @ [*corner, 1.0]) for corner in (np.zeros(3), last))
    if apart <= FORMS_APART_MM:
        return []
    return [f"sform and qform place the volume up to {apart:.3g} mm apart: the sform is taken"]


def _unit(header: Any, affine: np.ndarray) -> tuple[float, list[str]]:
    """What the lengths are multiplied by to be mm; a unit that would make voxels larger than 100 mm is not believed."""
    code = int(header["xyzt_units"]) % 8
    unit = UNITS_MM.get(code, 1.0)
    if unit == 1.0:
        return 1.0, []
    if unit * np.linalg.norm(affine[:3, :3], axis=0).max() > LARGEST_VOXEL_MM:
        return 1.0, [f"lengths in {UNIT_NAMES[code]} would make voxels of more than 100 mm: mm is assumed"]
    return unit, [f"lengths in {UNIT_NAMES[code]} were turned into mm"]
