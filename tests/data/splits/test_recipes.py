"""Splits by the thesis's recipes or by manifests: every file is checked; no split is partial."""

import csv
import hashlib
import os
import unicodedata
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from thesis_lib.data.images import class_folders, image_files
from thesis_lib.data.sources.manifests import split_by_manifest
from thesis_lib.data.splits import RECIPES, SplitOptions, split_dataset, split_files, writer
from thesis_lib.errors import InputError

NAMES = [
    "012_Acartia sp.B",
    "a_b.c d",
    ".. dots",
    "Ωμέγα",
    "浮游生物",
    "名前 b.",
    "NA",
    'O\'Neill, "x"',
]


def make_images(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), (len(str(path)) * 7 + i) % 256, np.uint8)).save(path)


def make_source(root: Path, classes: dict[str, int]) -> Path:
    source = root / "source"
    for name, count in classes.items():
        (source / name).mkdir(parents=True)
        make_images(source / name, [f"img{i:03d}.png" for i in range(count)])
    return source


def placed(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Return (split, class) -> the files found there."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            split, name, *rest = path.relative_to(folder).parts
            found.setdefault((split, name), []).append("/".join(rest))
    return found


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("seed", [42, 7])
@pytest.mark.parametrize("n", [4, 5, 10, 11, 43, 100, 2341])
def test_recipes_are_scikit_learns_train_test_split(n, seed):
    files = [f"{i:05d}.jpg" for i in range(n)]
    train, rest = train_test_split(files, test_size=0.3, random_state=seed)
    val, test = train_test_split(rest, test_size=0.5, random_state=seed)
    assert split_files(files, "linear-head", seed) == {"train": train, "val": val, "test": test}
    train, test = train_test_split(files, test_size=0.2, random_state=seed)
    assert split_files(files, "cosine", seed) == {"train": train, "test": test}


def test_seed_is_42_unless_given():
    files = [f"{i}.jpg" for i in range(20)]
    for recipe in RECIPES:
        assert split_files(files, recipe) == split_files(files, recipe, 42)
        assert split_files(files, recipe) != split_files(files, recipe, 43)


def published_counts() -> list[dict[str, str]]:
    text = package_files("thesis_lib.reporting").joinpath("published/dyb_class_counts.csv")
    return list(csv.DictReader(text.read_text(encoding="utf-8").splitlines()))


def test_published_split_has_the_published_totals():
    rows = published_counts()
    totals = [sum(int(row[split]) for row in rows) for split in ("train", "val", "test")]
    assert (len(rows), totals) == (87, [33135, 7107, 7147])


def test_recipe_reproduces_the_published_sizes():
    differing = {}
    for row in published_counts():
        sizes = [int(row[split]) for split in ("train", "val", "test")]
        parts = split_files([str(i) for i in range(sum(sizes))], "linear-head")
        if [len(parts[split]) for split in ("train", "val", "test")] != sizes:
            differing[row["class"]] = sizes
    # No number of files gives 506, 108 and 108 images, but 723 files give 506, 108 and 109. So one
    # test image of this class was probably removed from the published split afterwards.
    assert differing == {"060_Cumacea_Type A": [506, 108, 108]}
    parts = split_files([str(i) for i in range(723)], "linear-head")
    assert [len(part) for part in parts.values()] == [506, 108, 109]


@pytest.mark.parametrize(("recipe", "fewest"), RECIPES.items())
def test_fewest_images_leave_one_in_every_part(recipe, fewest):
    assert all(split_files([str(i) for i in range(fewest)], recipe).values())
    try:
        parts = split_files([str(i) for i in range(fewest - 1)], recipe)
    except ValueError:  # scikit-learn refuses an empty split
        return
    assert not all(parts.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_split_on_disk_is_the_recipe_class_by_class(tmp_path, recipe):
    source = make_source(tmp_path, {"a": 11, "b": 23})
    assert split_dataset(source, tmp_path / "out", recipe) == {}
    expected = {}
    for name, n in (("a", 11), ("b", 23)):
        names = [f"img{i:03d}.png" for i in range(n)]
        for split, part in split_files(names, recipe).items():
            expected[split, name] = sorted(part)
    assert placed(tmp_path / "out") == expected
    for (split, name), found in expected.items():
        for file in found:
            original = (source / name / file).read_bytes()
            assert (tmp_path / "out" / split / name / file).read_bytes() == original


def test_same_folder_gives_the_same_split_whatever_the_order_of_creation(tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(25)]
    results = []
    for number, order in enumerate((names, names[::-1])):
        make_images(tmp_path / f"s{number}" / "a", order)
        split_dataset(tmp_path / f"s{number}", tmp_path / f"out{number}")
        results.append(placed(tmp_path / f"out{number}"))
    # a file system that lists them backwards
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((p, d, f[::-1]) for p, d, f in walk(*a, **k)))
    split_dataset(tmp_path / "s0", tmp_path / "out2")
    results.append(placed(tmp_path / "out2"))
    assert results[0] == results[1] == results[2]
    assert sorted(chain(*results[0].values())) == sorted(names)


def test_another_seed_gives_another_split(tmp_path):
    source = make_source(tmp_path, {"a": 20})
    split_dataset(source, tmp_path / "one")
    split_dataset(source, tmp_path / "other", seed=1)
    assert placed(tmp_path / "one") != placed(tmp_path / "other")


def test_class_names_may_hold_anything(tmp_path):
    names = [name for name in NAMES if not name.startswith(".")]
    source = make_source(tmp_path, dict.fromkeys(names, 10))
    split_dataset(source, tmp_path / "out")
    assert {name for _, name in placed(tmp_path / "out")} == set(names)
    with open(tmp_path / "out" / "manifest.csv", newline="", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(names)


def test_nested_files_are_images_of_their_class(tmp_path):
    names = [f"{i}.png" for i in range(5)] + [f"cruise 1/leg.2/{i}.png" for i in range(5)]
    for name in ("a", "b"):
        make_images(tmp_path / "source" / name, names)
    split_dataset(tmp_path / "source", tmp_path / "out")
    parts = split_files(sorted(names), "linear-head")
    assert placed(tmp_path / "out") == {
        (split, name): sorted(part) for split, part in parts.items() for name in ("a", "b")
    }


def test_hidden_files_and_folders_and_other_files_are_no_images(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    make_images(source / "a", [".hidden.png", ".thumbs/1.png"])
    make_images(source / ".ipynb_checkpoints", [f"{i}.png" for i in range(10)])
    (source / "a" / "Thumbs.db").write_bytes(b"x")
    (source / "a" / "notes.txt").write_text("x")
    (source / "readme.md").write_text("x")
    assert [p.name for p in class_folders(source)] == ["a"]
    assert image_files(source / "a") == [f"img{i:03d}.png" for i in range(10)]
    split_dataset(source, tmp_path / "out")
    assert sorted(chain(*placed(tmp_path / "out").values())) == image_files(source / "a")


def test_suffixes_count_in_capitals_too(tmp_path):
    make_images(tmp_path / "a", ["1.PNG", "2.Jpg", "3.jpeg", "4.TIF", "5.bmp"])
    assert image_files(tmp_path / "a") == ["1.PNG", "2.Jpg", "3.jpeg", "4.TIF", "5.bmp"]


def test_files_are_hard_links_and_with_copy_files_of_their_own(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    inodes = {p.name: p.stat().st_ino for p in (source / "a").iterdir()}
    split_dataset(source, tmp_path / "links")
    split_dataset(source, tmp_path / "copies", copy=True)
    for out, same in (("links", True), ("copies", False)):
        found = list((tmp_path / out).rglob("*.png"))
        assert len(found) == 10
        assert all((p.stat().st_ino == inodes[p.name]) is same for p in found)
        assert all(p.read_bytes() == (source / "a" / p.name).read_bytes() for p in found)
        assert not any(p.is_symlink() for p in found)


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = make_source(tmp_path, {"a": 10})
    split_dataset(source, tmp_path / "out")
    found = list((tmp_path / "out").rglob("*.png"))
    assert len(found) == 10
    assert all(p.stat().st_nlink == 1 for p in found)
    assert all(p.read_bytes() == (source / "a" / p.name).read_bytes() for p in found)


def test_symbolic_links_become_the_files_they_point_to(tmp_path):
    make_images(tmp_path / "store", [f"{i}.png" for i in range(10)])
    (tmp_path / "source" / "a").mkdir(parents=True)
    for i in range(10):
        (tmp_path / "source" / "a" / f"{i}.png").symlink_to(tmp_path / "store" / f"{i}.png")
    split_dataset(tmp_path / "source", tmp_path / "out")
    found = list((tmp_path / "out").rglob("*.png"))
    assert len(found) == 10 and not any(p.is_symlink() for p in found)


def test_manifest_lists_every_file_with_its_size_and_hash(tmp_path):
    source = make_source(tmp_path, {"a": 10, "b c": 7})
    make_images(source / "a", ["deep/er.png"])
    split_dataset(source, tmp_path / "out")
    with open(tmp_path / "out" / "manifest.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == ["split", "class", "file", "bytes", "sha256"]
    listed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        content = (tmp_path / "out" / row["split"] / row["class"] / row["file"]).read_bytes()
        assert int(row["bytes"]) == len(content)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        listed.setdefault((row["split"], row["class"]), []).append(row["file"])
    assert {key: sorted(found) for key, found in listed.items()} == placed(tmp_path / "out")
    assert len(rows) == 18


def test_excluded_classes_are_left_out(tmp_path):
    source = make_source(tmp_path, {"a": 10, "b": 10, "c": 1})
    split_dataset(source, tmp_path / "out", exclude=["b", "c"])
    assert {name for _, name in placed(tmp_path / "out")} == {"a"}


def test_unknown_class_to_exclude_is_refused_with_the_nearest(tmp_path):
    source = make_source(tmp_path, {"Acartia": 10, "Noctiluca": 10})
    with pytest.raises(InputError, match=r"no class 'Acartai' to exclude; nearest: Acartia"):
        split_dataset(source, tmp_path / "out", exclude=["Acartai"])
    assert not (tmp_path / "out").exists()


def test_nothing_left_after_excluding_is_refused(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    with pytest.raises(InputError, match="no class folders left"):
        split_dataset(source, tmp_path / "out", exclude=["a"])


def test_min_images_returns_the_classes_left_out_with_their_sizes(tmp_path):
    source = make_source(tmp_path, {"big": 12, "edge": 10, "small": 9, "none": 0})
    assert split_dataset(source, tmp_path / "out", min_images=10) == {"small": 9, "none": 0}
    assert {name for _, name in placed(tmp_path / "out")} == {"big", "edge"}
    with pytest.raises(InputError, match="--min-images 100"):
        split_dataset(source, tmp_path / "out2", min_images=100)


@pytest.mark.parametrize(("recipe", "count"), [("linear-head", 3), ("cosine", 1), ("cosine", 0)])
def test_class_too_small_for_the_recipe_is_named(tmp_path, recipe, count):
    source = make_source(tmp_path, {"big": 12, "tiny one": count})
    with pytest.raises(InputError, match=rf"'tiny one' \({count}\)") as caught:
        split_dataset(source, tmp_path / "out", recipe)
    assert f"--min-images {RECIPES[recipe]}" in str(caught.value)
    assert "big" not in str(caught.value).replace(str(tmp_path), "")
    assert not (tmp_path / "out").exists()


def test_what_is_at_the_destination_is_never_overwritten(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    split_dataset(source, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    with pytest.raises(InputError, match="already exists"):
        split_dataset(source, tmp_path / "out", seed=1)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        split_dataset(source, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_empty_folder_at_the_destination_is_taken(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    (tmp_path / "out").mkdir()
    split_dataset(source, tmp_path / "out")
    assert len(placed(tmp_path / "out")) == 3


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch, error):
    source = make_source(tmp_path, {"a": 10, "b": 10})
    before, place, calls = tree(tmp_path), writer._place, []

    def fail_at_the_twelfth(*arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise error
        return place(*arguments)

    monkeypatch.setattr(writer, "_place", fail_at_the_twelfth)
    with pytest.raises(type(error)):
        split_dataset(source, tmp_path / "out")
    assert len(calls) == 12
    assert tree(tmp_path) == before
    monkeypatch.setattr(writer, "_place", place)
    split_dataset(source, tmp_path / "out")
    assert len(placed(tmp_path / "out")) == 6


def test_split_leaves_nothing_but_itself(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    split_dataset(source, tmp_path / "data" / "out")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["out"]
    names = sorted(p.name for p in (tmp_path / "data" / "out").iterdir())
    assert names == ["dataset.json", "manifest.csv", "test", "train", "val"]


def test_missing_and_empty_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        split_dataset(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no class folders"):
        split_dataset(tmp_path / "empty", tmp_path / "out")
    make_images(tmp_path / "flat", ["1.png", "2.png"])  # images, but no class folders
    with pytest.raises(InputError, match="no class folders"):
        split_dataset(tmp_path / "flat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_source_that_is_split_already_is_refused(tmp_path, recipe):
    split_dataset(make_source(tmp_path, {"a": 10}), tmp_path / "out", recipe)
    with pytest.raises(InputError, match="is already split"):
        split_dataset(tmp_path / "out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_destination_inside_the_source_is_refused(tmp_path):
    source = make_source(tmp_path, {"a": 10})
    before = tree(tmp_path)
    for place in (source / "out", source, source / "a" / "out"):
        with pytest.raises(InputError):
            split_dataset(source, place)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"recipe": "70-15-15"}, "linear-head, cosine"), ({"seed": -1}, "seed must be")],
)
def test_bad_arguments_are_refused(tmp_path, arguments, words):
    source = make_source(tmp_path, {"a": 10})
    with pytest.raises(InputError, match=words):
        split_dataset(source, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


Rows = list[tuple[str, str]]


def write_manifests(folder: Path, parts: dict[str, Rows], encoding: str = "utf-8") -> list[Path]:
    """Write the (folder, filename) rows of each split to a CSV file; return the paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{part}.csv" for part in parts]
    for path, rows in zip(paths, parts.values(), strict=True):
        with open(path, "w", newline="", encoding=encoding) as file:
            csv.writer(file).writerows([("folder", "filename"), *rows])
    return paths


def numbered(name: str, *numbers: int) -> Rows:
    return [(name, f"img{i:03d}.png") for i in numbers]


def three_parts(*names: str) -> dict[str, Rows]:
    """Put images 0 to 2 of each class in train, 3 in val and 4 in test."""
    return {
        "train": [row for name in names for row in numbered(name, 0, 1, 2)],
        "val": [row for name in names for row in numbered(name, 3)],
        "test": [row for name in names for row in numbered(name, 4)],
    }


def in_folders(parts: dict[str, Rows]) -> dict[tuple[str, str], list[str]]:
    """Return rows in the form that ``placed`` returns."""
    expected: dict[tuple[str, str], list[str]] = {}
    for part, rows in parts.items():
        for name, file in sorted(rows):
            expected.setdefault((part, name), []).append(file)
    return expected


def refusal(*arguments, **options) -> str:
    """Return the error message of a split by manifests; check that it is one line."""
    with pytest.raises(InputError) as caught:
        split_by_manifest(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_manifests_are_rebuilt_to_the_file_in_any_of_their_encodings(tmp_path, encoding):
    names = ["012_Acartia sp.B", "Larve nauplié", 'O\'Neill, "x"; y', "NA"]
    source = make_source(tmp_path, dict.fromkeys(names, 5))
    make_images(source / "NA", ["cruise 1/leg.2/a, b.png"])
    parts = three_parts(*names)
    parts["val"].append(("NA", "cruise 1/leg.2/a, b.png"))
    report = split_by_manifest(
        source, tmp_path / "out", write_manifests(tmp_path / "lists", parts, encoding)
    )
    assert placed(tmp_path / "out") == in_folders(parts)
    for path in (tmp_path / "out").glob("*/**/*.png"):
        assert path.samefile(source / Path(*path.relative_to(tmp_path / "out").parts[1:]))
    assert (report.missing, report.repeated, report.in_two_splits) == ([], [], [])
    assert report.unlisted == 0


@pytest.mark.parametrize(("disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_match_however_unicode_composes_them_and_stay_as_on_disk(tmp_path, disk, listed):
    name, file = (unicodedata.normalize(disk, n) for n in ("Noctiluque é", "sub ü/ångström.png"))
    make_images(tmp_path / "source" / name, ["1.png", "2.png", file])
    row = (unicodedata.normalize(listed, name), unicodedata.normalize(listed, file))
    lists = write_manifests(tmp_path / "lists", {"train": [(row[0], "1.png")], "test": [row]})
    report = split_by_manifest(tmp_path / "source", tmp_path / "out", lists)
    assert placed(tmp_path / "out") == {("train", name): ["1.png"], ("test", name): [file]}
    assert report.unlisted == 1


def test_two_spellings_of_a_name_on_disk_are_two_images(tmp_path):
    spellings = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    make_images(tmp_path / "source" / "a", spellings)
    if len(image_files(tmp_path / "source" / "a")) < 2:
        pytest.skip("this file system takes both spellings for one")
    rows = {"train": [("a", spellings[0])], "test": [("a", spellings[1])]}
    split_by_manifest(
        tmp_path / "source", tmp_path / "out", write_manifests(tmp_path / "lists", rows)
    )
    assert placed(tmp_path / "out") == in_folders(rows)


def test_two_manifests_are_train_and_test(tmp_path):
    source = make_source(tmp_path, {"a": 5, "b": 5})
    parts = {"train": numbered("a", 0, 2) + numbered("b", 1), "test": numbered("a", 1)}
    report = split_by_manifest(source, tmp_path / "out", write_manifests(tmp_path, parts))
    assert placed(tmp_path / "out") == in_folders(parts)
    assert not (tmp_path / "out" / "val").exists()
    assert report.unlisted == 6


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_columns_their_order_and_their_delimiter_do_not_matter(tmp_path, delimiter):
    source = make_source(tmp_path, {"a, b; c": 2})
    for part, number in (("train", 0), ("test", 1)):
        with open(tmp_path / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerow(("id", " filename ", "label", " folder"))
            rows.writerow((number, f"img{number:03d}.png", "7", "a, b; c"))
            file.write("\r\n")
    split_by_manifest(source, tmp_path / "out", [tmp_path / "train.csv", tmp_path / "test.csv"])
    assert placed(tmp_path / "out") == {
        ("train", "a, b; c"): ["img000.png"],
        ("test", "a, b; c"): ["img001.png"],
    }


def test_missing_images_are_all_named_and_nothing_is_written(tmp_path):
    source = make_source(tmp_path, {"a": 5, "b c": 5})
    parts = three_parts("a", "b c")
    parts["train"] += [("a", "lost.png"), ("a", "lost.png"), ("gone", "1.png")]
    parts["test"] += [("b c", "sub/lost.jpg")]
    lists = write_manifests(tmp_path, parts)
    before = tree(tmp_path)
    message = refusal(source, tmp_path / "out", lists)
    assert message.startswith(f"3 of 13 listed images are missing in {source}: ")
    for image in ("train: a/lost.png (train.csv)", "test: b c/sub/lost.jpg (test.csv)"):
        assert message.count(image) == 1
    assert "train: gone/1.png (train.csv)" in message and "--allow-missing" in message
    assert tree(tmp_path) == before


def test_of_many_missing_images_every_one_is_named(tmp_path):
    source = make_source(tmp_path, {"a": 2})
    lists = write_manifests(
        tmp_path, {"train": numbered("a", *range(350)), "test": numbered("a", 0)}
    )
    message = refusal(source, tmp_path / "out", lists)
    assert message.startswith("348 of 351 listed images")
    assert message.count("(train.csv)") == 348 and "\n" not in message


def test_missing_images_are_left_out_and_reported_when_allowed(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    parts = three_parts("a")
    more = {**parts, "val": parts["val"] + [("a", "lost.png"), ("gone", "1.png")]}
    lists = write_manifests(tmp_path, more)
    report = split_by_manifest(source, tmp_path / "out", lists, allow_missing=True)
    assert report.missing == ["val: a/lost.png (val.csv)", "val: gone/1.png (val.csv)"]
    assert placed(tmp_path / "out") == in_folders(parts)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_a_source_without_any_listed_image_is_likely_the_wrong_folder(tmp_path, allow_missing):
    source = make_source(tmp_path / "data", {"Acartia": 5, "Noctiluca": 5})
    lists = write_manifests(tmp_path, three_parts("Acartia", "Noctiluca"))
    message = refusal(source.parent, tmp_path / "out", lists, allow_missing=allow_missing)
    assert "none of the 10 listed images" in message and "wrong folder" in message
    assert not (tmp_path / "out").exists()


def test_an_image_in_two_parts_is_placed_in_both_and_reported(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    parts = three_parts("a")
    parts["test"] += numbered("a", 1)
    report = split_by_manifest(source, tmp_path / "out", write_manifests(tmp_path, parts))
    assert report.in_two_splits == ["a/img001.png (train, test)"]
    assert placed(tmp_path / "out") == in_folders(parts)
    assert report.unlisted == 0


def test_a_repeated_row_is_placed_once_and_reported(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    parts = three_parts("a")
    twice = {**parts, "train": parts["train"] + numbered("a", 2, 2)}
    report = split_by_manifest(source, tmp_path / "out", write_manifests(tmp_path, twice))
    assert report.repeated == ["train: a/img002.png (train.csv)"]
    assert (report.missing, report.in_two_splits) == ([], [])
    assert placed(tmp_path / "out") == in_folders(parts)


def test_unlisted_images_are_counted_and_stay_out(tmp_path):
    source = make_source(tmp_path, {"a": 7, "left out": 4})
    make_images(source / "a", ["deep/er.png"])
    (source / "a" / "notes.txt").write_text("x")
    parts = three_parts("a")
    report = split_by_manifest(source, tmp_path / "out", write_manifests(tmp_path, parts))
    assert report.unlisted == 2 + 4 + 1
    assert placed(tmp_path / "out") == in_folders(parts)


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["train", "test", "val"], "test.csv is given as the manifest of val"),
        (["DYB_test", "list 2", "list 3"], "DYB_test.csv is given as the manifest of train"),
        (["TRAIN", "VAL"], "VAL.csv is given as the manifest of test"),
    ],
)
def test_manifests_in_another_order_are_refused(tmp_path, names, wrong):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, {name: numbered("a", i) for i, name in enumerate(names)})
    before = tree(tmp_path)
    message = refusal(source, tmp_path / "out", lists)
    assert wrong in message and "the order is train " in message
    assert tree(tmp_path) == before


def test_manifests_may_have_any_name_that_names_no_other_part(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    rows = {"list 1": numbered("a", 0), "train_and_val": numbered("a", 1), "3": numbered("a", 2)}
    split_by_manifest(source, tmp_path / "out", write_manifests(tmp_path, rows))
    assert placed(tmp_path / "out") == {
        ("train", "a"): ["img000.png"],
        ("val", "a"): ["img001.png"],
        ("test", "a"): ["img002.png"],
    }


@pytest.mark.parametrize("number", [0, 1, 4])
def test_another_number_of_manifests_is_refused(tmp_path, number):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, {f"list {i}": numbered("a", i) for i in range(number)})
    assert f"not {number}" in refusal(source, tmp_path / "out", lists)


@pytest.mark.parametrize(
    ("folder", "filename"),
    [
        ("..", "secret.png"),
        ("a", "../../secret.png"),
        ("a", "sub/../../../secret.png"),
        ("a/../..", "secret.png"),
        ("/tmp", "secret.png"),
        ("a", "/tmp/secret.png"),
        ("a", "C:/secret.png"),
        ("a", "..\\..\\secret.png"),
        ("a\\b", "secret.png"),
        ("a", "sub//secret.png"),
        ("a/sub", "secret.png"),
        ("a", "two\nlines.png"),
        ("", "secret.png"),
        ("a", ""),
        (" ", "secret.png"),
        ("a", "notes.txt"),
        ("a", "png"),
    ],
)
def test_a_row_that_names_no_image_of_a_class_is_refused_with_its_line(tmp_path, folder, filename):
    source = make_source(tmp_path, {"a": 5})
    make_images(tmp_path, ["secret.png"])
    make_images(source / "a", ["sub/secret.png"])
    (source / "a" / "notes.txt").write_text("x")
    parts = three_parts("a")
    parts["val"] += [(folder, filename), *numbered("a", 4)]
    lists = write_manifests(tmp_path, parts)
    before = tree(tmp_path)
    for allow_missing in (False, True):
        message = refusal(source, tmp_path / "out", lists, allow_missing=allow_missing)
        lines = 3 + filename.count("\n")
        assert message.startswith(f"{tmp_path / 'val.csv'} line {lines}: f")
    assert tree(tmp_path) == before


def test_a_class_that_train_lacks_is_refused(tmp_path):
    source = make_source(tmp_path, {"a": 5, "b c": 5, "d": 5})
    parts = three_parts("a")
    parts["test"] += numbered("b c", 0)
    parts["val"] += numbered("d", 0)
    before = tree(tmp_path)
    message = refusal(source, tmp_path / "out", write_manifests(tmp_path / "lists", parts))
    assert "train has no images of the class 'b c', 'd'" in message
    assert tree(tmp_path) == sorted([*before, "lists", *(f"lists/{p}.csv" for p in parts)])


def test_a_part_without_images_is_refused(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, {**three_parts("a"), "val": []})
    assert refusal(source, tmp_path / "out", lists).startswith("val would have no image")
    lists = write_manifests(tmp_path, {**three_parts("a"), "val": numbered("a", 99)})
    message = refusal(source, tmp_path / "out", lists, allow_missing=True)
    assert message.startswith("val would have no image")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "columns folder and filename"),
        (b"class,file\na,img000.png\n", "its first line is 'class,file'"),
        (b"a,img000.png\n", "columns folder and filename"),
        ("klasse,datei\n".encode("utf-16"), "its first line is 'klasse,datei'"),
        (b"folder,filename\na\n", "line 2: filename is empty"),
        (b"folder,filename\na, b,img000.png\n", "line 2: more fields than the header"),
        (b'folder,filename\n"a,img000.png\n', "is not valid CSV"),
    ],
)
def test_a_manifest_that_is_no_such_table_is_refused_by_name(tmp_path, content, words):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, three_parts("a"))
    lists[1].write_bytes(content)
    message = refusal(source, tmp_path / "out", lists)
    assert str(lists[1]) in message and words in message
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_cannot_be_read_is_refused_by_name(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, three_parts("a"))
    for path in (tmp_path / "nowhere.csv", source):
        message = refusal(source, tmp_path / "out", [lists[0], path, lists[2]])
        assert message.startswith(f"cannot read the manifest {path}: ")


def test_places_that_no_recipe_takes_no_manifest_takes(tmp_path):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, three_parts("a"))
    assert "there is no folder" in refusal(tmp_path / "nowhere", tmp_path / "out", lists)
    assert "is inside" in refusal(source, source / "out", lists)
    split_by_manifest(source, tmp_path / "out", lists)
    assert "already exists" in refusal(source, tmp_path / "out", lists)
    assert "is already split" in refusal(tmp_path / "out", tmp_path / "again", lists)


def test_a_rebuilt_split_is_links_or_copies_and_never_half(tmp_path, monkeypatch):
    source = make_source(tmp_path, {"a": 5})
    lists = write_manifests(tmp_path, three_parts("a"))
    split_by_manifest(source, tmp_path / "links", lists)
    split_by_manifest(source, tmp_path / "copies", lists, SplitOptions(copy=True))
    for out, links in (("links", 2), ("copies", 1)):
        assert {p.stat().st_nlink for p in (tmp_path / out).rglob("*.png")} == {links}
    before, calls = tree(tmp_path), []

    def fail_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return 0, ""

    monkeypatch.setattr(writer, "_place", fail_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        split_by_manifest(source, tmp_path / "out", lists)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipes_split_is_rebuilt_from_its_manifest(tmp_path, recipe):
    names = [name for name in NAMES if not name.startswith(".")]
    source = make_source(tmp_path, dict.fromkeys(names, 9))
    make_images(source / "NA", ["cruise 1/leg.2/1.png"])
    split_dataset(source, tmp_path / "made", recipe)
    with open(tmp_path / "made" / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts: dict[str, Rows] = {"train": [], "val": [], "test": []}
    for row in rows[::-1]:  # in any order
        parts[row["split"]].append((row["class"], row["file"]))
    lists = write_manifests(tmp_path / "lists", {p: rows for p, rows in parts.items() if rows})
    split_by_manifest(source, tmp_path / "rebuilt", lists)
    assert tree(tmp_path / "rebuilt") == tree(tmp_path / "made")
    made, rebuilt = (tmp_path / out / "manifest.csv" for out in ("made", "rebuilt"))
    assert rebuilt.read_bytes() == made.read_bytes()


def test_a_split_of_the_published_sizes_is_rebuilt(tmp_path):
    parts: dict[str, Rows] = {"train": [], "val": [], "test": []}
    expected = {}
    for row in published_counts():
        name, number = row["class"], 0
        (tmp_path / "source" / name).mkdir(parents=True)
        for part, rows in parts.items():
            count = -(-int(row[part]) // 20)  # a twentieth, rounded up
            expected[part, name] = count
            for _ in range(count):
                number += 1
                rows.append((name, f"DYB-{number}-1.jpg"))
                (tmp_path / "source" / name / rows[-1][1]).write_bytes(b"")
    report = split_by_manifest(
        tmp_path / "source", tmp_path / "out", write_manifests(tmp_path, parts)
    )
    found = {key: len(files) for key, files in placed(tmp_path / "out").items()}
    assert found == expected and len(found) == 3 * 87
    assert report.unlisted == 0
