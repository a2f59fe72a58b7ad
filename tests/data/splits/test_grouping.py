"""Grouped splits: each group is in one split only, classes are balanced, errors are one line."""

import csv
import os
import shutil
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from thesis_lib.cli import command_line
from thesis_lib.data.splits import split_dataset
from thesis_lib.data.splits.grouping import by_pattern, group_of, split_groups
from thesis_lib.errors import InputError

FRAME = r"DYB-(\d+)-\d+"
PARTS = {"linear-head": ("train", "val", "test"), "cosine": ("train", "test")}
SHARES = {"linear-head": (0.7, 0.15, 0.15), "cosine": (0.8, 0.2)}
CLASSES = [f"{i:03d}_Class of {'many words' if i % 3 else 'two'} {i}" for i in range(87)]

Frames = dict[str, list[str]]


def made_frames(classes: list[str], frames: int = 600, seed: int = 0) -> Frames:
    """Make class -> files, from frames with 1 to 40 organisms of one to three classes."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(2, len(classes) + 2)  # a few large classes, many small ones
    weight /= weight.sum()
    files = defaultdict(list)
    for frame in range(frames):
        names = rng.choice(len(classes), min(3, len(classes)), p=weight, replace=False)
        names = [*names[: rng.integers(1, 4)], frame % len(classes)]  # each class has frames
        for organism in range(min(40, rng.geometric(1 / 8))):
            files[classes[rng.choice(names)]].append(f"DYB-{frame:04d}-{organism}.png")
        files[classes[names[-1]]].append(f"DYB-{frame:04d}-40.png")
    return {name: sorted(files[name]) for name in classes}


def write_files(source: Path, files: Frames) -> Path:
    for name, found in files.items():
        for file in found:
            path = source / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
    return source


def frames_in_pairs(number: int, classes: tuple[str, ...] = ("a", "b c")) -> Frames:
    """Make class -> files, from frames with two organisms of each class."""
    return {
        name: [f"DYB-{i:02d}-{j}.png" for i in range(number) for j in (0, 1)] for name in classes
    }


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parts_of_groups(plan: dict[str, dict[str, list[str]]], pattern: str) -> dict[str, set[str]]:
    parts = defaultdict(set)
    for its_parts in plan.values():
        for part, files in its_parts.items():
            for file in files:
                parts[group_of(pattern, file) or file].add(part)
    return parts


def error_of(capsys, source: Path, *options: str) -> str:
    """Return the command's error message; check that it is one line and nothing is left behind."""
    out = source.with_name("refused")
    before = sorted(source.parent.iterdir())
    assert command_line.main(["split", str(source), str(out), *options]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("thesis: error: ") and said.err.count("\n") == 1 and not said.out
    assert sorted(source.parent.iterdir()) == before
    return said.err


@pytest.mark.parametrize(
    ("pattern", "file", "group"),
    [
        (FRAME, "DYB-12-3.jpg", "12"),
        (FRAME, "cruise 1/DYB-012-3.jpg", "012"),
        (r"cruise \d+", "cruise 1/DYB-12-3.jpg", "cruise 1"),
        (r"(\d+)-(\d+)", "12-3.jpg", "12"),
        (FRAME, "other.jpg", None),
        (r"DYB(-\d+)?", "DYB.jpg", None),
        (r"x*", "DYB.jpg", None),
    ],
)
def test_group_is_the_first_group_of_the_pattern_or_all_that_it_matches(pattern, file, group):
    assert group_of(pattern, file) == group


@pytest.mark.parametrize("recipe", PARTS)
def test_no_group_is_in_two_parts_and_the_shares_are_the_recipes(recipe):
    files = made_frames(CLASSES)
    plan = split_groups(files, by_pattern(FRAME), recipe, 42)
    assert all(len(parts) == 1 for parts in parts_of_groups(plan, FRAME).values())
    assert {name: sorted(chain(*parts.values())) for name, parts in plan.items()} == files
    assert all(tuple(parts) == PARTS[recipe] and parts["train"] for parts in plan.values())
    total = sum(map(len, files.values()))
    for part, share in zip(PARTS[recipe], SHARES[recipe], strict=True):
        achieved = sum(len(parts[part]) for parts in plan.values()) / total
        assert achieved == pytest.approx(share, abs=0.02)
        large = [name for name in files if len(files[name]) >= 100]
        deviations = [abs(len(plan[n][part]) / len(files[n]) - share) for n in large]
        assert len(large) > 8
        assert np.median(deviations) < 0.03 and max(deviations) < 0.15


def test_every_class_has_an_image_in_each_part_where_its_groups_allow_it():
    files = frames_in_pairs(40) | {"rare one": ["DYB-03-9.png", "DYB-17-9.png", "DYB-29-9.png"]}
    for seed in range(5):
        assert all(split_groups(files, by_pattern(FRAME), "linear-head", seed)["rare one"].values())


@pytest.mark.parametrize(("number", "recipe"), [(3, "linear-head"), (2, "cosine")])
def test_fewest_groups_leave_one_in_every_part(number, recipe):
    plan = split_groups(frames_in_pairs(number), by_pattern(FRAME), recipe, 42)
    assert all(len(files) == 2 or recipe == "cosine" for files in plan["a"].values())
    assert all(all(parts.values()) for parts in plan.values())


def test_classes_of_single_images_in_the_held_out_part_are_halved_too():
    files = {f"c{k}": [f"DYB-{4 * k + i}-0.png" for i in range(4)] for k in range(3)}
    for seed in range(5):
        plan = split_groups(files, by_pattern(FRAME), "linear-head", seed)
        assert all(parts["train"] for parts in plan.values())
        assert all(any(parts[part] for parts in plan.values()) for part in ("val", "test"))


def test_a_group_goes_across_classes(tmp_path):
    source = write_files(tmp_path / "source", frames_in_pairs(30))
    split_dataset(source, tmp_path / "out", group_by=FRAME)
    parts = defaultdict(set)
    for row in rows_of(tmp_path / "out"):
        assert row["group"] == row["file"].split("-")[1]
        parts[row["group"]].add((row["split"], row["class"]))
    assert all(len(found) == 2 and len({p for p, _ in found}) == 1 for found in parts.values())


def test_files_without_a_match_are_groups_of_their_own(tmp_path):
    files = frames_in_pairs(10, ("a",)) | {"b": [f"img{i}.png" for i in range(40)]}
    source = write_files(tmp_path / "source", files)
    split_dataset(source, tmp_path / "out", group_by=FRAME)
    alone = [row["split"] for row in rows_of(tmp_path / "out") if not row["group"]]
    assert {part: alone.count(part) for part in alone} == {"train": 28, "val": 6, "test": 6}


def test_equal_names_of_unmatched_files_are_no_group():
    names = [f"{i}.png" for i in range(30)]
    files = {"a": names, "b": names, "c": [f"DYB-{i}-0.png" for i in range(30)]}
    plan = split_groups(files, by_pattern(FRAME), "linear-head", 42)
    assert plan["a"] != plan["b"]


def test_split_is_the_same_for_a_seed_whatever_the_order_of_files(tmp_path, monkeypatch):
    files = made_frames(CLASSES[:12], frames=60)
    source = write_files(tmp_path / "source", files)
    split_dataset(source, tmp_path / "one", group_by=FRAME)
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((p, d, f[::-1]) for p, d, f in walk(*a, **k)))
    split_dataset(source, tmp_path / "again", group_by=FRAME)
    split_dataset(source, tmp_path / "other", group_by=FRAME, seed=7)
    one, again, other = (
        (tmp_path / n / "manifest.csv").read_bytes() for n in ("one", "again", "other")
    )
    assert one == again != other


def test_manifest_has_groups_only_where_a_split_is_by_groups(tmp_path):
    source = write_files(tmp_path / "source", frames_in_pairs(10))
    split_dataset(source, tmp_path / "plain")
    split_dataset(source, tmp_path / "grouped", group_by=FRAME)
    columns = ["split", "class", "file", "bytes", "sha256"]
    assert list(rows_of(tmp_path / "plain")[0]) == columns
    assert list(rows_of(tmp_path / "grouped")[0]) == [*columns, "group"]


def test_command_prints_groups_shares_and_lacking_classes_and_no_warnings(tmp_path, capfd):
    files = frames_in_pairs(40) | {
        "two frames": [f"DYB-{i}-{j}.png" for i in (3, 9) for j in (7, 8)]
    }
    files["a"] += ["odd.png", "odder.png"]
    source = write_files(tmp_path / "source", files)
    out = tmp_path / "out"
    assert command_line.main(["split", str(source), str(out), "--group-by", FRAME]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    first, *lines = said.out.splitlines()
    assert first == f"{source}: class folders; 166 images of 3 classes"
    assert lines[0] == "42 groups; 2 files do not match and form their own groups"
    for line, part in zip(lines[1:4], PARTS["linear-head"], strict=True):
        assert line.startswith(f"{part} has ") and "deviates most is 'two frames'" in line
    assert lines[4] in [f"{part} has no images of 'two frames'" for part in ("val", "test")]
    assert [line.split(":")[0] for line in lines[-4:-1]] == [
        f"{out}/{p}" for p in ("train", "val", "test")
    ]


def test_an_archive_is_split_by_groups_as_its_folder(tmp_path):
    source = write_files(tmp_path / "source", frames_in_pairs(20))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", source)
    for given, out in ((str(source), "one"), (archive, "other")):
        assert command_line.main(["split", given, str(tmp_path / out), "--group-by", FRAME]) == 0
    one, other = ((tmp_path / name / "manifest.csv").read_bytes() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("DYB-(", "'DYB-(' is not a valid regular expression: "),
        (
            r"frame(\d+)",
            "matches no file; a pattern is searched for in paths below the class folder, such as "
            "'DYB-00-0.png'",
        ),
        ("", "'' matches no file"),
        ("DYB", "puts all 24 images into 1 group, but recipe linear-head needs at least 3"),
    ],
)
def test_a_pattern_that_tells_no_groups_is_refused(tmp_path, capsys, pattern, words):
    source = write_files(tmp_path / "source", frames_in_pairs(6))
    assert words in error_of(capsys, source, "--group-by", pattern)


def test_too_few_groups_for_the_recipe_are_refused(tmp_path, capsys):
    source = write_files(tmp_path / "source", frames_in_pairs(2))
    assert "2 groups, but recipe linear-head" in error_of(capsys, source, "--group-by", FRAME)


def test_classes_of_one_group_are_named(tmp_path, capsys):
    alone = [f"DYB-05-{i}.png" for i in range(4, 9)]
    files = frames_in_pairs(12) | {"one frame": alone, "same": alone}
    source = write_files(tmp_path / "source", files)
    error = error_of(capsys, source, "--group-by", FRAME)
    assert "'one frame', 'same'" in error and "--exclude 'one frame' same" in error


def test_a_class_that_train_would_lack_is_named_with_what_would_do():
    # Each class is in two of three frames. One frame goes to each split, so train lacks one class.
    files = {
        "a": [f"DYB-{i}-{j}.png" for i in (0, 1) for j in range(10)],
        "b": [f"DYB-{i}-{j}.png" for i in (1, 2) for j in range(10, 20)],
        "c": [f"DYB-{i}-{j}.png" for i in (0, 2) for j in range(20, 30)],
    }
    with pytest.raises(InputError, match=r"no images of '[abc]', because.*--seed.*--exclude"):
        split_groups(files, by_pattern(FRAME), "linear-head", 42)


def test_manifests_tell_the_groups_themselves(tmp_path, capsys):
    source = write_files(tmp_path / "source", frames_in_pairs(6))
    options = ("--group-by", FRAME, "--manifest", "train.csv", "test.csv")
    assert "--group-by cannot be used with --manifest" in error_of(capsys, source, *options)
