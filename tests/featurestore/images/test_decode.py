"""Decoding: every mode by hand-made files, every kind of bad file by its reason."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featurestore.errors import ImageRejected
from featurestore.images.decode import MAX_PIXELS, DecodedImage, hash_pixels, read_image

GREY = np.add.outer(np.arange(32), 6 * np.arange(40)).astype(np.uint8)  # (32, 40), values 0..265 wrapped


def save(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def rejected(uri: Path | str) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        read_image(str(uri))
    return caught.value


def test_grey_png_comes_back_as_stored_with_both_hashes(tmp_path: Path) -> None:
    uri = save(tmp_path / "a.png", Image.fromarray(GREY))
    decoded = read_image(uri)
    assert np.array_equal(decoded.pixels, GREY)
    assert (decoded.width, decoded.height, decoded.bits) == (40, 32, 8)
    assert decoded.file_hash == hashlib.sha256(Path(uri).read_bytes()).hexdigest()
    assert decoded.pixel_hash == hashlib.sha256(b"32x40\n" + GREY.tobytes()).hexdigest()


def test_equal_bytes_of_another_shape_have_another_pixel_hash() -> None:
    assert hash_pixels(GREY) != hash_pixels(GREY.reshape(40, 32))
    assert hash_pixels(np.asfortranarray(GREY)) == hash_pixels(GREY)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_one_grey_whatever_the_mode(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(GREY)
    suffix = "tif" if mode == "CMYK" else "png"
    picture = grey.convert("RGB").convert("CMYK") if mode == "CMYK" else grey.convert(mode)
    decoded = read_image(save(tmp_path / f"a.{suffix}", picture))
    assert np.array_equal(decoded.pixels, GREY)
    assert decoded.bits == 8


def test_the_same_pixels_in_two_modes_share_the_pixel_hash_only(tmp_path: Path) -> None:
    grey = Image.fromarray(GREY)
    first = read_image(save(tmp_path / "a.png", grey))
    second = read_image(save(tmp_path / "b.png", grey.convert("RGBA")))
    assert first.pixel_hash == second.pixel_hash
    assert first.file_hash != second.file_hash


def test_alpha_is_dropped(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY).convert("RGBA")
    picture.putalpha(Image.fromarray(255 - GREY))
    assert np.array_equal(read_image(save(tmp_path / "a.png", picture)).pixels, GREY)


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    uri = save(tmp_path / "a.png", Image.fromarray(GREY).convert("P"), transparency=bytes([0, 100, 255]))
    assert np.array_equal(read_image(uri).pixels, GREY)


def test_one_bit(tmp_path: Path) -> None:
    bits = GREY > 100
    decoded = read_image(save(tmp_path / "a.png", Image.fromarray(bits)))
    assert np.array_equal(decoded.pixels, np.where(bits, 255, 0))
    assert decoded.bits == 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_stretched_from_its_own_minimum_to_its_maximum(tmp_path: Path, suffix: str) -> None:
    deep = GREY.astype(np.uint16) * 13 + 700
    decoded = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(deep)))
    low, high = int(deep.min()), int(deep.max())
    expected = [[round((int(value) - low) * 255 / (high - low)) for value in row] for row in deep]
    assert np.array_equal(decoded.pixels, expected)
    assert decoded.bits == 16


def test_16_bit_without_contrast_is_rejected(tmp_path: Path) -> None:
    error = rejected(save(tmp_path / "a.png", Image.fromarray(np.full((32, 32), 900, np.uint16))))
    assert error.stage == "decode"
    assert "every pixel is 900" in error.reason


def test_float_is_rejected(tmp_path: Path) -> None:
    error = rejected(save(tmp_path / "a.tif", Image.fromarray(GREY.astype(np.float32))))
    assert "pixel mode F has no declared grey range" in error.reason


def test_16_bit_colour_is_rejected_rather_than_cut_to_its_high_byte(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">3H", 300, 300, 300) * 16

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 16)) + chunk(b"IEND", b""))
    assert "16 bits in each of several channels" in rejected(path).reason


def test_colour_beyond_the_tolerance_is_rejected(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
    error = rejected(save(tmp_path / "a.png", Image.fromarray(colour)))
    assert error.stage == "colour"
    assert "channels differ by more than 16 levels" in error.reason
    assert not error.retryable


@pytest.mark.parametrize(("n_coloured", "passes"), [(12, True), (13, False)])  # 1 % of 32 x 40 is 12.8
def test_the_share_of_coloured_pixels_decides(tmp_path: Path, n_coloured: int, passes: bool) -> None:
    rgb = np.repeat(np.full((32, 40, 1), 100, np.uint8), 3, axis=2)
    rgb[0, :n_coloured, 0] = 117
    uri = save(tmp_path / "a.png", Image.fromarray(rgb))
    if passes:
        assert read_image(uri).pixels.shape == (32, 40)
    else:
        assert rejected(uri).stage == "colour"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 1), "1 x 1 pixels; at least 16 on each side"),
        ((400, 15), "400 x 15 pixels"),
        ((20_000, 20_000), "more than 100 megapixels, not decoded"),
        ((12_000, 10_000), "more than 100 megapixels, not decoded"),
    ],
)
def test_size_is_read_off_the_header(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(*size))
    error = rejected(path)
    assert error.stage == "size"
    assert words in error.reason


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_checked_where_pillow_only_warns(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(12_000, 10_000))
    assert "not decoded: 12000 x 10000" in rejected(tmp_path / "a.png").reason


def test_sizes_between_the_limits_pass(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.png", Image.new("L", (28, 28)))).width == 28
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def _truncated(format_: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(buffer, format_)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"hello, I am text", r"no image format known here starts with b'hello, I'"),
        (b"GIF89a" + b"\0" * 40, "no image format known here"),
        (_truncated("PNG"), "cannot decode the PNG: .*truncated"),
        (_truncated("JPEG"), "cannot decode the JPEG: .*truncated"),
    ],
)
def test_broken_content_is_named_and_not_retryable(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageRejected, match=words) as caught:
        read_image(str(path))
    assert (caught.value.stage, caught.value.retryable) == ("decode", False)


def test_the_reason_is_the_same_in_every_run(tmp_path: Path) -> None:
    """A memory address in it would make a new row of `rejects` each time."""
    path = tmp_path / "a.png"
    path.write_bytes(b"not an image")
    assert rejected(path).reason == rejected(path).reason
    assert "0x" not in rejected(path).reason


def test_missing_file_and_dangling_link_can_be_retried(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "gone.png")
    missing, dangling = rejected(tmp_path / "none.png"), rejected(link)
    assert (missing.stage, missing.retryable, missing.reason) == ("path", True, "no such file")
    assert (dangling.stage, dangling.retryable) == ("path", True)
    assert "a link whose target does not exist" in dangling.reason


def test_folder_pipe_and_null_byte_do_not_hang_or_crash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in rejected(tmp_path / "pipe.png").reason
    assert "not a regular file" in rejected(tmp_path).reason
    assert rejected("a\0b.png").stage == "path"


def test_several_pages_are_rejected(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    uri = save(tmp_path / "a.tif", page, save_all=True, append_images=[page, page])
    assert "3 frames; one file has to hold one image" in rejected(uri).reason


def image_or_reject(path: Path) -> DecodedImage | ImageRejected:
    """Return what `read_image` gives; anything else it raises fails the test."""
    try:
        return read_image(str(path))
    except ImageRejected as error:
        return error


def _encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "BMP", "JPEG2000", "PPM", "WEBP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_files_end_as_an_image_or_as_rejected(
    tmp_path_factory: pytest.TempPathFactory, format_: str, data: st.DataObject
) -> None:
    raw = bytearray(_encoded(format_))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{format_}"
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    decoded = image_or_reject(path)
    if isinstance(decoded, ImageRejected):
        assert decoded.stage in ("decode", "size", "colour")
        assert decoded.reason
    else:
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape == (decoded.height, decoded.width)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "a#b.npz"
    images = np.random.default_rng(1).integers(0, 255, (5, 28, 28), np.uint8)
    colour = np.random.default_rng(1).integers(0, 255, (2, 28, 28, 3), np.uint8)
    np.savez_compressed(path, train_images=images, val_images=colour, test_images=images.astype(np.float32))
    return path


def test_npz_row(npz: Path) -> None:
    row = np.load(npz)["train_images"][3]
    decoded = read_image(f"{npz}#train/3")
    assert np.array_equal(decoded.pixels, row)
    assert decoded.file_hash == hashlib.sha256(row.tobytes()).hexdigest()
    assert decoded.pixel_hash == hash_pixels(row)


@pytest.mark.parametrize(
    ("row", "stage", "words"),
    [
        ("train/5", "decode", "no row '5' in train_images, which has rows 0..4"),
        ("train/-1", "decode", "no row '-1'"),
        ("other/0", "decode", "cannot read other_images of the .npz"),
        ("val/0", "colour", "channels differ"),
        ("test/0", "decode", "test_images is float32"),
    ],
)
def test_npz_rows_that_cannot_be_read(npz: Path, row: str, stage: str, words: str) -> None:
    error = rejected(f"{npz}#{row}")
    assert error.stage == stage
    assert words in error.reason


def test_npz_that_is_missing_or_no_zip_or_would_unpickle(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}, {}], dtype=object))
    assert rejected(f"{tmp_path}/none.npz#train/0").retryable
    assert rejected(f"{tmp_path}/text.npz#train/0").stage == "decode"
    assert "train_images is object" in rejected(f"{tmp_path}/objects.npz#train/0").reason


def test_a_rewritten_npz_is_read_again(npz: Path) -> None:
    before = read_image(f"{npz}#train/0").pixel_hash
    np.savez(npz, train_images=np.zeros((5, 28, 28), np.uint8))
    assert read_image(f"{npz}#train/0").pixel_hash != before


def test_many_threads_read_the_same_as_one(npz: Path, tmp_path: Path) -> None:
    png = save(tmp_path / "a.png", Image.fromarray(GREY).convert("RGBA"))
    uris = [f"{npz}#train/{index}" for index in range(5)] + [png]
    read: Callable[[str], str] = lambda uri: read_image(uri).pixel_hash  # noqa: E731
    alone = [read(uri) for uri in uris] * 40
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, uris * 40)) == alone


def test_the_751_nih_images_decode_to_one_channel(shared_data: Path) -> None:
    files = sorted((shared_data / "nih1000" / "images").glob("*.png"))
    assert len(files) == 751
    for path in files[::10]:
        decoded = read_image(str(path))
        assert np.array_equal(decoded.pixels, np.asarray(Image.open(path))[..., 0])


def test_pneumoniamnist_has_5827_contents(shared_data: Path) -> None:
    uri = f"{shared_data / 'pneumoniamnist.npz'}#"
    parts = (("train", 4708), ("val", 524), ("test", 624))
    hashes = [read_image(f"{uri}{part}/{index}").pixel_hash for part, rows in parts for index in range(rows)]
    assert len(hashes) == 5856
    assert len(set(hashes)) == 5827


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_16_bit_tiff_that_counts_from_white_is_inverted(tmp_path: Path, photometric: int) -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    uri = save(tmp_path / "ramp.tiff", Image.fromarray(ramp), tiffinfo={262: photometric})
    pixels = read_image(uri).pixels
    assert pixels[0, 0] == (255 if photometric == 0 else 0)
    assert pixels[-1, -1] == (0 if photometric == 0 else 255)


def test_a_photograph_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    picture = np.zeros((20, 40), np.uint8)
    picture[:, :20] = 200
    exif = Image.Exif()
    exif[274] = 6  # the camera was held on its side: turn clockwise to see it upright
    pixels = read_image(save(tmp_path / "x.png", Image.fromarray(picture), exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(picture, -1))


def test_content_is_compared_before_it_is_decoded(tmp_path: Path) -> None:
    uri = save(tmp_path / "x.png", Image.fromarray(np.zeros((20, 20), np.uint8)))
    expected = read_image(uri).file_hash
    assert read_image(uri, expected=expected).file_hash == expected
    Path(uri).write_bytes(Path(uri).read_bytes()[:30])
    with pytest.raises(ImageRejected, match="content changed since it was ingested") as caught:
        read_image(uri, expected=expected)
    assert (caught.value.stage, caught.value.retryable) == ("changed", True)
