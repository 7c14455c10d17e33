"""DICOM to grey, against the formulas of the standard written out again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless, generate_uid

from featurestore.errors import ImageRejected
from featurestore.images.decode import DecodedImage, read_image

RAMP = (np.arange(32 * 24) * 5).reshape(32, 24)  # 0..3835: inside 12 bits


def dicom(pixels: np.ndarray | None = RAMP, *, bits: int = 12, signed: bool = False, **elements: Any) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["cxr"])
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.astype(f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}").tobytes()
        dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def lut(entries: list[int], first: int, depth: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, depth])
    item.add_new("LUTData", "US", entries)
    return Sequence([item])


def to_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def write_and_read(dataset: Dataset) -> Any:
        path = tmp_path / "a.dcm"
        path.write_bytes(to_bytes(dataset))
        return read_image(str(path))

    return write_and_read


def linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, output 0..255, element by element."""

    def one(x: float) -> float:
        if x <= centre - 0.5 - (width - 1) / 2:
            return 0.0
        if x > centre - 0.5 + (width - 1) / 2:
            return 255.0
        return ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255

    return np.rint(np.vectorize(one)(values)).astype(np.uint8)


def test_eight_bits_come_back_as_stored(read: Any) -> None:
    pixels = RAMP % 200
    decoded = read(dicom(pixels, bits=8))
    assert np.array_equal(decoded.pixels, pixels)
    assert decoded.bits == 8


def test_monochrome1_is_inverted(read: Any) -> None:
    inverted = read(dicom(RAMP % 200, bits=8, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted.pixels, 255 - RAMP % 200)


def test_without_a_window_deeper_images_are_stretched(read: Any) -> None:
    decoded = read(dicom(RAMP + 100))
    assert np.array_equal(decoded.pixels, np.rint(RAMP * 255 / RAMP.max()))
    assert decoded.bits == 12


def test_padding_neither_sets_the_range_nor_lights_up(read: Any) -> None:
    pixels = RAMP + 100
    pixels[:4] = 0
    decoded = read(dicom(pixels, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1"))
    low, high = pixels[4:].min(), pixels[4:].max()
    assert (decoded.pixels[:4] == 0).all()
    assert np.array_equal(decoded.pixels[4:], 255 - np.rint((pixels[4:] - low) * 255 / (high - low)))


@pytest.mark.parametrize("signed", [False, True])
def test_linear_window_after_rescale(read: Any, signed: bool) -> None:
    pixels = RAMP - 2000 if signed else RAMP
    elements = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "1500", "WindowWidth": "2500"}
    decoded = read(dicom(pixels, signed=signed, **elements))
    assert np.array_equal(decoded.pixels, linear(pixels * 2.0 - 1000, 1500, 2500))


def test_a_negative_slope_turns_the_image_over_once(read: Any) -> None:
    elements = {"RescaleSlope": "-1", "RescaleIntercept": "4095", "WindowCenter": "2000", "WindowWidth": "3000"}
    assert np.array_equal(read(dicom(**elements)).pixels, linear(4095.0 - RAMP, 2000, 3000))


def test_linear_exact_and_sigmoid(read: Any) -> None:
    window = {"WindowCenter": "1800", "WindowWidth": "1000"}
    exact = read(dicom(**window, VOILUTFunction="LINEAR_EXACT")).pixels
    sigmoid = read(dicom(**window, VOILUTFunction="SIGMOID")).pixels
    assert np.array_equal(exact, np.rint(np.clip((RAMP - 1800) / 1000 + 0.5, 0, 1) * 255))
    assert np.array_equal(sigmoid, np.rint(255 / (1 + np.exp(-4 * (RAMP - 1800) / 1000))))


def test_a_narrow_sigmoid_overflows_quietly(read: Any) -> None:
    pixels = read(dicom(WindowCenter="1800", WindowWidth="0.5", VOILUTFunction="SIGMOID")).pixels
    assert set(np.unique(pixels)) <= {0, 128, 255}


def test_the_first_of_several_windows_counts_and_an_empty_one_does_not(read: Any) -> None:
    several = read(dicom(WindowCenter=["1500", "99"], WindowWidth=["2500", "10"])).pixels
    assert np.array_equal(several, linear(RAMP, 1500, 2500))
    assert np.array_equal(read(dicom(WindowCenter=None, WindowWidth=None)).pixels, read(dicom()).pixels)


def test_voi_lut_wins_over_the_window_and_is_scaled_from_its_depth(read: Any) -> None:
    table = [min(entry, 1023) for entry in range(0, 2048, 2)]
    decoded = read(dicom(VOILUTSequence=lut(table, 500, 10), WindowCenter="1", WindowWidth="2"))
    expected = np.rint(np.array(table)[np.clip(RAMP - 500, 0, 1023)] * 255 / 1023)
    assert np.array_equal(decoded.pixels, expected)


def test_an_8_bit_lut_over_12_bit_values_does_not_wrap_around(read: Any) -> None:
    table = [entry // 16 for entry in range(4096)]
    assert np.array_equal(read(dicom(VOILUTSequence=lut(table, 0, 8))).pixels, RAMP // 16)


def test_lut_with_a_negative_first_value(read: Any) -> None:
    table = list(range(0, 4096, 2))
    decoded = read(dicom(RAMP - 2000, signed=True, VOILUTSequence=lut(table, -1024, 12)))
    expected = np.array(table)[np.clip(RAMP - 2000 + 1024, 0, 2047)] * 255 / 4095
    assert np.array_equal(decoded.pixels, np.rint(expected))


def test_lut_as_bytes_in_either_byte_order(read: Any) -> None:
    table = np.arange(4096, dtype=np.uint16)
    dataset = dicom(VOILUTSequence=lut([0], 0, 12))
    item = dataset.VOILUTSequence[0]
    item.LUTDescriptor = [4096, 0, 12]
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    little = read(dataset).pixels
    assert np.array_equal(little, np.rint(RAMP * 255 / 4095))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    item.LUTData = table.astype(">u2").tobytes()
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    assert np.array_equal(read(dataset).pixels, little)


def test_modality_lut_before_the_window(read: Any) -> None:
    table = [4095 - entry for entry in range(4096)]
    decoded = read(dicom(ModalityLUTSequence=lut(table, 0, 12), WindowCenter="2000", WindowWidth="3000"))
    assert np.array_equal(decoded.pixels, linear(4095.0 - RAMP, 2000, 3000))


@settings(max_examples=30, deadline=None)
@given(
    slope=st.sampled_from([0.5, 1, 2.25]),
    intercept=st.integers(-2000, 500),
    centre=st.integers(-500, 3000),
    width=st.integers(2, 4000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_agree_with_pydicom_on_the_whole_data_set(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: int, centre: int, width: int, function: str
) -> None:
    dataset = dicom(RescaleSlope=slope, RescaleIntercept=intercept, VOILUTFunction=function)
    dataset.WindowCenter, dataset.WindowWidth = centre, width
    path = tmp_path_factory.getbasetemp() / "window.dcm"
    path.write_bytes(to_bytes(dataset))
    with np.errstate(over="ignore"):
        shown = apply_voi_lut(apply_modality_lut(RAMP.astype(np.uint16), dataset), dataset)
    low, high = intercept, 4095 * slope + intercept
    expected = (shown - low) * 255 / (high - low)
    assert np.abs(read_image(str(path)).pixels - expected).max() <= 0.5 + 1e-6


def test_values_beyond_the_bits_stored_fail_loudly(read: Any) -> None:
    with pytest.raises(ImageRejected, match=r"values 0\.\.5000 leave the declared range 0\.\.4095 \(12 bits stored"):
        read(dicom(np.where(RAMP == 5, 5000, RAMP)))


def test_signed_values_may_be_written_without_sign_extension(read: Any) -> None:
    pixels = RAMP - 2000
    dataset = dicom(pixels, signed=True)
    extended = read(dataset).pixels
    dataset.PixelData = (pixels & 0xFFF).astype("<u2").tobytes()
    assert np.array_equal(read(dataset).pixels, extended)


def test_an_overlay_in_the_unused_bits_is_cut_off(read: Any) -> None:
    dataset = dicom(RAMP + 4096 * (RAMP % 2))
    dataset.add_new((0x6000, 0x0102), "US", 12)
    assert np.array_equal(read(dataset).pixels, read(dicom()).pixels)


def test_a_lut_beyond_its_depth_fails_loudly(read: Any) -> None:
    with pytest.raises(ImageRejected, match=r"leave the declared range 0\.\.1023 \(lookup table of 10 bits\)"):
        read(dicom(VOILUTSequence=lut(list(range(4096)), 0, 10)))


@pytest.mark.parametrize(
    ("dataset", "stage", "words"),
    [
        (dicom(None), "decode", "a DICOM without pixel data (modality DX)"),
        (dicom(NumberOfFrames=2), "decode", "a DICOM of 2 frames"),
        (dicom(PhotometricInterpretation="RGB", SamplesPerPixel=3), "colour", "photometric interpretation RGB"),
        (dicom(PhotometricInterpretation="PALETTE COLOR"), "colour", "a radiograph is MONOCHROME1 or MONOCHROME2"),
        (dicom(Rows=20_000, Columns=20_000), "size", "more than 100 megapixels, not decoded: 20000 x 20000"),
        (dicom(np.zeros((1, 1))), "size", "1 x 1 pixels"),
        (dicom(Rows=64), "decode", "cannot decode the pixels (Explicit VR Little Endian)"),
        (dicom(np.full((32, 24), 7)), "decode", "every pixel is 7"),
        (dicom(RescaleSlope="0", RescaleIntercept="1"), "decode", "rescale slope 0"),
        (dicom(WindowCenter="5", WindowWidth="0"), "decode", "Window Width must be greater than or equal to 1"),
        (dicom(WindowCenter="5", WindowWidth="9", VOILUTFunction="CURVED"), "decode", "Unsupported"),
    ],
)
def test_what_cannot_be_shown_is_named(read: Any, dataset: Dataset, stage: str, words: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        read(dataset)
    assert caught.value.stage == stage
    assert words in caught.value.reason


def test_a_missing_decoder_names_the_extra_and_can_be_retried(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})  # as where no plugin is installed
    dataset = dicom(PixelData=pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"]))
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(ImageRejected, match=r"pip install 'cxrstore\[dicom-lossless\]'") as caught:
        read(dataset)
    assert caught.value.retryable


def test_rle_through_pydicoms_own_decoder(read: Any) -> None:
    dataset = dicom()
    plain = read(dataset).pixels
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(read(dataset).pixels, plain)


def test_headers_with_odd_values_are_read_without_a_warning(read: Any) -> None:
    dataset = dicom()
    with pydicom.config.disable_value_validation():
        dataset.PatientAge, dataset.PatientID = "fifty-eight years", "x" * 100
        assert read(dataset).pixels.shape == RAMP.shape


def image_or_reject(path: Path) -> DecodedImage | ImageRejected:
    """Return what `read_image` gives; anything else it raises fails the test."""
    try:
        return read_image(str(path))
    except ImageRejected as error:
        return error


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_dicom_ends_as_an_image_or_as_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(
        to_bytes(dicom(VOILUTSequence=lut(list(range(1024)), 0, 10), RescaleSlope="1", RescaleIntercept="0"))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(132, 800))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(raw[: data.draw(st.integers(133, len(raw)))])
    decoded = image_or_reject(path)
    if isinstance(decoded, ImageRejected):
        assert decoded.stage in ("decode", "size", "colour")
        assert decoded.reason
    else:
        assert decoded.pixels.dtype == np.uint8


def test_the_real_pair_is_one_image_and_its_negative(shared_data: Path) -> None:
    one, two = (read_image(str(shared_data / "dicom" / f"monochrome{number}.dcm")) for number in (1, 2))
    assert one.pixels.shape == (1024, 1024)
    assert np.array_equal(one.pixels, 255 - two.pixels)  # the files hold the same stored values under both names
    stored = pydicom.dcmread(shared_data / "dicom" / "monochrome2.dcm").pixel_array
    assert np.array_equal(two.pixels, stored)
