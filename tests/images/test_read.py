"""Reading images: every format, what is kept of it, and what is refused."""

from __future__ import annotations

import re
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from perpixel.errors import InputError
from perpixel.images import IMAGE_SUFFIXES, ImageInfo, guarded, probe_image, read_image, read_raw


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


# ---- every format


def test_the_header_promises_what_is_read(format_file: Path) -> None:
    info = probe_image(format_file)
    image = read_image(format_file, frame=None if info.frames == 1 else info.frames - 1)
    assert (*image.shape, image.dtype.name) == (info.height, info.width, info.channels, info.dtype)
    assert image.dtype in (np.uint8, np.uint16, np.float32)
    assert image.flags.c_contiguous and image.flags.writeable and type(image) is np.ndarray


def test_a_cut_file_is_refused_or_read_but_never_more(format_file: Path) -> None:
    data = format_file.read_bytes()
    for share in (0.03, 0.5, 0.95):
        format_file.write_bytes(data[: int(len(data) * share)])
        try:
            probe_image(format_file)
            read_image(format_file, frame=0)
        except InputError as error:
            assert str(error).startswith(f"{format_file}: ") and "\n" not in str(error)


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(re.fullmatch(r"\.[a-z]+", suffix) for suffix in IMAGE_SUFFIXES)
    assert {".png", ".jpg", ".tif", ".webp"} <= IMAGE_SUFFIXES


def test_the_suffix_may_lie(tmp_path: Path) -> None:
    tiff, png = tmp_path / "a.png", tmp_path / "b.tif"
    tifffile.imwrite(tiff, noise(4, 5, dtype=np.uint16))
    save(png, noise(4, 5), format="PNG")
    assert probe_image(tiff) == ImageInfo(4, 5, 1, "uint16", 1)
    assert read_image(png).shape == (4, 5, 1)


# ---- kinds of pixel


def test_grey_palette_and_bits(tmp_path: Path) -> None:
    grey = np.array([[0, 7], [200, 255]], np.uint8)
    assert read_image(save(tmp_path / "g.png", grey)).tolist() == grey[..., None].tolist()
    assert read_image(save(tmp_path / "b.png", grey > 100)).ravel().tolist() == [0, 0, 255, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparent_palette_entries_make_an_alpha_channel(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(tmp_path / "p.png", transparency=bytes([255, 0, 100]))
    assert read_image(tmp_path / "p.png").tolist() == [[[9, 9, 9, 255], [8, 8, 8, 0], [7, 7, 7, 100]]]


@pytest.mark.parametrize("alpha", [255, 254])
def test_alpha_is_dropped_only_where_it_is_opaque_everywhere(tmp_path: Path, alpha: int) -> None:
    pixels = noise(3, 4, 4)
    pixels[..., 3] = 255
    pixels[2, 3, 3] = alpha
    path = save(tmp_path / "a.png", pixels)
    expected = pixels if alpha == 254 else pixels[..., :3]
    assert read_image(path).tolist() == expected.tolist()
    assert probe_image(path).channels == expected.shape[2]


def test_16_bit_colour_png_keeps_its_16_bits(tmp_path: Path) -> None:
    for channels in (3, 4):
        pixels = noise(5, 6, channels, dtype=np.uint16)
        order = [2, 1, 0, 3][:channels]
        path = tmp_path / f"{channels}.png"
        path.write_bytes(cv2.imencode(".png", pixels[..., order])[1].tobytes())
        assert np.array_equal(read_image(path), pixels)


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">4H", 1, 65535, 258, alpha) for alpha in (65535, 7))
    path = png_file(tmp_path / "la.png", (2, 2), bits=16, colour_type=4, rows=rows)
    assert read_image(path)[1].tolist() == [[1, 1, 1, 65535], [258, 258, 258, 7]]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_2_and_4_bits_spans_black_to_white(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    packed = bytes([0, (top << (8 - bits)) | (1 << (8 - 2 * bits))])
    path = png_file(tmp_path / "g.png", (1, 2), bits=bits, colour_type=0, rows=packed)
    assert read_image(path).ravel().tolist() == [255, 255 // top]
    assert read_raw(path).values.ravel().tolist() == [top, 1]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cyan = np.zeros((8, 8, 4), np.uint8)
    cyan[..., 0] = 255
    Image.fromarray(cyan, mode="CMYK").save(tmp_path / "c.jpg", quality=100)
    tifffile.imwrite(tmp_path / "c.tif", cyan, photometric="separated")
    assert np.abs(read_image(tmp_path / "c.jpg").astype(int) - (0, 255, 255)).max() <= 4
    assert read_image(tmp_path / "c.tif")[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("size", [(1, 1), (65000, 3), (3, 65000)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = noise(*size, 3)
    assert np.array_equal(read_image(save(tmp_path / "a.png", pixels)), pixels)


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_all_orientations(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = np.kron(noise(3, 2, 3) // 128 * 255, np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
    else:
        save(path, pixels, exif=exif, **({"lossless": True} if suffix == ".webp" else {"quality": 95}))
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).astype(int)
    image = read_image(path)
    assert (probe_image(path).height, probe_image(path).width) == expected.shape[:2]
    assert image.shape == expected.shape and np.abs(image - expected).max() <= 2


def test_orientation_6_by_hand(tmp_path: Path) -> None:
    # Stored with the right side up: row 0 is the right column of the picture.
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", np.array([[1, 2, 3], [4, 5, 6]], np.uint8), exif=exif)
    assert read_image(path)[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


def test_orientation_of_a_16_bit_colour_png(tmp_path: Path) -> None:
    data = cv2.imencode(".png", noise(4, 6, 3, dtype=np.uint16))[1].tobytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    # eXIf may stand anywhere, here after the pixels.
    path = tmp_path / "a.png"
    path.write_bytes(data[:-12] + chunk(b"eXIf", exif) + data[-12:])
    assert (probe_image(path).height, probe_image(path).width) == read_image(path).shape[:2] == (6, 4)


def test_a_damaged_orientation_leaves_the_picture_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data = save(path, noise(2, 3)).read_bytes()
    path.write_bytes(data[:33] + chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff") + data[33:])
    assert read_image(path).shape == (2, 3, 1)


# ---- TIFF


def test_number_types_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for dtype, kept in {"uint8": "uint8", "uint16": "uint16", "int16": "float32", "float64": "float32"}.items():
        values = np.array([[1, 2, 100]]).astype(dtype)
        tifffile.imwrite(path, values, byteorder=">")
        image = read_image(path)
        assert image.dtype.name == kept and image.dtype.isnative
        assert image.ravel().tolist() == [1, 2, 100]


def test_channels_first_and_many_channels(tmp_path: Path) -> None:
    values = noise(7, 4, 5)
    tifffile.imwrite(tmp_path / "first.tif", values, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "last.tif", values.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    planes = values[:3].copy()
    tifffile.imwrite(tmp_path / "planar.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "first.tif"), values.transpose(1, 2, 0))
    assert np.array_equal(read_image(tmp_path / "last.tif"), values.transpose(1, 2, 0))
    assert np.array_equal(read_image(tmp_path / "planar.tif"), planes.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ("TCYX", {"imagej": True}),
        ("TCYX", {"ome": True, "compression": "zlib"}),
        ("CZYX", {"ome": True}),
        ("TZYX", {"ome": True}),
        ("ZYX", {"imagej": True}),
        ("ZYX", {"compression": "lzw", "photometric": "minisblack"}),
    ],
)
def test_frames_of_stacks(tmp_path: Path, axes: str, options: dict[str, object]) -> None:
    sides = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    values = noise(*(sides[axis] for axis in axes), dtype=np.uint16)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values, metadata={"axes": axes}, **options)
    frame_axes = [axis for axis in axes if axis in "TZ"]
    order = [axes.index(axis) for axis in (*frame_axes, "Y", "X", *("C" if "C" in axes else ""))]
    frames = values.transpose(order).reshape(-1, 5, 6, 3 if "C" in axes else 1)
    assert probe_image(path) == ImageInfo(5, 6, frames.shape[3], "uint16", len(frames))
    for index, expected in enumerate(frames):
        assert np.array_equal(read_image(path, frame=index), expected)


def test_array_with_channels_last_is_one_image(tmp_path: Path) -> None:
    values = np.arange(24 * 20 * 5, dtype=np.uint16).reshape(24, 20, 5)
    for name, options in (("plain.tif", {}), ("packed.tif", {"compression": "zlib"})):
        tifffile.imwrite(tmp_path / name, values, **options)
        assert probe_image(tmp_path / name) == ImageInfo(24, 20, 5, "uint16", 1)
        assert (read_image(tmp_path / name) == values).all()
    # Sides that could be those of a picture stay a stack.
    tifffile.imwrite(tmp_path / "stack.tif", values.transpose(2, 0, 1), photometric="minisblack")
    assert probe_image(tmp_path / "stack.tif") == ImageInfo(24, 20, 1, "uint16", 5)
    tifffile.imwrite(tmp_path / "narrow.tif", values[:6], photometric="minisblack")
    assert probe_image(tmp_path / "narrow.tif") == ImageInfo(20, 5, 1, "uint16", 6)


def test_palette_and_white_is_zero_tiff(tmp_path: Path) -> None:
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, 1] = (65535, 256, 0)
    tifffile.imwrite(tmp_path / "p.tif", np.array([[0, 1]], np.uint8), photometric="palette", colormap=colormap)
    tifffile.imwrite(tmp_path / "w.tif", np.array([[0, 9]], np.uint8), photometric="miniswhite")
    assert read_image(tmp_path / "p.tif").tolist() == [[[0, 0, 0], [255, 1, 0]]]
    assert read_image(tmp_path / "w.tif").ravel().tolist() == [255, 246]


def test_not_a_number_is_refused_with_its_count(tmp_path: Path) -> None:
    values = np.array([[np.nan, 1, np.inf]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(InputError, match=r"a\.tif: 2 of 3 values are NaN or infinite: replace them by numbers"):
        read_image(tmp_path / "a.tif")


# ---- frames


def test_frames_must_be_chosen_and_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(3, 4, 5), photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif: holds 3 frames, and one is needed: give frame=0\.\.2"):
        read_image(path)
    for frame in (3, -1):
        with pytest.raises(InputError, match=rf"a\.tif: frame {frame} is not there: give frame=0\.\.2"):
            read_image(path, frame=frame)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_of_animations_are_rgb(tmp_path: Path, suffix: str) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.fromarray(np.full((6, 7, 3), colour, np.uint8)) for colour in colours]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert probe_image(path) == ImageInfo(6, 7, 3, "uint8", 3)
    for index, colour in enumerate(colours):
        assert np.abs(read_image(path, frame=index)[3, 3].astype(int) - colour).max() <= 6


# ---- what is refused


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(
    path: Path, size: tuple[int, int], *, bits: int, colour_type: int, rows: bytes, interlace: int = 0
) -> Path:
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, colour_type, 0, 0, interlace)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_missing_empty_folder_and_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such file: check the path"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="a folder, where an image file is needed: give the file"):
        probe_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"an empty file \(0 bytes\): copy it again from its source"):
        probe_image(tmp_path / "empty.png")
    for name in ("text.png", "text.tif"):
        (tmp_path / name).write_text("not an image")
        said = r"cannot be read as an image \(no header of a PNG, JPEG, TIFF, BMP, GIF or WebP\): damaged, cut short"
        with pytest.raises(InputError, match=said):
            probe_image(tmp_path / name)


def _bombs() -> dict[str, bytes]:
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    gif = b"GIF89a" + struct.pack("<HHBBB", 65000, 65000, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 65000, 65000, 0) + b"\x02\x02\x44\x01\0;"
    bmp = b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 65000, 65000, 1, 24, *[0] * 6)
    entries = [(256, 4, 40000), (257, 4, 40000), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 40000), (279, 4, 4)]
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    return {"a.png": png, "a.gif": gif, "a.bmp": bmp + bytes(60), "a.tif": tiff}


@pytest.mark.parametrize(("name", "data"), _bombs().items())
def test_bombs_are_refused_from_the_header(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"is over the limit of|cannot hold: damaged or a decompression bomb"):
        read_image(path)
    assert time.perf_counter() - start < 1


def test_a_small_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    path = png_file(tmp_path / "a.png", (40000, 40000), bits=8, colour_type=0, rows=bytes(1000))
    assert probe_image(path).width == 40000
    said = r"a\.png: its header claims 40000x40000 pixels, 1 channels, 1 frames, which a file of \d+ bytes cannot hold"
    with pytest.raises(InputError, match=said):
        read_image(path)


@pytest.mark.parametrize("is_big", [False, True])
def test_pages_that_point_in_a_circle(tmp_path: Path, is_big: bool) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(3, 4, 5), photometric="minisblack", bigtiff=is_big, metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[1].offset, file.pages[2]
    data = bytearray(path.read_bytes())
    tags = int.from_bytes(data[last.offset : last.offset + (8 if is_big else 2)], "little")
    place = last.offset + (8 + 20 * tags if is_big else 2 + 12 * tags)
    data[place : place + 4] = first.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif: cannot be read as an image \(its pages point in a circle, at byte"):
        probe_image(path)


def test_a_page_without_tags_that_points_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IHI", 8, 0, 8))
    with pytest.raises(InputError, match="its pages point in a circle, at byte 8"):
        probe_image(path)


def test_max_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(10, 10))
    assert read_image(path, max_pixels=100).shape == (10, 10, 1)
    with pytest.raises(
        InputError, match=r"a\.png: 10x10 pixels, 1 channels is over the limit of 99 pixels .*cut the image"
    ):
        read_image(path, max_pixels=99)


def test_a_truncated_16_bit_png_is_refused_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = cv2.imencode(".png", noise(40, 40, 3, dtype=np.uint16))[1].tobytes()
    path = tmp_path / "a.png"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


# ---- the guard


def test_any_error_of_a_decoder_becomes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")

    def broken(file: Path) -> None:
        raise ZeroDivisionError("first\nsecond\x00" + "y" * 500)

    with pytest.raises(InputError, match=r"^[^\n]*\(first second y+\): damaged, cut short or no image: copy it again$"):
        guarded(path, broken)


def test_silence_ends_with_the_last_of_several_threads(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{index}.png", noise(30, 30, 3)) for index in range(8)]
    limit, filters = Image.MAX_IMAGE_PIXELS, warnings.filters[:]
    threads = [threading.Thread(target=lambda p=path: [read_image(p) for _ in range(20)]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters) == (limit, filters)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 14)])
def test_an_interlaced_16_bit_png(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = noise(*size, 3, dtype=np.uint16)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [pixels[top::rows, left::cols] for top, left, rows, cols in passes]
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    path = png_file(tmp_path / "a.png", size, bits=16, colour_type=2, rows=data, interlace=1)
    assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize(
    ("rows", "said"), [(b"\0" + bytes(6), "7 of 14 bytes"), (b"\0" + bytes(6) + b"\x09" + bytes(6), ".*")]
)
def test_odd_pixels_of_a_16_bit_png(tmp_path: Path, rows: bytes, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = png_file(tmp_path / "a.png", (2, 1), bits=16, colour_type=2, rows=rows)
    with pytest.raises(InputError, match=rf"a\.png: cannot be read as an image \({said}"):
        read_image(path)
    assert capfd.readouterr() == ("", "")
