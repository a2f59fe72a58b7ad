"""`--pixel-size` measures each organism in mm, and keeps the result in manifest.csv."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thesis_lib.cli.command_line import main
from thesis_lib.data.datasets import open_dataset
from thesis_lib.system.files import read_json


def organism(path, length, legend=False):
    """A bar of ``length`` x 10 px on white; with a legend, a longer one in the bottom 5 rows."""
    pixels = np.full((60, 120, 3), 250, dtype=np.uint8)
    pixels[20:30, 10 : 10 + length] = 60
    if legend:
        pixels[-5:] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        organism(tmp_path / "classes" / "small" / f"s{i}.png", 20, legend=True)
        organism(tmp_path / "classes" / "large" / f"l{i}.png", 80, legend=True)
    return tmp_path


def lengths(folder="out"):
    with open(Path(folder) / "manifest.csv", newline="", encoding="utf-8") as file:
        return {row["file"]: row["major_axis_mm"] for row in csv.DictReader(file)}


def test_the_major_axis_is_in_mm_without_the_legend(capsys):
    assert main(["split", "classes", "out", "--pixel-size", "10,5", "--crop-bottom", "5"]) == 0
    # An ellipse with the moments of a bar of a x b px has axes in the ratio a : b, and its area.
    expected = {"s": np.sqrt(20 * 10 * 2 * 4 / np.pi), "l": np.sqrt(80 * 10 * 8 * 4 / np.pi)}
    for file, length in lengths().items():
        assert float(length) == pytest.approx(expected[file[0]] * 10.5 / 1000, rel=0.01)
    out = capsys.readouterr().out
    assert "major axis of 12 of 12 organisms: median 0.594 mm, from 0.237 to 0.95 mm" in out
    assert read_json(Path("out/dataset.json"))["pixel_size"] == "10,5"
    found = open_dataset("out").major_axes
    assert set(found) == {f for s in open_dataset("out").splits.values() for f in s.files}
    assert min(found.values()) == pytest.approx(0.237, abs=0.001)


def test_an_image_without_an_organism_or_that_is_damaged_has_no_size(place, capsys):
    Image.new("RGB", (50, 50), "white").save(place / "classes" / "small" / "empty.png")
    (place / "classes" / "large" / "damaged.png").write_bytes(b"x")
    assert main(["split", "classes", "out", "--pixel-size", "10"]) == 0
    assert lengths()["empty.png"] == lengths()["damaged.png"] == ""
    assert "major axis of 12 of 14 organisms" in capsys.readouterr().out
    assert len(open_dataset("out").major_axes) == 12


def test_a_column_of_the_source_holds_the_pixel_size(place):
    rows = [f"classes/{n}/{n[0]}{i}.png,{n},{5 + i}" for n in ("small", "large") for i in range(6)]
    (place / "table.csv").write_text("path,label,um\n" + "\n".join(rows) + "\n")
    assert main(["split", "table.csv", "out", "--pixel-size", "um", "--crop-bottom", "5"]) == 0
    found = lengths()
    assert float(found["s5.png"]) == pytest.approx(2 * float(found["s0.png"]), rel=0.001)


def test_a_split_that_is_rebuilt_from_manifests_has_sizes(place):
    for split, numbers in (("train", (0, 1, 2, 3)), ("test", (4, 5))):
        rows = [f"{n},{n[0]}{i}.png" for n in ("small", "large") for i in numbers]
        (place / f"{split}.csv").write_text("folder,filename\n" + "\n".join(rows) + "\n")
    command = ["split", "classes", "out", "--pixel-size", "10.5", "--crop-bottom", "5"]
    assert main([*command, "--manifest", "train.csv", "test.csv"]) == 0
    assert main(["split", "classes", "again", *command[3:]]) == 0
    assert lengths() == lengths("again") and len(lengths()) == 12
    assert read_json(Path("out/dataset.json"))["pixel_size"] == "10.5"


def test_millimetres_are_told_from_micrometres(place, capsys):
    rows = [f"classes/{n}/{n[0]}{i}.png,{n},0.088" for n in ("small", "large") for i in range(6)]
    (place / "table.csv").write_text("path,label,mm\n" + "\n".join(rows) + "\n")
    assert main(["split", "table.csv", "out", "--pixel-size", "mm"]) == 2
    assert "looks like millimetres" in (error := capsys.readouterr().err)
    assert "--pixel-size 88" in error and not Path("out").exists()


@pytest.mark.parametrize("asked", ["0", "-3", "nan", "pixels"])
def test_what_is_no_size_is_refused(asked, capsys):
    assert main(["split", "classes", "out", f"--pixel-size={asked}"]) == 2
    error = capsys.readouterr().err
    assert "is neither a number of micrometres nor a column" in error and not Path("out").exists()


def test_a_split_without_sizes_has_none():
    assert main(["split", "classes", "out"]) == 0
    assert open_dataset("out").major_axes == {}


def test_rows_to_cut_off_that_leave_nothing_of_an_image_are_refused_before_anything_is_written(
    place, capsys
):
    sideways = Image.new("RGB", (40, 90), "white")
    exif = sideways.getexif()
    exif[274] = 6  # rotated by 90 degrees: 40 rows when it is upright
    sideways.save(place / "classes" / "small" / "turned.jpg", exif=exif)
    (place / "classes" / "large" / "damaged.png").write_bytes(b"x")  # left to notebook 01
    rows = [f"small,s{i}.png" for i in range(6)] + ["large,l0.png", "small,turned.jpg"]
    for name in ("train.csv", "test.csv"):
        (place / name).write_text("folder,filename\n" + "\n".join(rows) + "\n")
    for manifest in ([], ["--manifest", "train.csv", "test.csv"]):
        assert main(["split", "classes", "out", "--crop-bottom", "40", *manifest]) == 2
        error = capsys.readouterr().err
        assert f"leaves no row of 1 of {8 if manifest else 14} images" in error
        assert "turned.jpg" in error and "the lowest has 40 rows" in error
        assert error.count("\n") == 1 and not Path("out").exists()
    assert main(["split", "classes", "out", "--crop-bottom", "39"]) == 0
