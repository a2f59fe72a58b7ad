"""Data sets in class folders, compared with torchvision; images of all formats are read as RGB."""

import io
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from thesis_lib.config import RunConfig
from thesis_lib.data.cache import open_images
from thesis_lib.data.datasets import open_dataset, sample_images
from thesis_lib.data.images import read_pixels
from thesis_lib.data.leakage.image_hashes import image_hashes
from thesis_lib.data.statistics import data_statistics
from thesis_lib.errors import InputError

GREY = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20) % 251


def make_dataset(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    """``counts``: split -> class -> number of images."""
    random = np.random.default_rng(0)
    for split, classes in counts.items():
        for name, n in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 256, (6 + i, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return root


@pytest.fixture
def dataset_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = {"b c": 3, "a.1": 2, "Z": 4, "Ω": 1}
    some = {"Z": 1, "a.1": 2}
    return make_dataset(tmp_path / "data" / "tiny", {"train": classes, "val": some, "test": some})


class TestCropBottom:
    """Rows of a legend that dataset.json, or the setting, cuts off every image."""

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for split, name in product(("train", "val"), "ab"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((20 + i, 30, 3), 100, dtype=np.uint8)
                pixels[-5:] = 0
                Image.fromarray(pixels).save(tmp_path / "d" / split / name / f"{i}.png")
        return tmp_path / "d"

    def test_every_reader_leaves_them_out(self, root):
        whole = open_dataset("d")
        (root / "dataset.json").write_text('{"crop_bottom": 5}')
        dataset = open_dataset("d")
        assert dataset.crop_bottom == 5 and dataset.fingerprint != whole.fingerprint
        measured = data_statistics(dataset)
        assert measured.mean == pytest.approx([100 / 255] * 3) and measured.std == (1, 1, 1)
        assert sorted(measured.images["height"].unique()) == [15, 16, 17]
        for cache in ("none", "memory"):
            images = open_images(dataset, "train", measured, RunConfig(data="d", cache=cache))[0]
            assert {image.shape[0] for image in images} == {15, 16, 17}
            assert all((image == 100).all() for image in images)
        assert all((i == 100).all() for found in sample_images(dataset, 3).values() for i in found)
        # five identical images of 15 rows and of 16 and 17 have a twin in train, bar or no bar
        assert image_hashes(dataset)["pixels"].nunique() == 3
        assert dataset.without(["train/a/0.png"]).fingerprint == dataset.fingerprint

    def test_the_setting_overrides_what_the_data_set_says(self, root):
        (root / "dataset.json").write_text('{"crop_bottom": 5}')
        assert open_dataset("d", crop_bottom=0).splits["train"].read(0).shape == (20, 30, 3)
        assert open_dataset("d", crop_bottom=7).splits["train"].read(0).shape == (13, 30, 3)

    def test_an_image_without_a_row_left_is_unreadable(self, root):
        (root / "dataset.json").write_text('{"crop_bottom": 21}')
        unreadable = data_statistics(open_dataset("d")).unreadable
        assert len(unreadable) == 8  # of 20 and 21 rows
        assert unreadable["error"].str.contains("has 2[01] rows, and crop_bottom = 21").all()

    @pytest.mark.parametrize("text", ['{"crop_bottom": -1}', '{"crop_bottom": "31"}', "[]", "{"])
    def test_a_damaged_description_is_named(self, root, text):
        (root / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=r"dataset\.json"):
            open_dataset("d")


def test_classes_files_and_labels_are_torchvisions(dataset_folder):
    dataset = open_dataset("data/tiny")
    theirs = ImageFolder(dataset_folder / "train")
    assert dataset.classes == theirs.classes == ["Z", "a.1", "b c", "Ω"]
    train = dataset.splits["train"]
    ours = [(str(train.folder / f), int(y)) for f, y in zip(train.files, train.labels, strict=True)]
    assert [(os.path.abspath(f), y) for f, y in ours] == theirs.samples
    assert len(train) == len(theirs) == 10


def test_nested_files_have_torchvisions_labels(dataset_folder):
    (dataset_folder / "train" / "Z" / "b" / "c").mkdir(parents=True)
    Image.fromarray(GREY).save(dataset_folder / "train" / "Z" / "b" / "c" / "x.png")
    train = open_dataset("data/tiny").splits["train"]
    theirs = ImageFolder(dataset_folder / "train").samples
    ours = zip(train.files, train.labels.tolist(), strict=True)
    assert {(os.path.abspath(train.folder / f), y) for f, y in ours} == set(theirs)


def test_labels_of_a_split_that_lacks_classes_are_those_of_train(dataset_folder):
    dataset = open_dataset("data/tiny", needs=("train", "val", "test"))
    val = dataset.splits["val"]
    assert val.files == ["val/Z/00.png", "val/a.1/00.png", "val/a.1/01.png"]
    assert val.labels.tolist() == [0, 1, 1]


def test_counts_are_those_on_disk(dataset_folder):
    counts = open_dataset("data/tiny").counts()
    assert counts.index.tolist() == ["Z", "a.1", "b c", "Ω"]
    assert counts.to_dict("list") == {
        "train": [4, 2, 3, 1],
        "val": [1, 2, 0, 0],
        "test": [1, 2, 0, 0],
    }


def test_dataset_is_found_by_absolute_path_and_from_a_notebooks_folder(tmp_path, monkeypatch):
    make_dataset(tmp_path / "data" / "tiny", {"train": {"a": 1, "b": 1}})
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_data_stats.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert open_dataset("data/tiny").classes == ["a", "b"]
    assert open_dataset(str(tmp_path / "data" / "tiny")).name == "tiny"


def test_hidden_folders_are_no_classes(dataset_folder):
    (dataset_folder / "train" / ".ipynb_checkpoints").mkdir()
    (dataset_folder / "val" / ".cache").mkdir()
    assert open_dataset("data/tiny").classes == ["Z", "a.1", "b c", "Ω"]


def refusal(data: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no data folder data/nowhere; `thesis split`" in refusal("data/nowhere")
    (tmp_path / "data" / "digits").mkdir(parents=True)
    assert "no data folder data/digitz; nearest: digits; `thesis" in refusal("data/digitz")
    assert "no data folder digitz; nearest: digits; `thesis" in refusal("digitz")


def test_a_data_set_is_found_by_its_path_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data" / "v[2]", {"train": {"a": 1, "b": 1}})
    for place in ("v[2]", "data/v[2]", str(tmp_path / "data" / "v[2]"), "data/../data/v[2]"):
        assert open_dataset(place).name == "v[2]"
        assert open_dataset(place).root.resolve() == tmp_path / "data" / "v[2]"
    (tmp_path / "v[2]" / "pictures").mkdir(parents=True)  # a folder of the same name that is none
    assert open_dataset("v[2]").root.resolve() == tmp_path / "data" / "v[2]"
    make_dataset(tmp_path / "v[2]", {"train": {"c": 1, "d": 1}})  # a data set: the path is meant
    assert open_dataset("v[2]").classes == ["c", "d"]


@pytest.mark.parametrize("needs", [("train",), ("train", "val"), ("val",)])
def test_folder_without_train_is_refused(tmp_path, monkeypatch, needs):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "d", {"val": {"a": 1, "b": 1}})
    assert "d has no train/" in refusal("d", needs=needs)


@pytest.mark.parametrize("empty", ["Aa", "M", "z"], ids=["first", "middle", "last"])
def test_class_without_images_in_train_is_named(tmp_path, monkeypatch, empty):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "d", {"train": {"B": 2, "N": 2, "y": 2, empty: 0}})
    (tmp_path / "d" / "train" / empty / "notes.txt").write_text("no image")
    message = refusal("d")
    assert "no images" in message and repr(empty) in message and "'B'" not in message


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_train_lacks_is_named(dataset_folder, split):
    (dataset_folder / split / "Noctiluca").mkdir()
    message = refusal("data/tiny")
    assert "'Noctiluca'" in message and f"tiny/{split}" in message


def test_a_single_class_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "d", {"train": {"a": 3}})
    assert "1 class folder" in refusal("d")
    make_dataset(tmp_path / "e", {"train": {}})
    (tmp_path / "e" / "train").mkdir(parents=True)
    assert "0 class folder" in refusal("e")


def test_needed_split_that_is_missing_or_empty_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "d", {"train": {"a": 3, "b": 2}, "test": {"a": 0}})
    assert set(open_dataset("d").splits) == {"train", "test"}
    assert "no val/" in refusal("d", needs=("train", "val"))
    assert "test has no images" in refusal("d", needs=("train", "test"))


def test_fingerprint_changes_with_names_sizes_and_places_alone(dataset_folder):
    def fingerprint():
        return open_dataset("data/tiny").fingerprint

    first = fingerprint()
    file = dataset_folder / "val" / "Z" / "00.png"
    os.utime(file, (0, 0))
    (dataset_folder / "val" / "Z" / "notes.txt").write_text("no image")
    assert fingerprint() == first
    file.rename(file.with_name("99.png"))
    renamed = fingerprint()
    file.with_name("99.png").rename(file)
    assert fingerprint() == first
    content = file.read_bytes()
    file.write_bytes(content + b"\0")
    resized = fingerprint()
    file.write_bytes(content)
    assert fingerprint() == first
    file.rename(dataset_folder / "val" / "a.1" / "zz.png")
    moved = fingerprint()
    assert len({first, renamed, resized, moved}) == 4


def test_fingerprint_is_the_same_wherever_the_data_set_lies(dataset_folder, tmp_path):
    first = open_dataset("data/tiny").fingerprint
    dataset_folder.rename(tmp_path / "elsewhere")
    assert open_dataset(str(tmp_path / "elsewhere")).fingerprint == first


def test_data_set_without_some_files_is_known_as_the_same(dataset_folder):
    whole = open_dataset("data/tiny")
    gone = ["train/Z/01.png", "train/Ω/00.png", "val/a.1/00.png"]
    kept = whole.without(gone[:1]).without(gone[1:])
    assert kept.fingerprint == whole.fingerprint
    assert (kept.root, kept.name, kept.classes) == (whole.root, whole.name, whole.classes)
    assert [kept.left_out(name) for name in ("train", "val", "test")] == [gone[:2], gone[2:], []]
    assert whole.left_out("train") == []
    for name, split in kept.splits.items():
        before = zip(whole.splits[name].files, whole.splits[name].labels, strict=True)
        expected = [(file, label) for file, label in before if file not in gone]
        assert list(zip(split.files, split.labels, strict=True)) == expected
    assert kept.counts().loc["Ω", "train"] == 0


def pixels_of(image: Image.Image, path: Path, **options) -> np.ndarray:
    image.save(path, **options)
    read = read_pixels(path)
    assert read.dtype == np.uint8 and read.shape[2] == 3
    return read


def test_grey_is_repeated_and_colour_kept(tmp_path):
    grey = pixels_of(Image.fromarray(GREY), tmp_path / "g.png")
    assert np.array_equal(grey, np.repeat(GREY[..., None], 3, axis=2))
    colour = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for suffix in ("png", "bmp", "tif", "ppm"):
        assert np.array_equal(pixels_of(Image.fromarray(colour), tmp_path / f"c.{suffix}"), colour)


def test_palette_gives_its_colours(tmp_path):
    colours = [(255, 0, 0), (0, 128, 7), (1, 2, 3)]
    image = Image.new("P", (3, 2))
    image.putpalette(sum(colours, ()))
    image.putdata([0, 1, 2, 2, 1, 0])
    for suffix in ("png", "gif"):
        read = pixels_of(image, tmp_path / f"p.{suffix}")
        assert read.reshape(-1, 3).tolist() == [list(c) for c in (*colours, *colours[::-1])]


@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    assert np.array_equal(pixels_of(Image.fromarray(rgba), tmp_path / "a.png"), rgba[..., :3])
    la = np.stack((GREY, 255 - GREY), axis=2)
    read = pixels_of(Image.fromarray(la), tmp_path / "la.png")
    assert np.array_equal(read, np.repeat(GREY[..., None], 3, axis=2))


def test_black_and_white_is_0_and_255(tmp_path):
    read = pixels_of(Image.fromarray(GREY > 100), tmp_path / "bw.png")
    assert np.array_equal(read[..., 0], np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    deep = np.array([[0, 255, 256, 257], [1000, 32768, 65278, 65535]], dtype=np.uint16)
    read = pixels_of(Image.fromarray(deep), tmp_path / f"d.{suffix}")
    assert np.array_equal(read[..., 0], np.round(deep / 257).astype(np.uint8))
    assert read[0, 0, 0] == 0 and read[1, 3, 0] == 255


JPEGS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 98},
    "progressive": {"progressive": True},
    "restart": {"restart_marker_blocks": 2},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_what_pillow_decodes(tmp_path, mode, options):
    pixels = np.random.default_rng(0).integers(0, 256, (43, 61, 3), dtype=np.uint8)
    read = pixels_of(Image.fromarray(pixels).convert(mode), tmp_path / "j.jpg", **options)
    assert np.array_equal(read, np.asarray(Image.open(tmp_path / "j.jpg").convert("RGB")))


def test_jpeg_is_refused_wherever_it_is_cut(tmp_path):
    whole = jpeg()
    for length in range(1, len(whole), 37):
        (tmp_path / "cut.jpg").write_bytes(whole[:length])
        with pytest.raises(InputError, match="cannot read the image"):
            read_pixels(tmp_path / "cut.jpg")


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        content, "JPEG"
    )
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut short.jpg", jpeg()[: len(jpeg()) // 2]),
        ("header alone.jpg", jpeg()[:20]),
        ("text.png", b"this is\nno image\n"),
        ("empty.png", b""),
        ("html.jpg", b"<html>\n<body>404</body>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_that_cannot_be_read_is_named_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_pixels(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "bmp", "webp", "ppm"])
def test_half_a_file_of_any_kind_is_refused(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole)
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot read the image"):
        read_pixels(half)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        read_pixels(tmp_path / "gone.png")


def test_samples_are_training_images_of_their_class(dataset_folder):
    dataset = open_dataset("data/tiny")
    samples = sample_images(dataset, 2)
    assert {name: len(found) for name, found in samples.items()} == {
        "Z": 2,
        "a.1": 2,
        "b c": 2,
        "Ω": 1,
    }
    for name, found in samples.items():
        folder = dataset_folder / "train" / name
        originals = [np.asarray(Image.open(p)) for p in sorted(folder.iterdir())]
        for image in found:
            assert any(np.array_equal(image, original) for original in originals)
    again = sample_images(dataset, 2)
    for name in samples:
        for one, other in zip(samples[name], again[name], strict=True):
            assert np.array_equal(one, other)
