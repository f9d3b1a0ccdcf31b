"""One image file as pixels: uint8, [h, w] if grey and [h, w, 3] otherwise, in whatever mode it is stored.

What an image shows decides, not how it is stored: a palette or colour file of equal channels is grey.
Transparency is dropped: a pixel keeps the colour that lies beneath, and files that store colours multiplied
by their opacity have them divided by it first. Other colour spaces (CMYK, YCbCr, HSV, LAB) become RGB by
Pillow's conversion. The orientation that a camera noted is applied.

No depth is cut off: files with more than 8 bits a channel are refused, those too that Pillow itself would
bring down to 8 bits while it opens them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # modes of more than 8 bits start so: I, I;16, I;16L, I;16B, I;16N, F
_DEEP_LAYOUTS = (";16L", ";16B", ";16N")  # of a file whose 16 bits become 8; BGR;16 are 16 bits a pixel
_TIFF_BITS = 258  # tag of a TIFF: bits a channel


def read_pixels(file: Path) -> np.ndarray:
    """Read one image as it is to be looked at, turned as its EXIF data say.

    Returns:
        uint8 `[h, w]` if it is grey, `[h, w, 3]` otherwise.

    Raises:
        ValueError: no whole image, one of more than 8 bits a channel, or one too large to be opened.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            deep = is_deep(opened)
            array = pixels_of(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        allowed = 2 if isinstance(error, Image.DecompressionBombError) else 1  # the warning comes at half
        limit = allowed * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"{file} has more than {limit:,} pixels, Pillow's limit against decompression bombs; make it "
            "smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except MemoryError as error:
        raise ValueError(f"{file} does not fit into memory; make it smaller") from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        if isinstance(error, OSError) and error.strerror:  # the file system's, not Pillow's
            raise ValueError(f"{file} cannot be opened ({error.strerror}); check it") from error
        raise ValueError(
            f"{file} cannot be read as an image; expected a whole PNG, JPEG or the like; replace it"
        ) from error
    if deep:
        raise ValueError(
            f"{file} has more than 8 bits a channel; expected 8 bits; "
            "convert it, or save the set as a .npz of floats"
        )
    return array


def is_deep(opened: "Image.Image") -> bool:
    """Whether an image that is open and not yet loaded has more than 8 bits a channel in its file."""
    if opened.mode.startswith(_DEEP_MODES):
        return True
    tags: Any = getattr(opened, "tag_v2", {})
    if max(tags.get(_TIFF_BITS, (8,))) > 8:
        return True
    for decoder, _, _, layout in getattr(opened, "tile", ()):
        parts = layout if isinstance(layout, tuple) else (layout,)
        if str(parts[0] if parts else "").endswith(_DEEP_LAYOUTS):
            return True
        if decoder in ("ppm", "ppm_plain") and parts[-1] > 255:  # its largest value
            return True
    return False


def pixels_of(image: "Image.Image") -> np.ndarray:
    """An image of 8 bits a channel as uint8, [h, w] if grey, [h, w, 3] otherwise."""
    if image.mode in _GREY_MODES:
        return np.asarray((image.convert("LA") if image.mode == "La" else image).convert("L"))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # to RGB at once Pillow warns of what is dropped
    neutral = image.mode == "LAB" and not np.asarray(image)[..., 1:].any()
    array = np.asarray(image.convert("RGB"))
    if neutral or (array == array[..., :1]).all():  # neutral LAB comes out equal up to rounding
        return array[..., 1]
    return array


def with_channels(array: np.ndarray, colour: bool) -> np.ndarray:
    """[h, w] or [h, w, 3] -> [c, h, w] with three channels if `colour`, one otherwise (ITU-R 601 luma)."""
    if not colour:
        if array.ndim == 3:
            luma = array @ np.array([0.299, 0.587, 0.114])
            array = np.round(luma).astype(np.uint8)
        return array[None]
    return array.transpose(2, 0, 1) if array.ndim == 3 else np.broadcast_to(array, (3, *array.shape))
