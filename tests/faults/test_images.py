"""Every kind of bad image is either refused with its file name or read correctly.

Each check has a negative control: without the check, the same file gives a wrong image or an error
that names no file.
"""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile
from torchvision.datasets.folder import pil_loader

from thesis_lib.config import RunConfig
from thesis_lib.data import datasets, images
from thesis_lib.data.cache import open_images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import MAX_PIXELS, read_pixels
from thesis_lib.data.splits import split_dataset
from thesis_lib.data.statistics import data_statistics, readable
from thesis_lib.errors import InputError

Y, X = np.mgrid[:48, :64]
PIXELS = np.stack((4 * X, 5 * Y, 2 * (X + Y)), axis=2).astype(np.uint8)  # no symmetry
NOISE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
ROTATED = {  # EXIF orientation -> how to transform the stored image
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def refusal(path: Path) -> str:
    """Return the error message for an image: one line that names the file."""
    with pytest.raises(InputError) as caught:
        read_pixels(path)
    message = str(caught.value)
    assert repr(str(path)) in message and "\n" not in message
    return message


def wrong_share(path: Path, whole: bytes) -> float:
    """Return the fraction of pixels that differ clearly from those of the whole file."""
    right = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")).astype(int)
    return (np.abs(read_pixels(path) - right).max(axis=2) > 30).mean()


def guard_taken_away(monkeypatch, name: str) -> None:
    """Disable a check of the package ``data``."""
    monkeypatch.setattr(images, name, lambda first, *_: first)


WHOLE = {
    "jpeg": encoded(NOISE, "JPEG"),
    "grey jpeg": encoded(NOISE[..., 0], "JPEG"),
    "progressive jpeg": encoded(NOISE, "JPEG", progressive=True),
    "jpeg with restarts": encoded(NOISE, "JPEG", restart_marker_blocks=2),
    "cmyk jpeg": encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "jpeg with thumbnail": encoded(
        NOISE, "JPEG", exif=b"Exif\0\0" + encoded(NOISE[:16, :16], "JPEG")
    ),
    "png": encoded(NOISE, "PNG"),
    "16-bit png": encoded(NOISE[..., 0].astype(np.uint16) * 200, "PNG"),
    "palette png": encoded(Image.fromarray(NOISE).quantize(16), "PNG"),
    "gif": encoded(NOISE, "GIF"),
    "tiff": encoded(NOISE, "TIFF"),
    "lzw tiff": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "bmp": encoded(NOISE, "BMP"),
    "ppm": encoded(NOISE, "PPM"),
    "webp": encoded(NOISE, "WEBP"),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns before it raises
def test_truncated_image_is_never_read_otherwise_than_whole(tmp_path, kind):
    path = tmp_path / "cut.jpg"
    path.write_bytes(WHOLE[kind])
    whole, lengths = read_pixels(path), range(1, len(WHOLE[kind]), 19)
    refused = 0
    for length in lengths:
        path.write_bytes(WHOLE[kind][:length])
        try:
            read = read_pixels(path)
        except InputError:
            refused += 1
        else:  # the missing bytes held no pixels
            assert np.array_equal(read, whole), length
    assert refused > 0.9 * len(lengths)


def test_half_a_jpeg_that_pillow_verifies_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "half.jpg"
    half = WHOLE["jpeg"][: len(WHOLE["jpeg"]) // 2]
    path.write_bytes(half)
    Image.open(path).verify()  # no error, as it only checks the header
    assert "cut short" in refusal(path)
    guard_taken_away(monkeypatch, "_check_jpeg")
    refusal(path)  # the decoders still raise
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert wrong_share(path, WHOLE["jpeg"]) > 0.3


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "jpeg" in kind])
def test_jpeg_that_ends_in_zeros_is_refused(tmp_path, monkeypatch, kind):
    """An interrupted copy leaves such a file if its full size was allocated first."""
    whole, path = WHOLE[kind], tmp_path / "zeros.jpg"
    lengths = range(len(whole) // 2, len(whole) - 2, 29)
    for length in lengths:
        path.write_bytes(whole[:length] + bytes(4096))
        assert "cut short" in refusal(path)
    if kind == "jpeg":
        guard_taken_away(monkeypatch, "_check_jpeg")
        path.write_bytes(whole[: len(whole) // 2] + bytes(4096))
        assert wrong_share(path, whole) > 0.3


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., 0]], ids=["colour", "grey"])
def test_png_with_changed_bytes_is_refused(tmp_path, monkeypatch, pixels):
    whole, path = encoded(pixels, "PNG"), tmp_path / "changed.png"
    data_end = len(whole) - 12  # the last chunk has no data
    lost = [whole[:length] + bytes(len(whole) - length) for length in range(41, data_end, 3)]
    flipped = [
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in range(33, data_end)
    ]
    for content in (*lost, *flipped):
        path.write_bytes(content)
        refusal(path)
    guard_taken_away(monkeypatch, "_check_png")
    wrong = []
    for content in lost:
        path.write_bytes(content)
        with contextlib.suppress(InputError):  # zeros are not always valid data
            wrong.append(wrong_share(path, whole))
    assert max(wrong) > 0.1


def write_bad(path: Path, kind: str) -> None:
    if kind == "link":
        path.symlink_to("moved away.jpg")
    else:
        path.write_bytes({"empty": b"", "text": b"this is\nno image\n"}[kind])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "it is empty"),
        ("text", "it is not an image of a supported format"),
        ("link", "it is a link to 'moved away.jpg', which does not exist"),
    ],
)
def test_file_that_is_no_image_is_named(tmp_path, monkeypatch, kind, reason):
    path = tmp_path / "bad.jpg"
    write_bad(path, kind)
    assert reason in refusal(path)
    monkeypatch.setattr(images, "UNREADABLE", ())
    with pytest.raises(OSError) as caught:  # which no caller expects
        read_pixels(path)
    assert not isinstance(caught.value, InputError)


def test_name_in_a_message_is_one_line(tmp_path):
    assert r"two\nlines.jpg" in refusal(tmp_path / "two\nlines.jpg")
    assert r"caf\udce9.jpg" in refusal(tmp_path / os.fsdecode(b"caf\xe9.jpg"))


DEEP = np.array([[0, 255, 256, 257], [1000, 32768, 65278, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(tmp_path, monkeypatch, kind):
    path = tmp_path / "deep"
    path.write_bytes(encoded(DEEP, kind))
    scaled = np.round(DEEP / 257)
    assert np.array_equal(read_pixels(path), np.repeat(scaled[..., None], 3, axis=2))
    guard_taken_away(monkeypatch, "_to_8_bits")
    assert (read_pixels(path)[..., 0] == np.minimum(DEEP, 255)).all()  # clipped to white


def tiff(pixels: bytes, height: int, width: int, bits: int, photometric: int = 1) -> bytes:
    """Return a TIFF with one strip in a format that Pillow does not write."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


RANGELESS = {
    "32 bits": (
        encoded(np.array([[0, 70000]], dtype=np.int32), "TIFF"),
        "it has 32 bits per pixel",
    ),
    "float": (encoded(np.array([[0, 0.5]], dtype=np.float32), "TIFF"), "floating-point numbers"),
    "12 bits": (tiff(b"\xff\xf0\x80", 1, 2, 12), "12 bits per pixel"),
    "0 is white": (tiff(DEEP.tobytes(), 2, 4, 16, photometric=0), "its value 0 means white"),
}


@pytest.mark.parametrize("kind", RANGELESS)
def test_values_without_a_known_range_are_refused(tmp_path, monkeypatch, kind):
    path = tmp_path / "values.tif"
    content, reason = RANGELESS[kind]
    path.write_bytes(content)
    assert reason in refusal(path)
    guard_taken_away(monkeypatch, "_to_8_bits")
    assert read_pixels(path).dtype == np.uint8  # an image of clipped values


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    height, width, _ = pixels.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_scaled_to_within_one_level(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, 3))
    (tmp_path / "deep.png").write_bytes(png_of_16_bits(deep))
    (tmp_path / "deep.ppm").write_bytes(b"P6 6 5 65535\n" + deep.astype(">u2").tobytes())
    for name in ("deep.png", "deep.ppm"):
        assert np.abs(read_pixels(tmp_path / name) - deep / 257).max() <= 1
    assert np.abs(np.minimum(deep, 255) - deep / 257).max() > 100  # clipping would be far off


def without_conversion(image: Image.Image, mode: str) -> Image.Image:
    return image


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colours_of_its_rgb(tmp_path, monkeypatch, kind):
    path = tmp_path / "ink.jpg"
    path.write_bytes(encoded(Image.fromarray(PIXELS).convert("CMYK"), kind))
    assert np.abs(read_pixels(path).astype(int) - PIXELS).mean() < 3
    monkeypatch.setattr(Image.Image, "convert", without_conversion)
    ink = read_pixels(path)[..., :3]
    assert np.abs(ink.astype(int) - PIXELS).mean() > 50


def test_cmyk_jpeg_that_does_not_say_its_sense_is_refused(tmp_path, monkeypatch):
    """Adobe stores inverted CMYK; without Adobe's marker the file may be inverted or not."""
    path = tmp_path / "ink.jpg"
    ink = np.asarray(Image.fromarray(PIXELS).convert("CMYK"))
    content = encoded(Image.fromarray(255 - ink, "CMYK"), "JPEG")
    start = content.index(b"\xff\xee")
    length = int.from_bytes(content[start + 2 : start + 4])
    path.write_bytes(content[:start] + content[start + 2 + length :])
    assert "CMYK values are ambiguous" in refusal(path)
    guard_taken_away(monkeypatch, "_check_jpeg")
    assert np.abs(read_pixels(path).astype(int) - PIXELS).mean() > 50


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 128, 7, 1, 2, 3])
    image.putdata([0, 1, 2])
    return image


TRANSPARENT = {
    "palette, bytes": encoded(palette_image(), "PNG", transparency=b"\0\x80\xff"),
    "palette, one colour": encoded(palette_image(), "PNG", transparency=1),
    "gif": encoded(palette_image(), "GIF", transparency=1),
    "rgba": encoded(np.dstack((NOISE, NOISE[..., :1])), "PNG"),
    "grey and alpha": encoded(Image.fromarray(NOISE[..., :2].copy(), "LA"), "PNG"),
    "webp": encoded(np.dstack((NOISE, NOISE[..., :1] | 1)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_as_torchvision_drops_it(tmp_path, monkeypatch, kind):
    path = tmp_path / "clear"
    path.write_bytes(TRANSPARENT[kind])
    read = read_pixels(path)
    if kind == "palette, bytes":
        assert read.tolist() == [[[255, 0, 0], [0, 128, 7], [1, 2, 3]]]
        with pytest.warns(UserWarning, match="Transparency"):
            theirs = pil_loader(path)
    else:
        theirs = pil_loader(path)
    assert np.array_equal(read, theirs)
    monkeypatch.setattr(Image.Image, "convert", without_conversion)
    assert read_pixels(path).shape != read.shape  # palette indices, or alpha as a channel


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encoded(PIXELS, kind, exif=exif, **lossless)


@pytest.mark.parametrize("orientation", ROTATED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_picture_is_turned_upright(tmp_path, monkeypatch, kind, orientation):
    path = tmp_path / "turned"
    path.write_bytes(encoded(PIXELS, kind, **({"lossless": True} if kind == "WEBP" else {})))
    stored = read_pixels(path)
    path.write_bytes(with_orientation(kind, orientation))
    assert np.array_equal(read_pixels(path), ROTATED[orientation](stored))
    monkeypatch.setattr(Image.Image, "getexif", lambda image: Image.Exif())
    assert np.array_equal(read_pixels(path), stored)


def test_orientation_of_grey_cmyk_and_xmp_counts_too(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for mode in ("L", "CMYK"):
        image = Image.fromarray(PIXELS).convert(mode)
        path.write_bytes(encoded(image, "JPEG"))
        stored = read_pixels(path)
        path.write_bytes(encoded(image, "JPEG", exif=exif))
        assert np.array_equal(read_pixels(path), np.rot90(stored, -1))
    path.write_bytes(encoded(PIXELS, "JPEG", xmp=b'<x tiff:Orientation="6"/>'))
    assert read_pixels(path).shape == (64, 48, 3)


def test_upright_jpeg_is_decoded_by_torchvision_and_a_turned_one_is_not(tmp_path, monkeypatch):
    decoded, decode = [], images._decode_jpeg
    monkeypatch.setattr(images, "_decode_jpeg", lambda file: decoded.append(1) or decode(file))
    path = tmp_path / "camera.jpg"
    for content, calls in (
        (encoded(PIXELS, "JPEG"), 1),
        (with_orientation("JPEG", 1), 2),
        (with_orientation("JPEG", 6), 2),
    ):
        path.write_bytes(content)
        read_pixels(path)
        assert len(decoded) == calls


FRAMES = [Image.fromarray(frame).convert("RGB") for frame in (NOISE, 255 - NOISE)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(tmp_path, monkeypatch, kind):
    path = tmp_path / "moving"
    path.write_bytes(encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:]))
    assert "it has 2 frames, but an image must have exactly one" in refusal(path)
    guard_taken_away(monkeypatch, "_check_frames")
    assert read_pixels(path).shape == NOISE.shape  # one of the frames


def test_first_picture_of_a_cameras_mpo_is_read(tmp_path):
    path = tmp_path / "phone.jpg"
    path.write_bytes(encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]))
    assert Image.open(path).format == "MPO"
    alone = tmp_path / "alone.jpg"
    alone.write_bytes(encoded(FRAMES[0], "JPEG"))
    assert np.array_equal(read_pixels(path), read_pixels(alone))


def test_mpo_that_ends_in_zeros_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "phone.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    views = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    whole = encoded(views[0], "MPO", save_all=True, append_images=views[1:])
    path.write_bytes(whole)
    with Image.open(path) as image:
        first = image.mpinfo[images.MP_ENTRY][0]["Size"]
    path.write_bytes(whole[: first // 2] + bytes(len(whole) - first // 2))
    assert "cut short" in refusal(path)
    guard_taken_away(monkeypatch, "_check_jpeg")
    assert wrong_share(path, whole) > 0.2


def test_postscript_named_jpg_is_no_image(tmp_path, monkeypatch):
    """Pillow passes it to Ghostscript, if installed, which executes the program in it."""
    path = tmp_path / "trap.jpg"
    path.write_bytes(encoded(Image.new("RGB", (8, 8)), "EPS"))
    assert "not an image of a supported format" in refusal(path)
    monkeypatch.setattr(images, "FORMATS", None)
    assert "not an image of a supported format" not in refusal(path)  # it got as far as Ghostscript


def test_bomb_is_refused_with_its_size_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(encoded(Image.new("1", (20000, 10000)), "PNG"))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", None)
    message = refusal(path)
    assert "200000000 pixels" in message and f"limit of {MAX_PIXELS} pixels" in message


def test_limit_of_pixels_is_what_keeps_a_bomb_out(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(encoded(Image.new("1", (101, 100)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000 // 2)
    assert "10100 pixels" in refusal(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_pixels(path).shape == (100, 101, 3)


def test_large_picture_below_the_limit_is_opened_without_a_warning(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.new("1", (10000, 10000)), "PNG"))
    opening = f"from PIL import Image; Image.open({str(path)!r})"
    for first, warned in (("import thesis_lib.data.datasets; ", False), ("", True)):
        done = subprocess.run(
            [sys.executable, "-c", first + opening],
            cwd=Path(datasets.__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and ("DecompressionBombWarning" in done.stderr) == warned


UNWRITABLE_NAMES = {
    "newline": b"two\nlines",
    "tab": b"a\tb",
    "escape": b"\x1b[31mred",
    "not UTF-8": b"caf\xe9",
    "line separator": "a\u2028b".encode(),
}


def write_named(classes: Path, place: str, name: bytes) -> None:
    """Add an image whose file, folder or class folder has that name."""
    folder, name = classes / "002_one.dot", os.fsdecode(name)
    image = {
        "file": folder / f"{name}.png",
        "folder": folder / name / "x.png",
        "class": classes / name / "x.png",
    }[place]
    image.parent.mkdir(exist_ok=True)
    Image.fromarray(PIXELS).save(image)


@pytest.mark.parametrize("place", ["file", "folder", "class"])
@pytest.mark.parametrize("kind", UNWRITABLE_NAMES)
def test_name_that_no_table_can_hold_is_refused(workbook, monkeypatch, place, kind):
    name = UNWRITABLE_NAMES[kind]
    for folder, opening in (
        (workbook / "data" / "tiny" / "train", lambda: open_dataset("data/tiny")),
        (workbook / "classes", lambda: split_dataset(workbook / "classes", workbook / "again")),
    ):
        write_named(folder, place, name)
        with pytest.raises(InputError) as caught:
            opening()
        message = str(caught.value)
        assert repr(os.fsdecode(name))[1:-1] in message and "rename it" in message
        assert message.isprintable()
        assert not (workbook / "again").exists()
    monkeypatch.setattr(images, "check_names", lambda *_: None)
    found = [*open_dataset("data/tiny").classes, *open_dataset("data/tiny").splits["train"].files]
    assert any(os.fsdecode(name) in item for item in found)


def test_name_that_is_not_utf8_would_break_the_manifest(workbook, monkeypatch):
    write_named(workbook / "classes", "file", b"caf\xe9")
    monkeypatch.setattr("thesis_lib.data.sources.folders.check_names", lambda *_: None)
    with pytest.raises(UnicodeEncodeError):
        split_dataset(workbook / "classes", workbook / "again")


def test_odd_names_of_what_is_no_image_do_not_matter(workbook):
    folder = workbook / "data" / "tiny" / "train" / "002_one.dot"
    (folder / "two\nlines.txt").write_text("no image")
    (folder / ".hid\nden.png").write_text("no image")
    open_dataset("data/tiny")


def test_broken_link_has_a_place_in_the_fingerprint(workbook, monkeypatch):
    before = open_dataset("data/tiny").fingerprint
    target = workbook / "away.png"
    link = workbook / "data" / "tiny" / "val" / "002_one.dot" / "zz.png"
    link.symlink_to(target)
    broken = open_dataset("data/tiny").fingerprint
    Image.fromarray(PIXELS).save(target)
    assert len({before, broken, open_dataset("data/tiny").fingerprint}) == 3
    target.unlink()
    monkeypatch.setattr(datasets, "_size", lambda file: file.stat().st_size)
    with pytest.raises(FileNotFoundError):
        _ = open_dataset("data/tiny").fingerprint


@pytest.fixture
def damaged(workbook):
    """data/tiny with images of several sizes and one bad image in each split."""
    files = sorted((workbook / "data" / "tiny").glob("*/*/*.png"))
    for number, file in enumerate(files):
        file.unlink()  # it is a hard link, so do not overwrite it
        Image.fromarray(NOISE[: 9 + number % 4, : 12 - number % 3]).save(file)
    for split, kind in (("train", "empty"), ("val", "link"), ("test", "text")):
        bad = workbook / "data" / "tiny" / split / "002_one.dot" / "000a.png"
        write_bad(bad, kind)
    return open_dataset("data/tiny")


def test_bad_image_stops_by_default(damaged):
    with pytest.raises(InputError) as caught:
        readable(damaged, data_statistics(damaged), RunConfig())
    message = str(caught.value)
    assert "000a.png" in message and "and 2 more" in message
    assert "--on-bad-image skip" in message and "\n" not in message


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_skipped_images_are_counted_listed_and_gone(damaged, capsys, cache):
    config = RunConfig(data="data/tiny", on_bad_image="skip", cache=cache)
    statistics = data_statistics(damaged)
    capsys.readouterr()
    kept = readable(damaged, statistics, config)
    assert capsys.readouterr().out == (
        "skipped 3 of 63 images that cannot be read (1 in train/, 1 in val/, 1 in test/): "
        "listed in runs/tiny/images.csv\n"
    )
    assert kept.left_out("test") == ["test/002_one.dot/000a.png"]
    assert kept.fingerprint == open_dataset("data/tiny").fingerprint
    for name, split in kept.splits.items():
        images, _ = open_images(kept, name, statistics, config)
        assert len(images) == len(split) == len(split.labels) == len(damaged.splits[name]) - 1
        for number, file in enumerate(split.files):
            assert kept.classes[split.labels[number]] == file.split("/")[1]
            assert np.array_equal(images[number], read_pixels(kept.root / file))


def test_skipped_image_would_stop_the_decoding_were_it_kept(damaged):
    config = RunConfig(data="data/tiny", on_bad_image="skip", cache="memory")
    statistics = data_statistics(damaged)
    with pytest.raises(InputError, match=r"000a\.png"):
        open_images(damaged, "train", statistics, config)


def test_sizes_are_those_of_the_images_that_are_kept(damaged):
    config = RunConfig(data="data/tiny", on_bad_image="skip", cache="memory")
    statistics = data_statistics(damaged)
    kept = readable(damaged, statistics, config)
    sizes = open_images(kept, "train", statistics, config)[0].sizes
    shapes = [read_pixels(kept.root / file).shape for file in kept.splits["train"].files]
    assert sizes.tolist() == [[width, height] for height, width, _ in shapes]
    every = statistics.images.query("split == 'train'")[["width", "height"]].to_numpy()
    assert not np.array_equal(every[: len(sizes)], sizes)  # as without leaving out the bad image
