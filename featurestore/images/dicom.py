"""One DICOM file to 8-bit grey: modality LUT, VOI LUT or window, MONOCHROME1, declared ranges."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import UID

from featurestore.errors import ImageRejected
from featurestore.images.decode import check_size
from featurestore.images.depth import scale_to_8bit, stretch_to_8bit
from featurestore.images.faults import rejecting

Range = tuple[float, float]

PYDICOM_ERRORS = (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException)
"""What pydicom raises that is no built-in error."""

# A patient's name that is too long or an id with a stray blank is no reason to talk about, let alone lose, an image.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.ERROR)


def quiet_pydicom() -> None:
    """Ignore pydicom's remarks on headers it can read anyway; what it cannot read, it raises.

    `warnings.catch_warnings` swaps the process-wide filters and is not thread-safe, so the filter is only ever added
    (adding it again moves it to the front).
    """
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def read_dicom(data: bytes) -> tuple[NDArray[np.uint8], int]:
    """Decode a DICOM file as a display would show it.

    Stored values -> modality LUT or rescale -> VOI LUT, else window (LINEAR, LINEAR_EXACT, SIGMOID), else the rule of
    `featurestore.images.depth.DEPTH_RULE` -> 8 bits -> MONOCHROME1 inverted -> padding black (DICOM PS3.3 C.11.1,
    C.11.2, C.7.5.1.1.2, C.7.6.3.1.2).

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    pixels : ndarray of shape (Rows, Columns), uint8
        0 = black.
    bits : int
        BitsStored.

    Raises
    ------
    featurestore.errors.ImageRejected
        Stages ``decode``, ``colour``, ``size``.
    """
    quiet_pydicom()
    with rejecting("cannot read the DICOM header", PYDICOM_ERRORS):
        dataset = pydicom.dcmread(io.BytesIO(data))
        _check_header(dataset)
    stored = _decode(dataset)
    with rejecting("cannot apply the DICOM's lookup tables", PYDICOM_ERRORS):
        padding = _padding(dataset, stored)
        values, declared = _modality(dataset, *_stored(dataset, stored, padding))
        grey = _present(dataset, values, declared, padding)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            grey = 255 - grey
        grey[padding] = 0
        return grey, int(dataset.BitsStored)


def _check_header(dataset: pydicom.Dataset) -> None:
    if "PixelData" not in dataset:
        raise ImageRejected("decode", f"a DICOM without pixel data (modality {dataset.get('Modality', 'not given')})")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise ImageRejected("decode", "no transfer syntax in the DICOM's meta header, which says how pixels are coded")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageRejected("decode", f"a DICOM of {frames} frames; one file has to hold one image")
    photometric = str(dataset.get("PhotometricInterpretation"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise ImageRejected(
            "colour", f"photometric interpretation {photometric}; a radiograph is MONOCHROME1 or MONOCHROME2"
        )
    check_size(int(dataset.Columns), int(dataset.Rows))


def _decode(dataset: pydicom.Dataset) -> NDArray[np.generic]:
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    remedy = "pip install 'cxrstore[dicom-lossless]'"
    with rejecting(f"cannot decode the pixels ({syntax.name})", PYDICOM_ERRORS):
        decoder = get_decoder(syntax)
        if not decoder.is_available:
            # The same bytes succeed once the extra is there: hence retryable.
            raise ImageRejected("decode", f"no decoder for {syntax.name} is installed: {remedy}", retryable=True)
        try:
            cut: Any = _has_overlay(dataset)  # pydicom annotates the option as if it were all options
            pixels: NDArray[np.generic] = decoder.as_array(dataset, correct_unused_bits=cut)[0]
        except RuntimeError as error:
            if not syntax.is_encapsulated:
                raise
            raise RuntimeError(f"{error} (further decoders: {remedy})") from error
    return pixels


def _has_overlay(dataset: pydicom.Dataset) -> bool:
    """Say whether the unused high bits hold an overlay (retired; PS3.3 C.9.2): only then may they be cut off.

    pydicom would cut them off always, and a value beyond the bits stored would wrap around unseen.
    """
    positions = (dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))
    return any(position is not None and position.value for position in positions)


def _padding(dataset: pydicom.Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark pixels outside the exposed field (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _stored(dataset: pydicom.Dataset, stored: NDArray[Any], padding: NDArray[np.bool_]) -> tuple[NDArray[Any], Range]:
    """Return the stored values with the range their bits declare; padding may lie outside and is moved inside."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    values = stored.astype(np.int64)
    if signed and values.min() >= 0 and values.max() < 1 << bits:  # written without sign extension, which is allowed
        values[values > high] -= 1 << bits
    values[padding] = np.clip(values[padding], low, high)
    _check_range(values, (low, high), f"{bits} bits stored, {'signed' if signed else 'unsigned'}")
    return values, (low, high)


def _check_range(values: NDArray[Any], declared: Range, what: str) -> None:
    smallest, largest = values.min(), values.max()
    if not (declared[0] <= smallest and largest <= declared[1]):
        raise ImageRejected(
            "decode",
            f"values {smallest:g}..{largest:g} leave the declared range {declared[0]:g}..{declared[1]:g} ({what})",
        )


def _modality(dataset: pydicom.Dataset, values: NDArray[Any], declared: Range) -> tuple[NDArray[Any], Range]:
    if dataset.get("ModalityLUTSequence"):
        return _lookup(dataset, dataset.ModalityLUTSequence[0], values)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return values, declared
    if not (np.isfinite([float(slope), float(intercept)]).all() and float(slope) != 0):
        raise ImageRejected("decode", f"rescale slope {slope} and intercept {intercept}; both finite, slope not 0")
    ends = sorted(end * float(slope) + float(intercept) for end in declared)
    return values * float(slope) + float(intercept), (ends[0], ends[1])


def _lookup(dataset: pydicom.Dataset, item: pydicom.Dataset, values: NDArray[Any]) -> tuple[NDArray[Any], Range]:
    """Look values up in a modality or VOI table (PS3.3 C.11.1.1, C.11.2.1.1).

    Not pydicom's `apply_voi`: its index has the table's output type, so 12-bit values into an 8-bit table wrap around.
    """
    entries, first, depth = (int(number) for number in item.LUTDescriptor)
    table = _table(dataset, item.LUTData, entries or 1 << 16, depth)
    _check_range(table, (0, (1 << depth) - 1), f"lookup table of {depth} bits")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[index], (0, (1 << depth) - 1)


def _table(dataset: pydicom.Dataset, raw: Any, entries: int, depth: int) -> NDArray[np.int64]:
    if isinstance(raw, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        packed = depth <= 8 and len(raw) < 2 * entries  # two 8-bit entries to a word
        table = np.frombuffer(raw, dtype="u1" if packed else f"{order}u2").astype(np.int64)
    else:
        table = np.atleast_1d(np.asarray(raw, dtype=np.int64))
    if len(table) < entries:
        raise ImageRejected("decode", f"the lookup table declares {entries} entries and has {len(table)}")
    return table[:entries]


def _present(
    dataset: pydicom.Dataset, values: NDArray[Any], declared: Range, padding: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Apply the first VOI LUT, else the first window, else the depth rule."""
    if dataset.get("VOILUTSequence"):
        table_values, table_range = _lookup(dataset, dataset.VOILUTSequence[0], values)
        return scale_to_8bit(table_values, *table_range)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None:
        return _window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    if int(dataset.BitsStored) <= 8:
        return scale_to_8bit(values, *declared)
    return stretch_to_8bit(values, ignore=padding)


def _window(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.uint8]:
    """Window to 0..255 (PS3.3 C.11.2.1.2-3).

    pydicom derives the output range from the data set and turns it over for a negative rescale slope; a data set that
    says "8 bits, unsigned, no rescale" makes the output 0..255 whatever came before.
    """
    view = pydicom.Dataset()
    view.PhotometricInterpretation, view.BitsStored, view.PixelRepresentation = "MONOCHROME2", 8, 0
    view.WindowCenter, view.WindowWidth, view.VOILUTFunction = centre, width, function
    with np.errstate(over="ignore"):  # a sigmoid's tail: exp overflows to infinity, 1 / infinity is the right 0
        return scale_to_8bit(apply_windowing(values, view), 0, 255)


def _first(value: Any) -> float | None:
    """Return the first of one or several values: further windows are alternative views."""
    if value is None or value == "":
        return None
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return float(value[0]) if len(value) else None
    return float(value)
