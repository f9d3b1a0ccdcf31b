"""Image files in every mode that Pillow knows: grey by content, nothing cut down, every refusal true."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import assert_refused
from PIL import Image

from symlearn.data import load_data, load_images
from symlearn.data.pixels import is_deep, pixels_of, read_pixels

pytestmark = pytest.mark.filterwarnings("ignore:.*have no training image")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
ALPHA = RNG.integers(1, 256, (8, 6), dtype=np.uint8)


def full(level: int) -> np.ndarray:
    return np.full((8, 6), level, np.uint8)


def bands(mode: str, *arrays: np.ndarray) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(array) for array in arrays])


def grey_rgb() -> Image.Image:
    return bands("RGB", GREY, GREY, GREY)


def neutral_lab() -> Image.Image:
    return bands("LAB", GREY, full(128), full(128))


def palette(mode: str = "P") -> Image.Image:
    """Every pixel an entry of its own, in colours that are no grey."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6)).convert(mode)
    image.putpalette(COLOUR.tobytes())
    return image


def by_pillow(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


RGB = list(np.moveaxis(COLOUR, 2, 0))
YCBCR, HSV, LAB = (Image.fromarray(COLOUR).convert(mode) for mode in ("YCbCr", "HSV", "LAB"))
# an image in a mode, and the pixels that it shows
SHOWN: dict[str, tuple[Image.Image, np.ndarray]] = {
    "1": (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)),
    "L": (Image.fromarray(GREY), GREY),
    "LA": (bands("LA", GREY, ALPHA), GREY),
    "La": (bands("LA", GREY, full(255)).convert("La"), GREY),
    "P, grey": (Image.fromarray(GREY).convert("P"), GREY),
    "P, colour": (palette(), COLOUR),
    "PA, grey": (Image.fromarray(GREY).convert("PA"), GREY),
    "PA, colour": (palette("PA"), COLOUR),
    "RGB, grey": (grey_rgb(), GREY),
    "RGB, colour": (Image.fromarray(COLOUR), COLOUR),
    "RGBA, grey": (bands("RGBA", GREY, GREY, GREY, ALPHA), GREY),
    "RGBA, colour": (bands("RGBA", *RGB, ALPHA), COLOUR),
    "RGBa, grey": (bands("RGBA", GREY, GREY, GREY, full(255)).convert("RGBa"), GREY),
    "RGBa, colour": (bands("RGBA", *RGB, full(255)).convert("RGBa"), COLOUR),
    "RGBX, grey": (grey_rgb().convert("RGBX"), GREY),
    "RGBX, colour": (Image.fromarray(COLOUR).convert("RGBX"), COLOUR),
    "CMYK, grey": (grey_rgb().convert("CMYK"), GREY),
    "CMYK, colour": (Image.fromarray(COLOUR).convert("CMYK"), COLOUR),
    "YCbCr, grey": (bands("YCbCr", GREY, full(128), full(128)), GREY),
    "YCbCr, colour": (YCBCR, by_pillow(YCBCR)),
    "HSV, grey": (bands("HSV", full(0), full(0), GREY), GREY),
    "HSV, colour": (HSV, by_pillow(HSV)),
    "LAB, grey": (neutral_lab(), by_pillow(neutral_lab())[..., 1]),
    "LAB, colour": (LAB, by_pillow(LAB)),
}


@pytest.mark.parametrize("case", SHOWN)
def test_every_mode_of_8_bits(case: str) -> None:
    image, wanted = SHOWN[case]
    assert image.mode == case.partition(",")[0] and not is_deep(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels_of(image)
    assert found.dtype == np.uint8 and np.array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B", "I;16N", "F"])
def test_every_mode_of_more_bits(mode: str) -> None:
    assert is_deep(Image.new(mode, (6, 8)))


def test_opacity_is_divided_out_and_dropped() -> None:
    light, half = full(200), full(128)
    for image, mode in ((bands("LA", light, half), "La"), (bands("RGBA", *[light] * 3, half), "RGBa")):
        assert np.abs(pixels_of(image.convert(mode)).astype(int) - 200).max() <= 1, mode
        assert np.array_equal(pixels_of(image), light), f"{mode}, not multiplied"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(file: Path, kind: int, channels: int) -> None:
    """16 bits a channel; kinds of PNG: 0 grey, 2 colour, 4 grey with alpha, 6 colour with alpha."""
    rows = RNG.integers(0, 2**16, (8, 6 * channels)).astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 6, 8, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_tiff(file: Path, order: str, photometric: int, channels: int, planes: bool = False) -> None:
    """16 bits a channel; byte order "<" or ">"; photometric 2 is RGB, 5 CMYK; channels in planes or not."""
    count, size = (channels, 96) if planes else (1, 96 * channels)
    data = RNG.integers(0, 2**16, 48 * channels).astype(f"{order}u2").tobytes()
    more = struct.pack(f"{order}{channels}H", *[16] * channels)
    more += struct.pack(f"{order}{count}I", *[8 + size * k for k in range(count)])
    more += struct.pack(f"{order}{count}I", *[size] * count)
    at = 8 + len(data)  # where the values stand that are more than one
    places = {258: at, 273: at + 2 * channels, 279: at + 2 * channels + 4 * count}
    single = {256: 6, 257: 8, 259: 1, 262: photometric, 277: channels, 278: 8, 284: 2 if planes else 1}
    if count == 1:
        single |= {273: 8, 279: size}
    entries = {tag: struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in single.items()}
    for tag, place in places.items():
        many = channels if tag == 258 else count
        entries.setdefault(tag, struct.pack(f"{order}HHII", tag, 3 if tag == 258 else 4, many, place))
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, at + len(more))
    listed = struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    file.write_bytes(start + data + more + listed + bytes(4))


def write_ppm(file: Path, magic: str, largest: int) -> None:
    values = RNG.integers(0, largest + 1, 48 * (3 if magic in ("P3", "P6") else 1))
    packed = values.astype(">u2" if largest > 255 else "u1").tobytes()
    data = " ".join(map(str, values)).encode() if magic in ("P2", "P3") else packed
    file.write_bytes(f"{magic} 6 8 {largest}\n".encode() + data)


DEEP: dict[str, tuple[str, Callable[[Path], None]]] = {
    "grey PNG": ("deep.png", lambda file: write_png(file, 0, 1)),
    "colour PNG": ("deep.png", lambda file: write_png(file, 2, 3)),
    "grey PNG with alpha": ("deep.png", lambda file: write_png(file, 4, 2)),
    "colour PNG with alpha": ("deep.png", lambda file: write_png(file, 6, 4)),
    "colour TIFF": ("deep.tif", lambda file: write_tiff(file, "<", 2, 3)),
    "colour TIFF, high bytes first": ("deep.tif", lambda file: write_tiff(file, ">", 2, 3)),
    "colour TIFF in planes": ("deep.tif", lambda file: write_tiff(file, "<", 2, 3, planes=True)),
    "CMYK TIFF": ("deep.tif", lambda file: write_tiff(file, "<", 5, 4)),
    "grey TIFF": ("deep.tif", lambda file: Image.new("I;16", (6, 8)).save(file)),
    "grey TIFF, high bytes first": ("deep.tif", lambda file: Image.new("I;16B", (6, 8)).save(file)),
    "whole-number TIFF": ("deep.tif", lambda file: Image.new("I", (6, 8)).save(file)),
    "real TIFF": ("deep.tif", lambda file: Image.new("F", (6, 8)).save(file)),
    "grey PGM": ("deep.pgm", lambda file: write_ppm(file, "P5", 65535)),
    "plain PGM of 10 bits": ("deep.pgm", lambda file: write_ppm(file, "P2", 1023)),
    "colour PPM": ("deep.ppm", lambda file: write_ppm(file, "P6", 65535)),
    "colour PPM of 10 bits": ("deep.ppm", lambda file: write_ppm(file, "P6", 1023)),
    "plain PPM": ("deep.ppm", lambda file: write_ppm(file, "P3", 65535)),
}


@pytest.mark.parametrize("case", DEEP)
def test_no_file_is_cut_down_to_8_bits(case: str, tmp_path: Path) -> None:
    name, write = DEEP[case]
    write(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        opened.load()  # Pillow itself reads the file
    for words in (name, "more than 8 bits a channel", "convert it, or save the set as a .npz"):
        assert_refused(lambda words=words: load_images(tmp_path / name), words)


# a file's name, the mode it opens in, what is saved, and the pixels that it shows
STORED: dict[str, tuple[str, str, Image.Image, np.ndarray]] = {
    "two-level PNG": ("a.png", "1", *SHOWN["1"]),
    "grey PNG": ("a.png", "L", *SHOWN["L"]),
    "grey PNG with alpha": ("a.png", "LA", *SHOWN["LA"]),
    "grey palette PNG": ("a.png", "P", *SHOWN["P, grey"]),
    "palette PNG": ("a.png", "P", *SHOWN["P, colour"]),
    "grey in a colour PNG": ("a.png", "RGB", *SHOWN["RGB, grey"]),
    "colour PNG": ("a.png", "RGB", *SHOWN["RGB, colour"]),
    "grey in a colour PNG with alpha": ("a.png", "RGBA", *SHOWN["RGBA, grey"]),
    "colour PNG with alpha": ("a.png", "RGBA", *SHOWN["RGBA, colour"]),
    "grey GIF": ("a.gif", "P", *SHOWN["L"]),
    "grey palette GIF": ("a.gif", "P", *SHOWN["P, grey"]),
    "colour GIF": ("a.gif", "P", *SHOWN["P, colour"]),
    "grey BMP": ("a.bmp", "L", *SHOWN["L"]),
    "grey WebP": ("a.webp", "RGB", *SHOWN["L"]),
    "CMYK TIFF": ("a.tif", "CMYK", *SHOWN["CMYK, colour"]),
    "grey CMYK TIFF": ("a.tif", "CMYK", *SHOWN["CMYK, grey"]),
    "YCbCr TIFF": ("a.tif", "YCbCr", *SHOWN["YCbCr, colour"]),
    "LAB TIFF": ("a.tif", "LAB", *SHOWN["LAB, colour"]),
    "grey LAB TIFF": ("a.tif", "LAB", *SHOWN["LAB, grey"]),
    "RGBX TIFF": ("a.tif", "RGB", *SHOWN["RGBX, colour"]),
    "grey PGM": ("a.pgm", "L", *SHOWN["L"]),
}


@pytest.mark.parametrize("case", STORED)
def test_files_show_what_was_stored(case: str, tmp_path: Path) -> None:
    name, mode, image, wanted = STORED[case]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    with Image.open(tmp_path / name) as opened:
        assert opened.mode == mode
    assert np.array_equal(read_pixels(tmp_path / name), wanted)


def test_few_levels_are_spread_over_all(tmp_path: Path) -> None:
    write_ppm(tmp_path / "a.ppm", "P6", 15)
    assert set(np.unique(read_pixels(tmp_path / "a.ppm"))) <= {17 * level for level in range(16)}


def test_a_palette_may_have_transparent_entries(tmp_path: Path) -> None:
    palette().save(tmp_path / "a.png", transparency=bytes(range(48)))
    Image.fromarray(GREY).convert("P").save(tmp_path / "b.gif", transparency=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_pixels(tmp_path / "a.png"), COLOUR)
        assert np.array_equal(read_pixels(tmp_path / "b.gif"), GREY)


def folder(root: Path, images: list[Image.Image], suffix: str) -> Path:
    """Both classes of both halves hold these images."""
    for half in ("train", "test"):
        for label in "ab":
            (root / half / label).mkdir(parents=True)
            for k, image in enumerate(images):
                image.save(root / half / label / f"{k}.{suffix}")
    return root


@pytest.mark.parametrize(
    ("cases", "suffix", "channels"),
    [
        (("L",), "gif", 1),
        (("P, grey",), "png", 1),
        (("RGB, grey", "L", "RGBA, grey", "1"), "png", 1),
        (("RGB, grey", "RGB, colour"), "png", 3),
        (("L", "P, colour"), "png", 3),
    ],
    ids=["grey GIF", "grey palette", "grey in several modes", "one in colour", "one in palette colours"],
)
def test_channels_of_a_folder_go_by_what_it_shows(
    cases: tuple[str, ...], suffix: str, channels: int, tmp_path: Path
) -> None:
    root = folder(tmp_path, [SHOWN[case][0] for case in cases], suffix)
    assert load_data(root, size=(8, 8)).train.tensors[0].shape[1] == channels
    assert load_images(root)[0].shape[1] == channels
    for asked in (1, 3):
        assert load_images(root, channels=asked)[0].shape[1] == asked


def test_an_image_over_pillows_limit(tmp_path: Path) -> None:
    Image.new("1", (20000, 10000)).save(tmp_path / "large.png")
    for words in (
        "large.png has more than 178,956,970 pixels",
        "pixels, Pillow's limit against decompression bombs; make it smaller, or raise PIL.Image.MAX_IMAGE",
    ):
        assert_refused(lambda words=words: read_pixels(tmp_path / "large.png"), words)


def test_the_limit_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above it Pillow warns, above twice as much it refuses; who makes errors of warnings hears the truth."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.warns(Image.DecompressionBombWarning):
        assert np.array_equal(read_pixels(tmp_path / "a.png"), GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_refused(lambda: read_pixels(tmp_path / "a.png"), "a.png has more than 40 pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert_refused(lambda: read_pixels(tmp_path / "a.png"), "a.png has more than 40 pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), GREY)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "a.png cannot be opened (Permission denied)"),
        (MemoryError(), "a.png does not fit into memory"),
        (OSError("broken data stream"), "a.png cannot be read as an image; expected a whole PNG"),
    ],
    ids=["no permission", "no memory", "broken"],
)
def test_other_failures_are_told_apart(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", failing)
    assert_refused(lambda: read_pixels(tmp_path / "a.png"), words)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp"])
def test_truncated_files_are_said_not_to_be_whole(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    words = f"{name} cannot be read as an image; expected a whole PNG, JPEG or the like; replace it"
    assert_refused(lambda: read_pixels(file), words)
