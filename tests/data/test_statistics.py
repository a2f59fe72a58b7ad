"""Channel statistics agree with NumPy over all pixels; stored ones serve the same files again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from thesis_lib.config import RunConfig
from thesis_lib.data import statistics as module
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import read_pixels
from thesis_lib.data.statistics import (
    class_imbalance,
    data_statistics,
    imbalance,
    measure,
    readable,
)
from thesis_lib.errors import InputError


@pytest.fixture
def dataset_folder(tmp_path, monkeypatch):
    """Three classes of grey and colour images, in PNG and JPEG, all of different sizes."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    root = tmp_path / "data" / "mixed"
    for split, n in (("train", 5), ("val", 2), ("test", 2)):
        for number, name in enumerate(("001", "NA", 'x, "y" z')):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                height, width = random.integers(5, 60, 2)
                shape = (height, width) if i % 2 else (height, width, 3)
                pixels = random.integers(0, 80 + 60 * number, shape, dtype=np.uint8)
                suffix = "png" if i < 3 else "jpg"
                Image.fromarray(pixels).save(root / split / name / f"{i:03d}.{suffix}")
    return root


def naive_mean_std(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    pixels = [
        np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) / 255
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".png", ".jpg")
    ]
    everything = np.concatenate(pixels)
    return everything.mean(0), everything.std(0), len(everything)


def test_mean_and_std_are_numpys_over_all_training_pixels(dataset_folder):
    statistics = measure(open_dataset("data/mixed"))
    mean, std, pixels = naive_mean_std(dataset_folder / "train")
    assert statistics.pixels == pixels
    assert np.abs(np.array(statistics.mean) - mean).max() < 1e-6
    assert np.abs(np.array(statistics.std) - std).max() < 1e-6


def test_val_and_test_take_no_part_in_mean_and_std(dataset_folder):
    before = measure(open_dataset("data/mixed"))
    Image.new("RGB", (300, 300), "white").save(dataset_folder / "test" / "001" / "white.png")
    after = measure(open_dataset("data/mixed"))
    assert (after.mean, after.std, after.pixels) == (before.mean, before.std, before.pixels)


def test_every_image_has_a_row_with_its_size(dataset_folder):
    images = measure(open_dataset("data/mixed")).images
    assert list(images.columns) == ["split", "class", "file", "width", "height", "error"]
    assert len(images) == 27
    for row in images.to_dict("records"):
        assert row["file"].split("/")[:2] == [row["split"], row["class"]]
        assert (row["width"], row["height"]) == Image.open(dataset_folder / row["file"]).size
        assert row["error"] == ""


def test_channels_without_contrast_are_left_as_they_are(tmp_path):
    for name, colour in (("a", (10, 20, 0)), ("b", (30, 20, 0))):
        (tmp_path / "flat" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / "flat" / "train" / name / "1.png")
    statistics = measure(open_dataset(str(tmp_path / "flat")))
    assert statistics.mean == pytest.approx((20 / 255, 20 / 255, 0))
    assert statistics.std == pytest.approx((10 / 255, 1, 1))


def test_second_call_reads_only_what_was_unreadable_and_gives_the_same(
    dataset_folder, tmp_path, monkeypatch
):
    bad = dataset_folder / "train" / "001" / "bad.png"
    bad.write_text("no image")
    first = data_statistics(open_dataset("data/mixed"))
    stored = json.loads((tmp_path / "runs" / "mixed" / "data_statistics.json").read_text())
    assert stored["fingerprint"] == open_dataset("data/mixed").fingerprint
    assert tuple(stored["mean"]) == first.mean and tuple(stored["std"]) == first.std
    read = []
    monkeypatch.setattr(
        module, "read_pixels", lambda path, cut: read.append(path) or read_pixels(path, cut)
    )
    second = data_statistics(open_dataset("data/mixed"))
    assert [path.name for path in read] == ["bad.png"]
    assert (second.mean, second.std, second.pixels) == (first.mean, first.std, first.pixels)
    pd.testing.assert_frame_equal(second.images, first.images)
    assert len(second.unreadable) == 1


def test_mended_file_of_the_same_size_is_measured_again(dataset_folder):
    image = next((dataset_folder / "train").rglob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(bytes(len(whole)))
    assert len(data_statistics(open_dataset("data/mixed")).unreadable) == 1
    image.write_bytes(whole)
    assert not len(data_statistics(open_dataset("data/mixed")).unreadable)


def test_changed_files_are_measured_again(dataset_folder):
    first = data_statistics(open_dataset("data/mixed"))
    Image.new("RGB", (90, 90), "white").save(dataset_folder / "train" / "001" / "white.png")
    second = data_statistics(open_dataset("data/mixed"))
    mean, std, pixels = naive_mean_std(dataset_folder / "train")
    assert second.pixels == pixels == first.pixels + 8100
    assert np.allclose(second.mean, mean, atol=1e-6) and np.allclose(second.std, std, atol=1e-6)
    assert len(second.images) == len(first.images) + 1


def test_same_files_under_another_name_of_the_data_set_are_its_own(dataset_folder, tmp_path):
    data_statistics(open_dataset("data/mixed"))
    dataset_folder.rename(dataset_folder.with_name("renamed"))
    data_statistics(open_dataset("data/renamed"))
    assert (tmp_path / "runs" / "renamed" / "images.csv").is_file()


def test_unreadable_files_are_listed_and_left_out_of_the_sums(dataset_folder):
    mean, std, pixels = naive_mean_std(dataset_folder / "train")
    (dataset_folder / "train" / "NA" / "text.png").write_text("no image")
    whole = (dataset_folder / "val" / "001" / "000.png").read_bytes()
    (dataset_folder / "val" / "001" / "cut.png").write_bytes(whole[: len(whole) // 2])
    statistics = measure(open_dataset("data/mixed"))
    unreadable = statistics.unreadable
    assert unreadable["file"].tolist() == ["train/NA/text.png", "val/001/cut.png"]
    assert unreadable["class"].tolist() == ["NA", "001"]
    assert all("cannot read" in error for error in unreadable["error"])
    assert statistics.pixels == pixels
    assert np.allclose(statistics.mean, mean, atol=1e-6)
    assert np.allclose(statistics.std, std, atol=1e-6)
    with pytest.raises(InputError, match=r"text\.png.*and 1 more") as caught:
        readable(open_dataset("data/mixed"), statistics, RunConfig())
    assert "\n" not in str(caught.value)


def test_readable_names_the_only_bad_file_and_passes_a_sound_data_set(dataset_folder):
    readable(open_dataset("data/mixed"), measure(open_dataset("data/mixed")), RunConfig())
    (dataset_folder / "test" / "NA" / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"NA.text\.png") as caught:
        readable(open_dataset("data/mixed"), measure(open_dataset("data/mixed")), RunConfig())
    assert "more" not in str(caught.value)


SKIP = RunConfig(on_bad_image="skip")


def test_sound_data_set_is_passed_on_without_a_word(dataset_folder, capsys):
    dataset = open_dataset("data/mixed")
    statistics = measure(dataset)
    capsys.readouterr()
    for config in (SKIP, RunConfig()):
        assert readable(dataset, statistics, config) is dataset
    assert capsys.readouterr().out == ""


def test_skipping_names_the_splits_that_lack_images(dataset_folder, capsys):
    for place in ("train/001", "train/NA", "test/001"):
        (dataset_folder / place / "text.png").write_text("no image")
    dataset = open_dataset("data/mixed")
    kept = readable(dataset, measure(dataset), SKIP)
    assert "skipped 3 of 30 images" in (out := capsys.readouterr().out)
    assert "(2 in train/, 1 in test/)" in out and "runs/mixed/images.csv" in out
    assert kept.left_out("train") == ["train/001/text.png", "train/NA/text.png"]
    assert kept.left_out("val") == [] and kept.left_out("test") == ["test/001/text.png"]
    assert kept.counts().to_numpy().sum() == 27


def damage(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        file.write_text("no image")


def test_class_that_loses_all_its_training_images_is_named(dataset_folder):
    damage(dataset_folder / "train" / "NA")
    dataset = open_dataset("data/mixed")
    with pytest.raises(InputError, match=r"train has classes .* can be read: 'NA'$"):
        readable(dataset, measure(dataset), SKIP)


def test_split_that_loses_all_its_images_is_named(dataset_folder):
    damage(dataset_folder / "val")
    dataset = open_dataset("data/mixed")
    with pytest.raises(InputError, match="mixed/val has no image that can be read"):
        readable(dataset, measure(dataset), SKIP)


def test_class_may_lose_its_test_images(dataset_folder):
    damage(dataset_folder / "test" / "NA")
    dataset = open_dataset("data/mixed")
    kept = readable(dataset, measure(dataset), SKIP)
    assert kept.counts().loc["NA", "test"] == 0 and len(kept.left_out("test")) == 2


def test_data_set_without_a_readable_image_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        (tmp_path / "d" / "train" / name / "1.png").write_text("no image")
    with pytest.raises(InputError, match="no image that can be read"):
        measure(open_dataset(str(tmp_path / "d")))


def naive_gini(counts: list[int]) -> float:
    """Compute half the mean absolute difference of all pairs, divided by the mean."""
    n = len(counts)
    differences = sum(abs(a - b) for a in counts for b in counts)
    return differences / (2 * n * n * (sum(counts) / n))


@pytest.mark.parametrize(
    "counts", [[11, 7760, 43, 305, 30, 1239], [5, 5, 5], [1, 2], [0, 3, 9], list(range(1, 88))]
)
def test_imbalance_equals_its_definitions(counts):
    found = imbalance(np.array(counts))
    assert found["gini"] == pytest.approx(naive_gini(counts), abs=1e-12)
    assert found["entropy"] == pytest.approx(stats.entropy(counts, base=2), abs=1e-12)
    evenness = stats.entropy(counts) / np.log(len(counts))
    assert found["evenness"] == pytest.approx(evenness, abs=1e-12)
    ratio = max(counts) / min(counts) if min(counts) else np.inf
    assert found["imbalance_ratio"] == ratio


def test_imbalance_of_each_split_has_a_row(dataset_folder):
    for i in range(4):
        Image.new("L", (3, 3)).save(dataset_folder / "train" / "NA" / f"more{i}.png")
    table = class_imbalance(open_dataset("data/mixed").counts()).set_index("split")
    assert table.index.tolist() == ["train", "val", "test"]
    assert table.loc["train", "gini"] == pytest.approx(naive_gini([5, 9, 5]))
    assert table.loc["val", "imbalance_ratio"] == 1
    assert table.loc["test", "entropy"] == pytest.approx(np.log2(3))
