"""Planted leaks of every kind are found in every split; the search agrees with two naive loops."""

import tracemalloc
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import read_pixels
from thesis_lib.data.leakage import image_hashes
from thesis_lib.data.leakage import leaks as module
from thesis_lib.data.leakage.leaks import ANY, KINDS, example_pairs, find_leaks, nearest_hashes
from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics.metrics import METRICS, classification_metrics
from thesis_lib.reporting.tables.leaks import leak_table, metrics_without_leaks

CLASSES = ("001_Acartia sp.", "NA", 'x, "y" z')


def picture(seed: int) -> Image.Image:
    """Make a smooth random image whose perceptual hash differs from that of other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 200, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((120, 100), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A data set of three classes in which nothing leaks."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data" / "set"
    seed = 0
    for split, n in (("train", 3), ("val", 2), ("test", 2)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for _ in range(n):
                picture(seed).save(root / split / name / f"{seed:03d}.png")
                seed += 1
    return root


def leaks_of(distance: int = 2, group_by: str = "") -> pd.DataFrame:
    return find_leaks(open_dataset("data/set"), distance, group_by)


def only(leaks: pd.DataFrame, kind: str) -> dict:
    """Return the only row of a kind."""
    rows = leaks[leaks["kind"] == kind].to_dict("records")
    assert len(rows) == 1, leaks
    return rows[0]


def test_pictures_are_unlike_each_other():
    hashes = [imagehash.phash(picture(seed)) for seed in range(40)]
    assert min(a - b for i, a in enumerate(hashes) for b in hashes[:i]) > 6


def test_nothing_leaks_in_a_sound_data_set(folder):
    leaks = leaks_of(group_by=r"\d+")
    assert leaks.empty and list(leaks.columns) == module.LEAKS
    table = leak_table(leaks, open_dataset("data/set"))
    assert table["kind"].tolist() == [*KINDS, ANY]
    assert not table.drop(columns="kind").to_numpy().any()
    assert example_pairs(leaks, open_dataset("data/set")) == []


DIRECTIONS = [("val", "train"), ("test", "train"), ("test", "val")]


@pytest.mark.parametrize(("split", "other"), DIRECTIONS)
def test_identical_pixels_are_found_in_another_format(folder, split, other):
    picture(900).save(folder / other / "NA" / "a.png")
    picture(900).save(folder / split / CLASSES[2] / "b.bmp")
    row = only(leaks_of(), "identical pixels")
    assert (row["split"], row["file"], row["class"]) == (
        *(split, f"{split}/{CLASSES[2]}/b.bmp", CLASSES[2]),
    )
    assert (row["other_split"], row["other_file"]) == (other, f"{other}/NA/a.png")
    assert row["other_class"] == "NA" and pd.isna(row["distance"]) and row["counterparts"] == 1
    assert len(leaks_of()) == 1  # not listed again as near-duplicates


@pytest.mark.parametrize(("split", "other"), DIRECTIONS)
@pytest.mark.parametrize("change", ["jpeg", "smaller", "brighter"])
def test_near_duplicates_are_found(folder, split, other, change):
    image = picture(900)
    image.save(folder / other / "NA" / "a.png")
    place = folder / split / "NA" / ("b.jpg" if change == "jpeg" else "b.png")
    if change == "smaller":
        image = image.resize((108, 90))
    if change == "brighter":
        image = ImageEnhance.Brightness(image).enhance(1.05)
    image.save(place, quality=80)
    row = only(leaks_of(), "near-duplicate")
    assert row["file"] == f"{split}/NA/{place.name}" and row["other_file"] == f"{other}/NA/a.png"
    assert 0 <= row["distance"] <= 2 and row["counterparts"] == 1
    assert len(leaks_of()) == 1


def test_distance_is_the_hashes_own_and_bounds_what_is_found(folder):
    image, shifted = picture(900), picture(900).crop((6, 4, 120, 100))
    bits = imagehash.phash(image) - imagehash.phash(shifted)
    assert bits > 2
    image.save(folder / "train" / "NA" / "a.png")
    shifted.save(folder / "test" / "NA" / "b.png")
    assert leaks_of(bits - 1).empty
    assert only(leaks_of(bits), "near-duplicate")["distance"] == bits


@pytest.mark.parametrize(("split", "other"), DIRECTIONS)
def test_same_names_are_found_whatever_the_class_and_subfolder(folder, split, other):
    (folder / split / "NA" / "below").mkdir()
    picture(900).save(folder / other / CLASSES[0] / "same.png")
    picture(901).save(folder / split / "NA" / "below" / "same.png")
    row = only(leaks_of(), "same name")
    assert row["file"] == f"{split}/NA/below/same.png"
    assert row["other_file"] == f"{other}/{CLASSES[0]}/same.png"


@pytest.mark.parametrize(("split", "other"), DIRECTIONS)
@pytest.mark.parametrize("pattern", [r"haul(\d+)", r"haul\d+"])
def test_same_groups_are_found(folder, split, other, pattern):
    picture(900).save(folder / other / CLASSES[0] / "haul7_a.png")
    picture(901).save(folder / split / "NA" / "haul7_b.png")
    picture(902).save(folder / split / "NA" / "haul8_b.png")
    row = only(leaks_of(group_by=pattern), "same group")
    assert row["file"] == f"{split}/NA/haul7_b.png"
    assert row["other_file"] == f"{other}/{CLASSES[0]}/haul7_a.png"


def test_nothing_is_held_against_its_own_or_a_later_part(folder):
    for split in ("val", "test"):
        for name in ("a", "b"):
            picture(900 if split == "val" else 901).save(folder / split / "NA" / f"{name}x.png")
    picture(902).save(folder / "train" / "NA" / "c.png")
    picture(902).save(folder / "train" / CLASSES[0] / "d.png")
    leaks = leaks_of()
    assert set(leaks["kind"]) == {"same name"}  # only a and b, in val and test
    assert set(leaks["split"]) == {"test"} and set(leaks["other_split"]) == {"val"}


def test_train_is_named_before_val_then_the_first_path_and_all_are_counted(folder):
    picture(900).save(folder / "val" / CLASSES[0] / "a.png")
    picture(900).save(folder / "train" / "NA" / "b.png")
    picture(900).save(folder / "train" / "NA" / "c.png")
    picture(900).save(folder / "test" / CLASSES[2] / "d.png")
    leaks = leaks_of()
    row = leaks[leaks["split"] == "test"].to_dict("records")[0]
    assert row["other_file"] == "train/NA/b.png" and row["counterparts"] == 3
    assert leaks[leaks["split"] == "val"]["counterparts"].tolist() == [2]


def test_an_image_with_equal_pixels_is_a_near_duplicate_of_its_other_counterpart(folder):
    picture(900).save(folder / "train" / "NA" / "a.png")
    picture(900).save(folder / "train" / "NA" / "b.png")
    picture(900).save(folder / "train" / "NA" / "c.jpg", quality=90)
    picture(900).save(folder / "test" / "NA" / "d.png")
    leaks = leaks_of()
    assert only(leaks, "identical pixels")["counterparts"] == 2
    row = only(leaks, "near-duplicate")
    assert row["other_file"] == "train/NA/c.jpg" and row["counterparts"] == 1


def test_equal_pixels_of_another_shape_are_not_identical(folder):
    Image.new("RGB", (40, 10), "white").save(folder / "train" / "NA" / "a.png")
    Image.new("RGB", (10, 40), "white").save(folder / "test" / "NA" / "b.png")
    assert set(leaks_of()["kind"]) == {"near-duplicate"}


def test_many_blank_images_make_a_row_each(folder):
    for split, n in (("train", 30), ("val", 20), ("test", 10)):
        for i in range(n):
            Image.new("L", (20, 20)).save(folder / split / "NA" / f"{split}{i}.png")
    Image.new("L", (30, 30), 200).save(folder / "test" / CLASSES[0] / "grey.png")
    leaks = leaks_of()
    identical = leaks[leaks["kind"] == "identical pixels"]
    assert identical.groupby("split")["counterparts"].agg(["size", "max"]).to_dict("index") == {
        "test": {"size": 10, "max": 50},
        "val": {"size": 20, "max": 30},
    }
    assert only(leaks, "near-duplicate")["file"] == f"test/{CLASSES[0]}/grey.png"
    assert only(leaks, "near-duplicate")["counterparts"] == 50


def test_unreadable_images_are_passed_over_until_they_are_mended(folder):
    good = folder / "train" / "NA" / "a.png"
    picture(900).save(good)
    bad = folder / "test" / "NA" / "a.png"
    bad.write_bytes(bytes(good.stat().st_size))
    assert leaks_of().empty
    bad.write_bytes(good.read_bytes())  # the same size, so the same fingerprint
    assert set(leaks_of()["kind"]) == {"identical pixels", "same name"}


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """Record the images that the module reads from now on."""
    paths = []
    monkeypatch.setattr(
        image_hashes, "read_pixels", lambda path, cut: paths.append(path) or read_pixels(path, cut)
    )
    return paths


def test_hashes_are_kept_for_other_distances_and_patterns(folder, decoded):
    picture(900).save(folder / "train" / "NA" / "haul7 a.png")
    picture(900).save(folder / "test" / "NA" / "haul7 b.jpg")
    first = leaks_of()
    assert len(decoded) == 23
    assert only(leaks_of(0, "haul7"), "same group")["other_file"] == "train/NA/haul7 a.png"
    pd.testing.assert_frame_equal(leaks_of(), first)
    assert len(decoded) == 23
    picture(901).save(folder / "test" / "NA" / "new.png")
    leaks_of()
    assert len(decoded) == 23 + 24


@pytest.mark.parametrize("damage", ["cut", "bytes", "digit", "receipt", "no receipt", "no table"])
def test_damaged_hashes_are_made_anew(folder, tmp_path, decoded, damage):
    picture(900).save(folder / "train" / "NA" / "a.png")
    picture(900).save(folder / "test" / "NA" / "b.png")
    first = leaks_of()
    table, receipt = (tmp_path / "runs" / "set" / f"image_hashes.{end}" for end in ("csv", "json"))
    sound = table.read_bytes()
    assert sound.startswith(b"file,modified,pixels,perceptual\n")
    if damage == "cut":
        table.write_bytes(sound[:300])
    if damage == "bytes":
        table.write_bytes(b"\x00\xff" * 99)
    if damage == "digit":
        table.write_bytes(sound[:-2] + (b"0" if sound[-2:-1] != b"0" else b"1") + b"\n")
    if damage == "receipt":
        receipt.write_text("[]{")
    if damage.startswith("no "):
        (receipt if damage == "no receipt" else table).unlink()
    del decoded[:]
    pd.testing.assert_frame_equal(leaks_of(), first)
    assert len(decoded) == 23 and table.read_bytes() == sound


def test_files_left_out_of_the_data_set_do_not_leak_but_are_hashed(folder, decoded):
    for place in ("train/NA/a.png", "train/NA/b.png", "test/NA/c.png"):
        picture(900).save(folder / place)
    dataset = open_dataset("data/set")
    fewer = find_leaks(dataset.without(["train/NA/a.png"]), 2, "")
    assert only(fewer, "identical pixels")["other_file"] == "train/NA/b.png"
    assert only(find_leaks(dataset, 2, ""), "identical pixels")["counterparts"] == 2
    assert len(decoded) == 24


def test_pattern_that_finds_no_group_is_named_with_a_file_before_any_image_is_read(folder, decoded):
    for pattern in (r"haul(\d+)", r"(q*)", r"0(z)?"):
        with pytest.raises(InputError) as caught:
            leaks_of(group_by=pattern)
        assert repr(pattern) in str(caught.value) and "'000.png'" in str(caught.value)
    assert not decoded


def test_pattern_sees_neither_part_nor_class(folder):
    for pattern in ("train", "Acartia"):
        with pytest.raises(InputError, match="no file"):
            leaks_of(group_by=pattern)


def test_parts_may_be_missing(folder):
    picture(900).save(folder / "train" / "NA" / "a.png")
    picture(900).save(folder / "test" / "NA" / "b.png")
    (folder / "val").rename(folder.parent / "val")
    assert only(leaks_of(), "identical pixels")["split"] == "test"
    (folder / "test").rename(folder.parent / "test")
    leaks = leaks_of()
    table = leak_table(leaks, open_dataset("data/set"))
    assert leaks.empty and table["test images (%)"].isna().all()


def test_87_classes_with_blanks_in_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{i:03d}_Megalopa larva_Phase {i % 3}" for i in range(1, 88)]
    for seed, name in enumerate(names):
        for split in ("train", "val", "test"):
            (tmp_path / "data" / "set" / split / name).mkdir(parents=True)
            picture(seed).save(tmp_path / "data" / "set" / split / name / f"{split}.png")
    leaks = leaks_of()
    assert (leaks["class"] == leaks["other_class"]).all()
    assert set(leaks["kind"]) == {"identical pixels"}
    table = leak_table(leaks, open_dataset("data/set")).set_index("kind")
    assert table.loc[ANY].tolist() == [87, 87, 100, 0]


def test_counters_in_each_class_and_part_are_not_counted_as_leaks(folder):
    for split in ("train", "val", "test"):
        for name in CLASSES:
            for number, file in enumerate(sorted((folder / split / name).iterdir())):
                file.rename(file.with_name(f"c{number}.png"))
    table = leak_table(leaks_of(), open_dataset("data/set")).set_index("kind")
    assert table.loc["same name", "test images (%)"] == 100
    assert not table.loc[ANY].to_numpy().any()


def test_table_counts_images_of_any_kind_once_and_conflicting_labels(folder):
    picture(900).save(folder / "train" / "NA" / "haul1 a.png")
    # leaks in two ways, in another class
    picture(900).save(folder / "test" / CLASSES[0] / "haul1 b.png")
    picture(901).save(folder / "test" / "NA" / "haul1 c.png")
    picture(900).save(folder / "val" / "NA" / "haul2 d.png")
    table = leak_table(leaks_of(group_by=r"haul\d"), open_dataset("data/set")).set_index("kind")
    assert list(table.columns) == ["val images", "test images", "test images (%)", "other label"]
    assert table.loc["identical pixels"].tolist() == [1, 1, 12.5, 1]
    assert table.loc["near-duplicate"].tolist() == [0, 0, 0, 0]
    assert table.loc["same group"].tolist() == [0, 2, 25, 1]
    assert table.loc[ANY].tolist() == [1, 2, 25, 1]


def test_kind_that_was_not_looked_for_has_no_row(folder):
    assert "same group" not in leak_table(leaks_of(), open_dataset("data/set"))["kind"].tolist()


def test_examples_are_of_each_kind_with_other_classes_and_near_ones_first(folder):
    for i in range(5):
        picture(900 + i).save(folder / "train" / "NA" / f"a{i}.png")
        picture(900 + i).save(folder / "test" / ("NA" if i < 4 else CLASSES[0]) / f"b{i}.png")
    picture(950).save(folder / "train" / "NA" / "c.png")
    picture(950).save(folder / "test" / "NA" / "c.jpg", quality=80)
    dataset = open_dataset("data/set")
    leaks = find_leaks(dataset, 2, "")
    pairs = example_pairs(leaks, dataset, num_pairs=3)
    captions = [caption.split("\n") for _, _, caption in pairs]
    assert captions[0] == ["identical pixels", f"test: {CLASSES[0]}", "train: NA"]
    assert captions[1] == ["identical pixels", "test: NA", "train: NA"]
    bits = only(leaks, "near-duplicate")["distance"]
    assert captions[2] == [f"near-duplicate, {bits} of 64 bits", "test: NA", "train: NA"]
    assert (pairs[0][0] == np.asarray(picture(904))).all() and (pairs[0][0] == pairs[0][1]).all()
    assert len(example_pairs(leaks, dataset)) == 6


def naive_search(ours, others, distance, same, weights):
    """Find the first nearest hash, its distance and the total weight of all near ones, by loops."""
    found = []
    for i, a in enumerate(ours.tolist()):
        pairs = [((a ^ b).bit_count(), j) for j, b in enumerate(others.tolist()) if j != same[i]]
        near = [j for bits, j in pairs if bits <= distance]
        found.append((*min(pairs)[::-1], sum(weights[j] for j in near)))
    return found


@pytest.mark.parametrize("block", [1, 100, 2**20])
@pytest.mark.parametrize("distance", [0, 2, 24, 64])
def test_search_in_blocks_equals_two_loops(monkeypatch, block, distance):
    monkeypatch.setattr(module, "BLOCK", block)
    random = np.random.default_rng(distance)
    others = random.integers(0, 2**64, 70, dtype=np.uint64)
    flips = np.uint64(1) << random.integers(0, 64, 50, dtype=np.uint64)
    ours = others[random.integers(0, 70, 50)] ^ (flips * random.integers(0, 2, 50, dtype=np.uint64))
    others[60:] = others[:10]  # ties
    same = random.integers(-1, 70, 50)
    weights = random.integers(1, 9, 70)
    nearest, bits, counts = nearest_hashes(ours, others, distance, same, weights)
    naive = naive_search(ours, others, distance, same, weights)
    assert [tuple(row) for row in np.column_stack([nearest, bits, counts]).tolist()] == naive


def test_search_among_none_finds_none():
    none, some = np.zeros(0, np.uint64), np.zeros(3, np.uint64)
    weights = np.zeros(0, np.int64)
    assert nearest_hashes(some, none, 2, np.full(3, -1), weights)[2].tolist() == [0, 0, 0]
    assert len(nearest_hashes(none, some, 2, weights, np.ones(3, np.int64))[2]) == 0


@pytest.mark.parametrize("distance", [2, 64])  # matches hardly any pair, and all pairs
def test_memory_of_the_search_does_not_grow_with_the_pairs(distance):
    random = np.random.default_rng(0)
    ours, others = (random.integers(0, 2**64, n, dtype=np.uint64) for n in (2_000, 10_000))
    same, weights = np.full(2_000, -1), np.ones(10_000, np.int64)
    tracemalloc.start()
    counts = nearest_hashes(ours, others, distance, same, weights)[2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20  # all pairs at once would take 160 MB
    assert counts.sum() == (2_000 * 10_000 if distance == 64 else 0)


def made_up(n: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(1)
    true = np.array(["a", "b b", "c"])[random.integers(0, 3, n)]
    predicted = np.where(random.random(n) < 0.7, true, "a")
    paths = [f"test/{name}/{i:02d}.png" for i, name in enumerate(true)]
    return pd.DataFrame({"path": paths, "true": true, "predicted": predicted})


def made_up_leaks(**files: list[str]) -> pd.DataFrame:
    """Make a table of leaks from the test files of each kind (with "_" for the space in a kind)."""
    rows = [
        {"kind": kind.replace("_", " "), "split": "test", "file": file}
        for kind, listed in files.items()
        for file in listed
    ]
    table = pd.DataFrame(rows, columns=["kind", "split", "file"])
    return table.assign(kind=pd.Categorical(table["kind"], KINDS))


def test_metrics_without_leaks_are_those_of_the_images_left():
    predictions, classes = made_up(), ["a", "b b", "c", "never"]
    files = predictions["path"].tolist()
    pixels, group, name = files[:10], files[5:20], files[:55]
    leaks = made_up_leaks(identical_pixels=pixels, same_group=group, same_name=name)
    table = metrics_without_leaks(predictions, leaks, classes).set_index("test images")
    left_out = {
        "all": [],
        "without identical pixels": pixels,
        "without same group": group,
        "without same name": name,
        "without any leak": files[:20],
    }
    assert table.index.tolist() == list(left_out)
    for label, out in left_out.items():
        kept = predictions[~predictions["path"].isin(out)]
        expected = classification_metrics(kept["true"], kept["predicted"], classes)
        row = table.loc[label]
        assert row["images"] == expected["n"] == 60 - len(out)
        assert row["classes"] == kept["true"].nunique()
        for metric in METRICS:
            assert row[metric] == expected[metric]
            assert [row[f"{metric}_low"], row[f"{metric}_high"]] == expected[f"{metric}_interval"]


def test_metrics_where_every_test_image_leaks_are_nan():
    predictions = made_up()
    leaks = made_up_leaks(identical_pixels=predictions["path"].tolist())
    table = metrics_without_leaks(predictions, leaks, ["a", "b b", "c"])
    assert table["images"].tolist() == [60, 0, 0]
    assert table.loc[1:, "accuracy":].isna().all(axis=None)
    assert table.loc[0].notna().all()


def test_metrics_without_a_leak_are_one_row():
    table = metrics_without_leaks(made_up(), made_up_leaks(), ["a", "b b", "c"])
    assert table["test images"].tolist() == ["all"]
    leaks_of_val = made_up_leaks(identical_pixels=["val/a/00.png"])
    assert len(metrics_without_leaks(made_up(), leaks_of_val, ["a", "b b", "c"])) == 1


def test_an_image_replaced_by_one_of_the_same_size_is_hashed_anew(folder, decoded):
    assert leaks_of().empty
    source, target = folder / "train" / "NA" / "a.bmp", folder / "test" / "NA" / "b.bmp"
    picture(900).save(source)
    picture(901).save(target)
    assert leaks_of().empty
    dataset = open_dataset("data/set")
    target.write_bytes(source.read_bytes())
    decoded.clear()
    assert open_dataset("data/set").fingerprint == dataset.fingerprint
    assert only(leaks_of(), "identical pixels")["file"] == "test/NA/b.bmp"
    assert [path.name for path in decoded] == ["b.bmp"]
