"""Each form in which plankton images come is recognised, and nothing is left out silently."""

import csv
import gzip
import os
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thesis_lib.cli.command_line import main
from thesis_lib.data.datasets import open_dataset
from thesis_lib.system.files import read_json

EXPORTS = Path(__file__).parents[4] / "shared" / "data" / "ecotaxa_exports"
COLUMNS = ("img_file_name", "img_rank", "object_id", "object_annotation_status")
COLUMNS += ("object_annotation_category", "sample_id", "object_depth_min")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 7), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "png")


def pictures(folder, names, images=6):
    for name in names:
        for i in range(images):
            picture(folder / name / f"{name}_{i}.png", hash((name, i)) % 1000)


def table(path, rows, columns=COLUMNS, encoding="utf-8", types=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        if types:
            writer.writerow(["[t]"] * len(columns))
        writer.writerows(rows)


def export(root, objects=8, ranks=(0,), status="validated"):
    """Make an EcoTaxa export of two categories and two samples; return its rows."""
    rows = []
    for i in range(2 * objects):
        for rank in ranks:
            name = f"img_{i}_{rank}.png"
            picture(root / name, 10 * i + rank)
            category = "egg<other" if i % 2 else "Copepoda X"
            rows.append((name, rank, f"o{i}", status, category, f"s{i // 2 % 4}", "0,5"))
    table(root / "ecotaxa_a.tsv", rows)
    return rows


def split(*words):
    return main(["split", *map(str, words)])


def placed(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.png")} | {
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.jpg")
    }


def classes(folder):
    counts = {}
    for name in placed(folder):
        counts[name.split("/")[1]] = counts.get(name.split("/")[1], 0) + 1
    return counts


def manifest(folder):
    with open(Path(folder) / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refusal(capsys, *words):
    """Return the one line with which a split is refused; nothing may be left behind."""
    before = {p for p in Path().rglob("*")}
    assert split(*words) == 2
    out, error = capsys.readouterr()
    assert error.startswith("thesis: error: ") and error.count("\n") == 1 and not out
    assert {p for p in Path().rglob("*")} == before
    return error


REAL = {  # the counts of the README of the shared data, without classes of one image
    "doi": {"detritus": 4, "Oncaeidae": 2, "egg_other": 2},
    "bak_all_images": {"detritus": 4, "Oncaeidae": 2},  # two of its three eggs are of one object
    "tsv_by_taxon": {"detritus": 4, "Oncaeidae": 2, "small_egg": 2},
    "tsv_by_acquisition": {"detritus": 4, "Oncaeidae": 2, "small_egg": 2},
}


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="needs the real exports in ../shared/data")
@pytest.mark.parametrize("form", REAL)
@pytest.mark.parametrize("packed", [False, True])
def test_real_exports_become_class_folders(form, packed, place, capsys):
    source = EXPORTS / form
    if packed:
        source = Path(shutil.make_archive(str(place / "export"), "zip", source.parent, form))
    words = ("--status", "predicted", "--recipe", "cosine", "--min-images", 2)
    assert split(source, "data/out", *words) == 0
    out = capsys.readouterr().out
    assert f"{source}: EcoTaxa export" in out
    expected = REAL[form]
    if form == "bak_all_images":
        assert "further images of the same object (see --all-images): 1" in out
    assert classes("data/out") == expected
    kept = {row["class"]: row for row in manifest("data/out")}
    for eggs in (name for name in expected if "egg" in name):
        assert kept[eggs]["object_annotation_category"] == eggs.replace("_", "<")
    assert kept["detritus"]["sample_id"].startswith("m106_mn01_n")
    assert kept["detritus"]["process_pixel"] == "10.6"


def test_a_status_that_nothing_has_is_answered_with_what_there_is(capsys):
    export(Path("source"), status="predicted")
    error = refusal(capsys, "source", "out")
    assert "no validated images, but 16 predicted; choose with --status" in error
    assert split("source", "out", "--status", "validated", "predicted") == 0
    assert classes("out") == {"Copepoda X": 8, "egg_other": 8}


def test_other_statuses_are_counted_and_only_what_was_asked_for_is_taken(capsys):
    rows = export(Path("source"), objects=10)
    rows = [
        (*row[:3], ("", "dubious")[i] if i < 2 else row[3], *row[4:]) for i, row in enumerate(rows)
    ]
    table(Path("source/ecotaxa_a.tsv"), rows)
    assert split("source", "out") == 0
    out = capsys.readouterr().out
    assert "left out: images with the status dubious (see --status): 1" in out
    assert "left out: images with the status unclassified (see --status): 1" in out
    assert len(placed("out")) == 18


def test_one_image_of_an_object_is_taken_or_all_in_the_same_split(capsys):
    export(Path("source"), objects=12, ranks=(3, 1, 2))
    assert split("source", "one") == 0
    assert "further images of the same object (see --all-images): 48" in capsys.readouterr().out
    assert {name.rsplit("_", 1)[1] for name in placed("one")} == {"1.png"}
    assert split("source", "all", "--all-images") == 0
    where = {}
    for row in manifest("all"):
        where.setdefault(row["object_id"], set()).add(row["split"])
    assert len(manifest("all")) == 72 and all(len(its) == 1 for its in where.values())


def test_samples_stay_together_by_a_column(capsys):
    export(Path("source"), objects=24)
    assert split("source", "out", "--group-by-column", "sample_id") == 0
    where = {}
    for row in manifest("out"):
        assert row["group"] == row["sample_id"]
        where.setdefault(row["sample_id"], set()).add(row["split"])
    assert len(where) == 4 and all(len(its) == 1 for its in where.values())
    capsys.readouterr()
    error = refusal(capsys, "source", "again", "--group-by-column", "sample_ids")
    assert "no column 'sample_ids'; nearest: sample_id" in error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("types", [False, True])
def test_tables_in_any_encoding(encoding, types):
    rows = export(Path("source"))
    rows = [(*row[:4], row[4].replace("X", "ó"), *row[5:]) for row in rows]
    table(Path("source/ecotaxa_a.tsv"), rows, encoding=encoding, types=types)
    assert split("source", "out") == 0
    assert classes("out") == {"Copepoda ó": 8, "egg_other": 8}


def without_category(rows):
    return [(*row[:4], "", *row[5:]) for row in rows]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_category, "no object of source has a category"),
        (lambda rows: [("gone.png", *row[1:]) for row in rows], "16 of the images"),
        (lambda rows: [("../a.png", *rows[0][1:])], "must be a path below the folder"),
        (lambda rows: [("/etc/a.png", *rows[0][1:])], "must be a path below the folder"),
        (lambda rows: [*rows, (*rows[0][:4], "other one", *rows[0][5:])], "but another row gives"),
        (
            lambda rows: [
                (*row[:4], "egg_other" if i == 1 else row[4], *row[5:])
                for i, row in enumerate(rows)
            ],
            "would share the folder 'egg_other'",
        ),
        (lambda rows: [(*row, "too", "many") for row in rows], "more fields than the header"),
    ],
)
def test_faulty_exports_are_refused_in_one_line(change, words, capsys):
    table(Path("source/ecotaxa_a.tsv"), change(export(Path("source"))))
    assert words in refusal(capsys, "source", "out")


def test_the_data_set_knows_the_category_of_a_class_unless_it_was_merged():
    export(Path("source"))
    assert split("source", "data/whole") == 0
    categories = {"Copepoda X": "Copepoda X", "egg_other": "egg<other"}
    assert open_dataset("data/whole").categories == categories
    Path("map.csv").write_text("from,to\nCopepoda X,both\negg<other,both\n")
    assert split("source", "data/merged", "--classes", "map.csv") == 0
    assert open_dataset("data/whole").without([]).categories == categories
    Path("data/merged/train/other").mkdir()
    picture(Path("data/merged/train/other/1.png"))
    assert open_dataset("data/merged").categories == {}


def test_images_that_no_row_names_are_counted(capsys):
    rows = export(Path("source"))
    table(Path("source/ecotaxa_a.tsv"), rows[2:])
    assert split("source", "out") == 0
    assert "left out: images that no row names: 2" in capsys.readouterr().out
    assert len(placed("out")) == 14


def test_equal_names_in_two_samples_are_both_kept():
    rows = []
    for sample in ("s1", "s2"):
        for i in range(6):
            picture(Path("source", sample, f"{i}.png"), i)
            rows.append((f"{i}.png", 0, f"{i}", "validated", "ab"[i % 2], sample, "1"))
        table(Path("source", sample, f"ecotaxa_{sample}.tsv"), rows[-6:])
    assert split("source", "out") == 0
    assert classes("out") == {"a": 6, "b": 6}


def learning_set(root, parts=True):
    columns = ["objid", "taxon", "lineage", *(["set"] if parts else [])]
    rows = []
    for name in ("Copepoda", "detritus"):
        for i in range(10):
            picture(root / "imgs" / name / f"{name}{i}.png", i)
            row = [f"{name}{i}", name, f"Biota/{name}", ("test" if i > 6 else "train")]
            rows.append(row[: len(columns)])
    with gzip.open(root / "taxa.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    picture(root / "map.png")
    (root / "inventory.tsv").write_text("a\tb\n1\t2\n")


@pytest.mark.parametrize("packed", [False, True])
def test_a_learning_set_keeps_its_published_split_if_asked(packed, capsys):
    learning_set(Path("in/UVP"))
    source = Path("in")
    if packed:
        with tarfile.open("in.tar", "w") as archive:
            archive.add("in/UVP", "UVP")
        source = Path("in.tar")
    assert split(source, "own") == 0
    out = capsys.readouterr().out
    assert f"{source}: EcoTaxa learning set (taxa.csv.gz); 20 images of 2 classes" in out
    assert "left out: other files, such as features and maps: 2" in out
    assert len(placed("own")) == 20 and len(placed("own/val")) == 2
    assert split(source, "published", "--published-split") == 0
    assert len(placed("published/train")) == 14 and len(placed("published/test")) == 6
    assert {row["lineage"] for row in manifest("published")} == {"Biota/Copepoda", "Biota/detritus"}


def test_a_split_that_was_not_published_is_not_taken_over(capsys):
    learning_set(Path("in"), parts=False)
    error = refusal(capsys, "in", "out", "--published-split")
    assert "no published split into train, val and test" in error


def test_years_are_pooled_and_can_be_kept_apart(capsys):
    for year in ("2006", "2007", "2013", "2014"):
        pictures(Path("whoi", year), ("ciliate", "mix"))
    assert split("whoi", "out") == 0
    assert "class folders in each of 2006, 2007, 2013, 2014; 48 images of 2" in (
        capsys.readouterr().out
    )
    assert classes("out") == {"ciliate": 24, "mix": 24}
    assert split("whoi", "apart", "--group-by-column", "year") == 0
    where = {}
    for row in manifest("apart"):
        where.setdefault(row["group"], set()).add(row["split"])
    assert len(where) == 4 and all(len(its) == 1 for its in where.values())


def test_samples_that_would_become_classes_are_refused_with_what_to_write(capsys):
    for sample in ("station 1", "station 2", "station 3"):
        pictures(Path("source", sample), ("Acartia", "Calanus"))
    error = refusal(capsys, "source", "out")
    assert "look like samples" in error and "--format groups" in error
    assert split("source", "out", "--format", "groups") == 0
    assert classes("out") == {"Acartia": 18, "Calanus": 18}
    assert split("source", "odd", "--format", "class-folders") == 0
    assert classes("odd") == {f"station {i}": 12 for i in (1, 2, 3)}


@pytest.mark.parametrize("names", [("Train", "valid", "testing"), ("training", "test")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_source_that_is_split_already_is_taken_over(names, packed, capsys):
    for name in names:
        pictures(Path("source", name), ("a", "b"))
    source = Path("source")
    if packed:
        with zipfile.ZipFile("source.zip", "w") as archive:
            for path in source.rglob("*.png"):
                archive.write(path)
        source = Path("source.zip")
    assert split(source, "out") == 0
    parts = {name.split("/")[0] for name in placed("out")}
    assert parts == ({"train", "val", "test"} if len(names) == 3 else {"train", "test"})
    assert classes("out") == {"a": 6 * len(names), "b": 6 * len(names)}
    capsys.readouterr()
    assert "already split" in refusal(capsys, source, "new", "--recipe", "cosine")


def test_what_is_left_out_of_class_folders_is_counted_by_reason(capsys):
    pictures(Path("source"), ("a", "b"))
    picture(Path("source/loose.png"))
    for name in (
        "a/notes.txt",
        "a/Thumbs.db",
        "b/._x.png",
        "b/scan.raw",
        "b/scan2.raw",
        "b/README",
    ):
        Path("source", name).write_bytes(b"x")
    for name in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        picture(Path("source", name, "c.png"))
        picture(Path("source", "a", name, "c.png"))
    assert split("source", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line for line in lines if line.startswith("left out")} == {
        "left out: hidden or system folders: 6",
        "left out: hidden or system files: 2",
        "left out: files with the suffix .raw: 2",
        "left out: files with the suffix .txt: 1",
        "left out: files without a suffix: 1",
        "left out: images outside class folders: 1",
    }
    assert classes("out") == {"a": 6, "b": 6}
    assert any(line.split() == ["a", "4", "1", "1"] for line in lines)
    assert lines[-1] == "continue with: thesis run --data out"


def test_links_in_a_circle_are_counted_once(capsys):
    pictures(Path("source"), ("a", "b"))
    os.symlink(Path("source").resolve(), "source/a/again")
    assert split("source", "out") == 0
    assert classes("out") == {"a": 6, "b": 6}
    assert "folders that were counted already, below links to them: 1" in capsys.readouterr().out


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_stops_the_split(capsys):
    pictures(Path("source"), ("a", "b"))
    Path("source/b").chmod(0)
    try:
        assert "cannot read the folder source/b" in refusal(capsys, "source", "out")
    finally:
        Path("source/b").chmod(0o755)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "ecotaxa"), "lacks a table with the columns img_file_name"),
        (("--format", "learning-set"), "lacks a table taxa.csv.gz"),
        (("--format", "groups"), "lacks folders of class folders"),
        (("--format", "split"), "lacks folders train/"),
        (("--status", "predicted"), "--status is for an EcoTaxa export"),
        (("--all-images",), "--all-images is for an EcoTaxa export"),
        (("--published-split",), "no published split"),
        (("--group-by-column", "sample_id"), "has no column 'sample_id' to group by"),
        (("--group-by", "x", "--group-by-column", "y"), "cannot be used together"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(words, told, capsys):
    pictures(Path("source"), ("a", "b"))
    assert told in refusal(capsys, "source", "out", *words)


def labels(path, rows, header="path,label,site,part"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def labelled(root, images=12):
    rows = []
    for i in range(images):
        picture(root / "pics" / f"{i}.png", i)
        part = "test" if i % 3 == 2 else "train"
        rows.append((f"pics/{i}.png", "egg<other" if i % 2 else "A", f"site {i % 4}", part))
    labels(root / "labels.csv", rows)
    return rows


def test_a_table_of_paths_and_labels(capsys):
    labelled(Path("source"))
    assert split("source/labels.csv", "out", "--recipe", "cosine") == 0
    out = capsys.readouterr().out
    assert "source/labels.csv: image table (path, label); 12 images of 2 classes" in out
    assert classes("out") == {"A": 6, "egg_other": 6}
    assert {row["site"] for row in manifest("out")} == {f"site {i}" for i in range(4)}
    assert split("source/labels.csv", "theirs", "--split-column", "part") == 0
    assert len(placed("theirs/train")) == 8 and len(placed("theirs/test")) == 4
    assert split("source/labels.csv", "x", "--label-column", "site", "--recipe", "cosine") == 0
    assert len(classes("x")) == 4


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        (
            [("pics/0.png", "A", "s", "train")],
            "where,label,site,part",
            "is for --path-column; name it with --path-column: where, label",
        ),
        (
            [("pics/0.png", "A", "s", "train")],
            "path,label,class,part",
            "is for --label-column; name it with --label-column: label, class",
        ),
        ([("pics/99.png", "A", "s", "train")], "path,label,site,part", "1 of the images"),
        ([("a.txt", "A", "s", "train")], "path,label,site,part", "names no image with a label"),
        (
            [("pics/0.png", "A", "s", "b"), ("pics/0.png", "C", "s", "b")],
            "path,label,site,part",
            "but another row gives 'A'",
        ),
    ],
)
def test_faulty_tables_are_refused_in_one_line(rows, header, words, capsys):
    labelled(Path("source"))
    labels(Path("source/labels.csv"), rows, header)
    assert words in refusal(capsys, "source/labels.csv", "out")


def test_columns_that_a_table_lacks_are_named_with_the_nearest(capsys):
    labelled(Path("source"))
    for option in ("--path-column", "--label-column", "--split-column"):
        error = refusal(capsys, "source/labels.csv", "out", option, "sites")
        assert "has no column 'sites'; nearest: site" in error
    pictures(Path("folders"), ("a", "b"))
    error = refusal(capsys, "folders", "out", "--label-column", "site")
    assert "--label-column is for an image table, but folders has class folders" in error


def test_classes_are_merged_renamed_and_dropped_by_a_table(capsys):
    pictures(Path("source"), ("a", "b", "c", "d"))
    shutil.copy("source/a/a_0.png", "source/b/a_0.png")  # the same name in both merged classes
    Path("map.csv").write_text("from,to\na,ab\nb,ab\nc,\n")
    assert split("source", "out", "--classes", "map.csv") == 0
    assert classes("out") == {"ab": 13, "d": 6}
    assert "left out: images of 'c', which map.csv drops: 6" in capsys.readouterr().out
    before = {(row["class"], row["class_before"]) for row in manifest("out")}
    assert before == {("ab", "a"), ("ab", "b"), ("d", "d")}
    description = read_json(Path("out/dataset.json"))
    assert description["classes"] == {"a": "ab", "b": "ab", "c": ""}
    assert description["left_out"] == {"images of 'c', which map.csv drops": 6}
    for text, words in (
        ("from,to\naa,x\n", "has no class 'aa'"),
        ("from,to\na,x\na,y\n", "the class 'a' is named twice"),
        ("from,into\na,x\n", "has no column 'to'"),
    ):
        Path("map.csv").write_text(text)
        assert words in refusal(capsys, "source", "new", "--classes", "map.csv")


@pytest.mark.parametrize("other", ["Acartia", "acartia ", "cafe\u0301"])
def test_classes_that_differ_only_in_case_spaces_or_unicode_form_are_refused(other, capsys):
    pictures(Path("source"), ("acartia", "caf\u00e9", other))
    assert "would share the folder" in refusal(capsys, "source", "out")


def test_a_table_beside_the_images_folders_keeps_them_inside_the_split(monkeypatch):
    rows = []
    for cruise in ("cruise1", "cruise2"):
        for i in range(4):
            picture(Path("in", cruise, f"{i}.png"), i)
            rows.append((f"../{cruise}/{i}.png", "ab"[i % 2], "", ""))
    labels(Path("in/lists/t.csv"), rows)
    before = set(Path("in").rglob("*"))
    monkeypatch.chdir("in/lists")
    assert split("t.csv", "../../data/out", "--recipe", "cosine") == 0
    monkeypatch.chdir("../..")
    assert set(Path("in").rglob("*")) == before
    assert classes("data/out") == {"a": 4, "b": 4}
    assert {p.name for p in Path("data").iterdir()} == {"out"}


@pytest.mark.parametrize("shift", range(3))
def test_a_long_table_with_a_letter_at_the_border_of_what_is_read_is_recognised(shift):
    rows = [(*row[:5], "é" * 5_000, row[6]) for row in export(Path("source"))]
    columns = ("img_file_name", *COLUMNS[1:-1], "object_" + "x" * shift)
    table(Path("source/ecotaxa_a.tsv"), rows, columns, encoding="utf-8-sig")
    assert split("source", "out") == 0
    assert classes("out") == {"Copepoda X": 8, "egg_other": 8}


def test_an_open_quote_does_not_swallow_the_rest_of_a_table(capsys):
    export(Path("source"))
    file = Path("source/ecotaxa_a.tsv")
    lines = file.read_text().splitlines()
    lines[5] = lines[5].replace('"0,5"', '"5 mm net')
    file.write_text("\n".join(lines))
    assert "is not a valid table" in refusal(capsys, "source", "out")


@pytest.mark.parametrize("odd", ["train", "2014"])
def test_a_split_or_a_year_beside_other_folders_does_not_become_a_class(odd, capsys):
    pictures(Path("source", odd), ("a", "b"))
    for i in range(6):
        picture(Path(f"source/test/{i}.png"), i)  # Kaggle's test images have no labels
    error = refusal(capsys, "source", "out")
    assert (
        f"the folder '{odd}' of source contains folders" in error and f"give source/{odd}" in error
    )
    assert split(f"source/{odd}", "out") == 0 and classes("out") == {"a": 6, "b": 6}


def test_a_folder_around_the_class_folders_is_refused_with_the_one_to_give(capsys):
    pictures(Path("source/labeled"), ("a", "b"))
    assert "give source/labeled if those are the classes" in refusal(capsys, "source", "out")


def test_merging_loses_no_image_whatever_the_names():
    pictures(Path("source"), ("a", "b", "c"))
    for path in ("a/1.png", "a/b/1.png", "b/1.png", "b/b/1.png"):
        picture(Path("source", path))
    Path("map.csv").write_text("from,to\nb,a\n")
    assert split("source", "out", "--classes", "map.csv") == 0
    assert classes("out") == {"a": 16, "c": 6}


def test_the_table_of_an_export_is_refused_with_what_to_give(capsys):
    export(Path("source"))
    assert "give its folder" in refusal(capsys, "source/ecotaxa_a.tsv", "out")


def test_rows_without_an_image_are_counted_and_without_an_object_refused(capsys):
    rows = export(Path("source"))
    table(Path("source/ecotaxa_a.tsv"), [*rows, ("clip.mp4", *rows[0][1:])])
    assert split("source", "out") == 0
    assert "left out: rows that do not name an image: 1" in capsys.readouterr().out
    table(Path("source/ecotaxa_a.tsv"), [(*row[:2], "", *row[3:]) for row in rows])
    assert "has no object_id" in refusal(capsys, "source", "new")


def test_options_that_a_published_split_has_fixed_are_refused(capsys):
    learning_set(Path("in"))
    for words in (("--seed", 7), ("--recipe", "cosine"), ("--group-by", "x")):
        error = refusal(capsys, "in", "out", "--published-split", *words)
        assert f"{words[0]} cannot be used where the split is taken over" in error


def test_pooled_classes_that_differ_only_in_case_are_refused(capsys):
    pictures(Path("whoi/2014"), ("Acartia", "b"))
    pictures(Path("whoi/2015"), ("acartia", "b"))
    assert "would share the folder" in refusal(capsys, "whoi", "out")


def test_what_is_left_out_of_an_archive_is_counted(capsys):
    pictures(Path("source"), ("a", "b"))
    for name in ("a/scan.raw", "b/scan.raw", "a/notes.txt", "__MACOSX/a/1.png", "a/.DS_Store"):
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        Path("source", name).write_bytes(b"x")
    for kind, name in (("zip", "set.zip"), ("gztar", "set.tar.gz")):
        archive = shutil.make_archive("set", kind, "source")
        assert split(archive, f"out {kind}") == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line for line in lines if "left out" in line} == {
            "left out of the archive: files with the suffix .raw: 2",
            "left out of the archive: files with the suffix .txt: 1",
            "left out of the archive: hidden or system files: 2",
        }, name


class TestClassFoldersAsTheyAre:
    def test_images_without_a_suffix_are_taken_and_get_one(self, capsys):
        pictures(Path("classes"), ("a", "b"))
        picture(Path("classes/a/IMG_0001"), 77)
        Path("classes/a/README").write_text("no image")
        with tarfile.open("classes.tar", "w") as archive:
            archive.add("classes")
        for source, destination in (("classes", "out"), ("classes.tar", "unpacked")):
            assert main(["split", source, destination]) == 0
            assert "left out: files without a suffix: 1" in capsys.readouterr().out
            splits = open_dataset(destination).splits.values()
            files = {file.split("/", 1)[1] for split in splits for file in split.files}
            assert "a/IMG_0001.png" in files and len(files) == 13

    def test_links_to_images_that_are_there_are_counted_once(self, capsys):
        pictures(Path("classes"), ("a", "b"))
        Path("classes/b/again.png").symlink_to(Path("classes/b/b_0.png").absolute())
        Path("classes/a/0_first.png").symlink_to("a_5.png")
        picture(Path("elsewhere.png"), 99)
        for name in ("outside", "outside_again"):
            Path(f"classes/a/{name}.png").symlink_to(Path("elsewhere.png").absolute())
        assert main(["split", "classes", "out"]) == 0
        assert "left out: links to files that are counted already: 3" in capsys.readouterr().out
        assert [row["file"] for row in manifest("out")].count("outside.png") == 1
        assert len([row["file"] for row in manifest("out")]) == 13


class TestGroupAsTest:
    """A year, a cruise or a sample as the test split, as for WHOI-Plankton."""

    @pytest.fixture(autouse=True)
    def years(self):
        for year in (2012, 2013, 2014):
            for name in ("Dinobryon sp", "mix"):
                for i in range(6):
                    picture(Path(f"whoi/{year}/{name}/{year}_{i}.png"), year + i)
        pictures(Path("whoi/2014"), ["rare"])

    def split(self, *options):
        return main(["split", "whoi", "data/whoi", "--group-by-column", "year", *options])

    def test_the_year_is_test_and_the_others_are_train_and_val(self, capsys):
        assert self.split("--test-group", "2014", "--exclude", "rare") == 0
        found = {}
        for row in manifest("data/whoi"):
            found.setdefault(row["split"], set()).add(row["group"])
        assert found["test"] == {"2014"} and len(found["train"] | found["val"]) == 2
        assert not found["train"] & found["val"]
        assert read_json(Path("data/whoi/dataset.json"))["test_group"] == ["2014"]

    def test_a_class_of_one_other_year_is_train_alone(self):
        pictures(Path("whoi/2013"), ["twice"])
        pictures(Path("whoi/2014"), ["twice"])
        assert self.split("--test-group", "2014", "--exclude", "rare") == 0
        counts = open_dataset("data/whoi").counts().loc["twice"]
        assert counts["train"] == 6 and counts["val"] == 0 and counts["test"] == 6

    def test_with_the_recipe_cosine_all_other_years_are_train(self):
        years = ("--test-group", "2013", "2014", "--recipe", "cosine", "--exclude", "rare")
        assert self.split(*years) == 0
        counts = open_dataset("data/whoi", ("train", "test")).counts()
        assert counts["train"].tolist() == [6, 6] and counts["test"].tolist() == [12, 12]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--test-group", "2041"], "makes no such group; nearest: 2014"),
            (["--test-group", "2014"], "train would have no images of 'rare'"),
            (["--test-group", "2012", "2013", "2014"], "holds out all groups"),
            (["--test-group", "2012", "2014", "--exclude", "rare"], "hold out fewer"),
        ],
    )
    def test_what_cannot_be_is_said_in_a_line(self, options, words, capsys):
        assert self.split(*options) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not Path("data").exists()

    def test_it_needs_groups(self, capsys):
        assert main(["split", "whoi/2012", "out", "--test-group", "2012"]) == 2
        assert "--test-group needs --group-by or --group-by-column" in capsys.readouterr().err


def test_lists_of_paths_rebuild_the_split_of_zoolake(capsys):
    root = Path("data/zooplankton_0p5x")
    for name in ("aphanizomenon", "dinobryon"):
        for i in range(4):
            picture(root / name / "training_data" / f"SPC-{name}-{i}.jpeg", i)
    lists = {"train": (0, 1), "val": (2,), "test": (3,)}
    for split, numbers in lists.items():
        lines = [
            f"/local/zooplankton_0p5x/{name}/training_data/SPC-{name}-{i}.jpeg"
            for name in ("aphanizomenon", "dinobryon")
            for i in numbers
        ]
        Path(f"{split}_filenames.txt").write_text("\n".join(lines) + "\n\n")
    manifests = [f"{split}_filenames.txt" for split in lists]
    assert main(["split", str(root), "data/zoolake", "--manifest", *manifests]) == 0
    counts = open_dataset("data/zoolake").counts()
    assert counts.to_numpy().tolist() == [[2, 1, 1], [2, 1, 1]]
    Path("test_filenames.txt").write_text("/local/dinobryon/training_data/SPC-gone.jpeg\n")
    assert main(["split", str(root), "data/two", "--manifest", *manifests]) == 2
    assert "1 of 7 listed images are missing" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["table", "export"])
def test_rows_may_name_images_without_a_suffix(kind, capsys):
    if kind == "table":
        rows = labelled(Path("source"))
        labels(Path("source/labels.csv"), [(row[0][:-4], *row[1:]) for row in rows])
        Path("source/pics/0").write_text("no image")
        source, left_out = "source/labels.csv", "rows that do not name an image: 1"
    else:
        table(Path("source/a.tsv"), [(row[0][:-4], *row[1:]) for row in export(Path("source"))])
        Path("source/ecotaxa_a.tsv").unlink()
        picture(Path("source/unnamed"))
        source, left_out = "source", "images that no row names: 1"
    for path in Path("source").rglob("*.png"):
        path.rename(path.with_suffix("")) if path.name != "0.png" else path.unlink()
    assert split(source, "out", "--recipe", "cosine") == 0
    assert f"left out: {left_out}" in capsys.readouterr().out
    assert sum(classes("out").values()) == (11 if kind == "table" else 16)


class TestTablesAsTheyAre:
    @pytest.fixture
    def rows(self):
        pictures(Path("imgs"), ("Água", "b"))
        return [f"imgs/{n}/{n}_{i}.png;{n}" for n in ("Água", "b") for i in range(6)]

    def test_the_first_line_of_excel_that_names_the_separator_is_no_header(self, rows):
        Path("t.csv").write_text("sep=;\npath;label\n" + "\n".join(rows), encoding="utf-8")
        assert main(["split", "t.csv", "out"]) == 0
        assert len(manifest("out")) == 12

    def test_letters_may_be_composed_otherwise_than_on_disk(self, rows):
        text = unicodedata.normalize("NFD", "path;label\n" + "\n".join(rows))
        Path("t.csv").write_text(text, encoding="utf-8")
        assert main(["split", "t.csv", "out"]) == 0
        assert len(manifest("out")) == 12


def test_a_truncated_zip_is_named_in_one_short_line(capsys):
    pictures(Path("classes"), ("a", "b"))
    with zipfile.ZipFile("whole.zip", "w") as archive:
        for path in Path("classes").rglob("*.png"):
            archive.write(path)
    Path("cut.zip").write_bytes(Path("whole.zip").read_bytes()[:900])
    assert main(["split", "cut.zip", "out"]) == 2
    error = capsys.readouterr().err
    assert "the archive 'cut.zip' cannot be read" in error and "cut short" in error
    assert error.count("\n") == 1 and "method" not in error and not Path("out").exists()
