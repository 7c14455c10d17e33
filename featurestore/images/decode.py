"""One file, or one row of an `.npz`, to 8-bit grey pixels and the two hashes that identify them."""

from __future__ import annotations

import hashlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from featurestore.errors import ImageRejected
from featurestore.images.depth import DEPTH_RULE, stretch_to_8bit
from featurestore.images.faults import rejecting, words_of

__all__ = [
    "COLOUR_SHARE",
    "COLOUR_TOLERANCE",
    "DEPTH_RULE",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "DecodedImage",
    "hash_pixels",
    "read_image",
]

MAX_PIXELS = 100_000_000
"""More than this is rejected from the header, before decoding."""
MIN_SIDE = 16
"""Fewer pixels on a side cannot show a chest (MedMNIST's smallest have 28)."""
MAX_BYTES = 1 << 30
"""Larger files are rejected unread: 100 megapixels of 16-bit RGBA fit in."""
COLOUR_TOLERANCE = 16
"""Grey levels by which channels may differ (JPEG's chroma noise stays well below)."""
COLOUR_SHARE = 0.01
"""Share of pixels that may differ by more."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "JPEG2000", "PPM", "WEBP")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_PHOTOMETRIC = 262  # TIFF tag PhotometricInterpretation
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")

# Pillow warns above this and refuses above twice this; `_check_size` refuses in between.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


@dataclass(frozen=True)
class DecodedImage:
    """One image as every network sees it before resizing.

    Parameters
    ----------
    pixels : ndarray of shape (height, width), uint8
        Grey, 0 = black, 255 = white, as a display shows it.
    bits : int
        Bits per grey level in the source.
    file_hash : str
        Hex SHA-256 of the file's bytes; for a row of an `.npz`, of the row's raw bytes.
    pixel_hash : str
        See `hash_pixels`.
    width, height : int
        Pixels.
    """

    pixels: NDArray[np.uint8]
    bits: int
    file_hash: str
    pixel_hash: str
    width: int
    height: int


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Return the hex SHA-256 of the text ``<height>x<width>``, a line feed and the grey bytes, row by row.

    Parameters
    ----------
    pixels : ndarray of shape (height, width), uint8
    """
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def read_image(uri: str, expected: str | None = None) -> DecodedImage:
    """Read and decode one image; safe to call from many threads.

    Parameters
    ----------
    uri : str
        A file (PNG, JPEG, TIFF, BMP, JPEG 2000, PPM, WebP, DICOM) or ``/abs/file.npz#train/12``.

    expected : str, optional
        The `DecodedImage.file_hash` it must have; compared before anything is decoded.

    Returns
    -------
    DecodedImage

    Raises
    ------
    featurestore.errors.ImageRejected
        Whatever is wrong with the file or its content; nothing else is raised for bad content. Stages: ``path``
        (missing, unreadable; retryable), ``changed`` (not as expected; retryable), ``size``, ``colour``, ``decode``.
    """
    path, mark, row = uri.rpartition("#")
    if mark and path.endswith(".npz"):
        return _read_npz_row(Path(path), row, expected)
    data = _read_bytes(Path(uri))
    file_hash = hashlib.sha256(data).hexdigest()
    _check_unchanged(file_hash, expected)
    pixels, bits = _decode(data)
    return _finish(pixels, bits, file_hash)


def _check_unchanged(found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        reason = (
            f"the file's content changed since it was ingested ({expected[:12]} became {found[:12]}); put the old file "
            "back, or ingest the new one"
        )
        raise ImageRejected("changed", reason, retryable=True)


def _finish(pixels: NDArray[np.uint8], bits: int, file_hash: str) -> DecodedImage:
    height, width = pixels.shape
    return DecodedImage(pixels, bits, file_hash, hash_pixels(pixels), width, height)


def _read_npz_row(path: Path, row: str, expected: str | None) -> DecodedImage:
    from featurestore.images.npz import read_row

    raw = read_row(path, row)
    file_hash = hashlib.sha256(raw.tobytes()).hexdigest()
    _check_unchanged(file_hash, expected)
    check_size(raw.shape[1], raw.shape[0])
    pixels = grey_of_colour(raw) if raw.ndim == 3 else raw
    return _finish(pixels, 8, file_hash)


def _read_bytes(path: Path) -> bytes:
    """Read a regular file once; hash and pixels come from the same bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageRejected("path", "not a regular file (a folder, pipe or device)")
        if status.st_size > MAX_BYTES:
            raise ImageRejected("size", f"{status.st_size} bytes; at most {MAX_BYTES} are read")
        data = path.read_bytes()
    except FileNotFoundError as error:
        what = "a link whose target does not exist" if path.is_symlink() else "no such file"
        raise ImageRejected("path", what, retryable=True) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageRejected("path", f"cannot read the file: {words_of(error)}", retryable=True) from error
    if not data:
        raise ImageRejected("decode", "the file is empty (0 bytes)")
    return data


def _decode(data: bytes) -> tuple[NDArray[np.uint8], int]:
    if data[128:132] == b"DICM":
        from featurestore.images.dicom import read_dicom

        return read_dicom(data)
    return _decode_raster(data)


def _decode_raster(data: bytes) -> tuple[NDArray[np.uint8], int]:
    try:
        with _open(data) as image:
            check_size(image.width, image.height)
            with rejecting(f"cannot decode the {image.format}"):
                _check_single(image)
                image.load()
                pixels, bits = _to_grey(_upright(image))
                return (255 - pixels if _is_inverted(image) else pixels), bits
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRejected("size", _too_large(words_of(error))) from error


def _open(data: bytes) -> Image.Image:
    try:
        with rejecting("cannot read the image's header"):
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except ImageRejected as error:
        if isinstance(error.__cause__, Image.DecompressionBombWarning):  # where warnings are errors
            raise error.__cause__ from error
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise ImageRejected("decode", f"no image format known here starts with {data[:8]!r}") from error
        raise


def _too_large(found: str) -> str:
    return f"more than {MAX_PIXELS // 1_000_000} megapixels, not decoded: {found}"


def check_size(width: int, height: int) -> None:
    """Reject an image that is too small or too large, from what its header says.

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``size``.
    """
    if width * height > MAX_PIXELS:
        raise ImageRejected("size", _too_large(f"{width} x {height}"))
    if min(width, height) < MIN_SIDE:
        raise ImageRejected("size", f"{width} x {height} pixels; at least {MIN_SIDE} on each side are needed")


def _check_single(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO's further frames are previews of the first
        raise ImageRejected("decode", f"{frames} frames; one file has to hold one image")
    rawmodes = [str(tile.args) for tile in getattr(image, "tile", [])]
    if image.mode not in _DEEP_MODES and any(";16" in raw for raw in rawmodes):
        # Pillow would keep the high byte only, which turns a 12-bit radiograph black
        raise ImageRejected("decode", "16 bits in each of several channels; save it as one 16-bit grey channel")


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF data says that it was taken."""
    return ImageOps.exif_transpose(image)


def _is_inverted(image: Image.Image) -> bool:
    """Return whether a TIFF counts from white (MinIsWhite) and Pillow, which sees to 8 bits only, left it so."""
    return image.mode in _DEEP_MODES and image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]


def _to_grey(image: Image.Image) -> tuple[NDArray[np.uint8], int]:
    """Handle each Pillow mode by name; an alpha channel is dropped, as it says how to show, not what was measured."""
    if image.mode in ("1", "L", "LA", "La"):
        band = image.convert("L") if image.mode in ("1", "L") else image.getchannel("L")
        return np.array(band, dtype=np.uint8), 1 if image.mode == "1" else 8
    if image.mode in _DEEP_MODES:
        bits = 32 if image.mode == "I" and image.format != "PNG" else 16
        return stretch_to_8bit(np.asarray(image)), bits
    if image.mode in _COLOUR_MODES:
        through_alpha = image.mode == "PA" or "transparency" in image.info
        flat = image.convert("RGBA") if through_alpha else image
        return grey_of_colour(np.asarray(flat.convert("RGB"))), 8
    raise ImageRejected(
        "decode", f"pixel mode {image.mode} has no declared grey range; save it as 8-bit or 16-bit integer grey"
    )


def grey_of_colour(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce equal (or nearly equal) channels to one.

    Parameters
    ----------
    rgb : ndarray of shape (height, width, 3), uint8

    Returns
    -------
    ndarray of shape (height, width), uint8
        ITU-R 601-2 luma, which is the channel itself where the three are equal.

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``colour`` where more than `COLOUR_SHARE` of the pixels differ by more than `COLOUR_TOLERANCE`.
    """
    spread = rgb.max(axis=2) - rgb.min(axis=2)
    share = float(np.mean(spread > COLOUR_TOLERANCE))
    if share > COLOUR_SHARE:
        raise ImageRejected(
            "colour",
            f"in {share:.1%} of the pixels the channels differ by more than {COLOUR_TOLERANCE} levels "
            f"(at most {COLOUR_SHARE:.0%} may): a colour picture, not a grey radiograph",
        )
    return np.array(Image.fromarray(rgb).convert("L"), dtype=np.uint8)
