import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from thesis_lib.cli import result_commands as commands
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.models import create_backbone, linear_head
from thesis_lib.prediction.ecotaxa import columns, import_hints, object_ids, write_ecotaxa
from thesis_lib.prediction.finished_model import FinishedModel
from thesis_lib.prediction.predictions import UNCLASSIFIED, UNKNOWN, Prediction

CLASSES = ["001_zero with blank", "002_one.dot", "003_δύο"]
PREDEFINED = {
    "img_file_name": "[t]",
    "img_rank": "[f]",
    "object_id": "[t]",
    "object_annotation_category": "[t]",
    "object_annotation_status": "[t]",
}


def refusals(table):
    """List why EcoTaxa would refuse a table, by its documented rules and its database's limits.

    https://github.com/ecotaxa/ecotaxa_back: py/BO/TSVFile.py, BO/Bundle.py, BO/Mappings.py,
    BO/Image.py, DB/Object.py and DB/Image.py.
    """
    found = []
    name = table.name
    if not (name.startswith("ecotaxa") and name.endswith((".tsv", ".txt"))):
        found.append("name")
    if table.read_bytes()[:3] != b"\xef\xbb\xbf":
        found.append("no BOM: read as latin-1")
    with open(table, encoding="utf-8-sig", newline="") as file:
        header, types, *rows = csv.reader(file, delimiter="\t", quotechar='"')
    if any(cell != cell.strip(" \t").lower() or "_" not in cell for cell in header):
        found.append("header")
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in (types, *rows)):
        return [*found, "columns"]
    if set(types) > {"[t]", "[f]"}:
        found.append("types")
    if not {"img_file_name", "object_id"} <= set(header):
        return [*found, "mandatory"]
    free = Counter(kind for cell, kind in zip(header, types, strict=True) if cell not in PREDEFINED)
    if free["[f]"] > 500 or free["[t]"] > 20:
        found.append("too many free columns")
    if any("=" in cell or cell.split("_")[0] not in ("img", "object") for cell in header):
        found.append("prefix")
    for row in rows:
        cells = {key: value.strip() for key, value in zip(header, row, strict=True)}
        for (key, value), kind in zip(cells.items(), types, strict=True):
            if kind == "[f]" and value:
                float(value)
            if kind == "[t]" and key not in PREDEFINED and len(value) > 250:
                found.append(f"{key} too long")
        if not 1 <= len(cells["object_id"]) <= 255:
            found.append("object_id")
        if len(cells["img_file_name"]) > 255:
            found.append("img_file_name too long")
        image = table.parent / cells["img_file_name"]
        if not image.is_file():
            found.append(f"missing image {cells['img_file_name']}")
        elif Image.open(image).format not in ("PNG", "JPEG", "GIF"):
            found.append("image format")
        status, category = (cells[f"object_annotation_{x}"] for x in ("status", "category"))
        is_annotated = status in ("predicted", "dubious", "validated") and category
        if not is_annotated and (status or category):  # both empty: an object without category
            found.append("status or category")
    ids = [row[header.index("object_id")] for row in rows]
    if len(set(ids)) < len(ids):  # they would become one object with several images
        found.append("object_id twice")
    return found


def draw(path, size=(9, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def prediction(path, **changes):
    fields = {
        "classes": ("003_δύο", "001_zero with blank", "002_one.dot"),
        "confidences": (0.7, 0.2, 0.1),
        "nearest_image": "train/003_δύο/001.png",
        "nearest_class": "003_δύο",
        "similarity": 0.98765,
        "label": "003_δύο",
    }
    return Prediction(path, **(fields | changes))


def written(output, found):
    found = list(found)
    images = [one.path for one in found]
    return write_ecotaxa(found, Path(output), images, len(CLASSES), {})


def read(table):
    """Read the rows below the row of types, with every cell as text."""
    return pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")[1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/1.png",
        "b/1.png",
        "b/2.jpg",
        "b/3.png",
        "a/δείγμα.png",
        'a/he "said".png',
        "3.gif",
    ):
        draw(tmp_path / name)
    return tmp_path


IMAGES = ["a/1.png", "b/1.png", "b/2.jpg", "a/δείγμα.png", 'a/he "said".png', "3.gif"]


def test_table_follows_the_rules_and_holds_the_predictions(folder):
    found = [prediction(image) for image in IMAGES]
    assert written("ecotaxa_new.tsv", found) == 0
    assert refusals(folder / "ecotaxa_new.tsv") == []
    table = read("ecotaxa_new.tsv")
    assert table["img_file_name"].tolist() == IMAGES
    assert table["object_id"].tolist() == [
        *("a/1.png", "b/1.png", "2", "δείγμα", 'he "said"', "3"),
    ]
    assert set(table["object_annotation_category"]) == {"003_δύο"}
    assert set(table["object_annotation_status"]) == {"predicted"}
    assert set(table["object_predicted_2"]) == {"001_zero with blank"}
    assert table["object_confidence"].astype(float).tolist() == [0.7] * 6
    assert table["object_confidence_3"].astype(float).tolist() == [0.1] * 6
    assert set(table["object_nearest_image"]) == {"train/003_δύο/001.png"}
    assert table["object_similarity"].astype(float).tolist() == [0.98765] * 6
    assert set(table["object_rejected"]) == {"0"} and set(table["img_rank"]) == {"1"}
    assert not (folder / "ecotaxa_new.tsv.unreadable.csv").exists()


@pytest.mark.parametrize("classes", [2, 5, 87])
def test_columns_stay_within_the_limits_for_any_number_of_classes(classes):
    kinds = Counter(kind for name, kind in columns(classes).items() if name not in PREDEFINED)
    assert kinds["[t]"] <= 6 and kinds["[f]"] <= 7
    assert {name: columns(classes)[name] for name in PREDEFINED} == PREDEFINED


def test_awkward_values_stay_in_their_cells(folder):
    found = [
        prediction("a/1.png", classes=("a\tb\nc", '"quoted', "x" * 300), label="a\tb\nc"),
        prediction("b/2.jpg", nearest_image="train/" + "long/" * 100 + "end.png"),
        prediction("3.gif", nearest_image="", nearest_class="", similarity=None),
        prediction("b/1.png", label="", rejected=UNKNOWN),
        prediction("b/3.png", label="", rejected=UNCLASSIFIED),
    ]
    assert written("ecotaxa_new.tsv", found) == 0
    assert refusals(folder / "ecotaxa_new.tsv") == []
    table = read("ecotaxa_new.tsv")
    assert table["object_annotation_category"].iloc[0] == "a b c"
    assert table["object_predicted_2"].iloc[0] == '"quoted'
    assert table["object_nearest_image"].iloc[1].endswith("long/end.png")
    assert table["object_similarity"].tolist()[2] == ""
    assert table["object_rejected"].tolist() == ["0", "0", "0", "1", "2"]
    # an image without a label is imported without a category, so EcoTaxa counts it as no taxon
    assert table["object_annotation_category"].tolist()[3:] == ["", ""]
    assert table["object_annotation_status"].tolist()[2:] == ["predicted", "", ""]


def test_images_that_cannot_be_imported_are_listed_beside_the_table(folder):
    draw(folder / "scan.tif")
    long = f"{'long' * 50}/{'name' * 20}.png"
    draw(folder / long)
    (folder / "bad.png").touch()
    found = [
        prediction("a/1.png"),
        Prediction("bad.png", "it is empty"),
        prediction("scan.tif"),
        prediction(long),
        prediction("3.gif"),
    ]
    assert written("ecotaxa_new.tsv", found) == 3
    assert refusals(folder / "ecotaxa_new.tsv") == []
    assert read("ecotaxa_new.tsv")["object_id"].tolist() == ["1", "3"]
    beside = folder / "ecotaxa_new.tsv.unreadable.csv"
    listed = pd.read_csv(beside).set_index("path")["problem"]
    assert listed.index.tolist() == ["bad.png", "scan.tif", long]
    assert listed["bad.png"] == "it is empty"
    assert "only accepts images of type .gif, .jpeg, .jpg, .png; convert it" in listed["scan.tif"]
    assert f"{len(long)} characters, but EcoTaxa accepts at most 255" in listed[long]
    written("ecotaxa_new.tsv", [prediction("a/1.png")])
    assert not beside.exists()  # it belonged to the earlier table


def test_table_without_images_is_still_valid(folder):
    assert written("ecotaxa_none.tsv", [Prediction("bad.png", "it is empty")]) == 1
    assert refusals(folder / "ecotaxa_none.tsv") == [] and len(read("ecotaxa_none.tsv")) == 0


def test_paths_lead_from_the_table_to_the_images(folder):
    found = [prediction(str(folder / "a" / "1.png")), prediction("./b/../b/2.jpg")]
    assert written("b/ecotaxa_b.tsv", found) == 0
    assert refusals(folder / "b" / "ecotaxa_b.tsv") == []
    assert read("b/ecotaxa_b.tsv")["img_file_name"].tolist() == ["../a/1.png", "2.jpg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/1.png", "a/2.png"], ["1", "2"]),
        (["a/1.png", "b/1.png", "2.png"], ["a/1.png", "b/1.png", "2"]),
        (["a/1.png", "a/1.jpg"], ["a/1.png", "a/1.jpg"]),
        (["1.png", "a/1.png", "b/1.png.png"], ["./1.png", "a/1.png", "1.png"]),
    ],
)
def test_object_ids_are_stems_or_paths_where_stems_repeat(names, expected):
    assert object_ids(names) == expected


def test_hints_name_what_prevents_the_import(folder):
    assert import_hints(IMAGES, Path("ecotaxa_new.tsv")) == []
    assert import_hints(IMAGES, Path("ecotaxa.txt")) == []
    (name,) = import_hints(IMAGES, Path("new.tsv"))
    assert (
        "only reads tables named ecotaxa*.tsv: rename new.tsv" in name and "ecotaxa_new.tsv" in name
    )
    (place,) = import_hints(IMAGES, Path("b/ecotaxa_new.tsv"))
    assert "4 images are outside the table's folder b/" in place


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (b"\xef\xbb\xbf", b"", "no BOM"),
        (b"object_id", b"object_name", "mandatory"),
        (b"\t[f]", b"", "columns"),
        (b"object_similarity", b"similarity", "header"),
        (b"a/1.png\t1", b"a/0.png\t1", "missing image"),
        (b"\tpredicted", b"\tguessed", "status"),
        ("\t003_δύο\tpredicted".encode(), b"\t\tpredicted", "status"),
        ("δείγμα\t".encode(), b"3\t", "object_id twice"),
        (b"001_zero", b"0" * 300, "too long"),
    ],
)
def test_the_rules_find_a_spoilt_table(folder, old, new, refused):
    written("ecotaxa_new.tsv", [prediction(image) for image in IMAGES])
    table = folder / "ecotaxa_new.tsv"
    content = table.read_bytes()
    assert old in content
    table.write_bytes(content.replace(old, new))
    assert any(refused in one for one in refusals(table)), refusals(table)


def made_up_model(table=True):
    """Build an untrained model with a look-up table of random vectors."""
    generator = torch.Generator().manual_seed(0)
    backbone, head = create_backbone("lenet5"), linear_head(84, 3)
    for weights in (*backbone.parameters(), *head.parameters()):
        weights.data = torch.randn(weights.shape, generator=generator) * 0.1
    vectors = unit_vectors(np.abs(np.random.default_rng(0).normal(size=(6, 84))))
    files = [f"train/{CLASSES[n % 3]}/{n}.png" for n in range(6)]
    labels = np.arange(6) % 3
    stored = StoredTable(
        LookupTable(vectors, labels, files, CLASSES),
        np.array([1.0]),
        np.ones((1, 6), dtype=bool),
        1.0,
        1,
        np.linspace(0, 1, 11),
        5,
        "fingerprint",
    )
    return FinishedModel(
        FrozenBackbone(backbone, (0.1,) * 3, (0.2,) * 3, RunConfig(workers=0, image_size=32)),
        head,
        CLASSES,
        1.5,
        stored if table else None,
        "" if table else "the data are gone",
        {CLASSES[0]: "zero<other"},
        pd.DataFrame(columns=["true", "predicted", "confidence"]),
    )


@pytest.mark.parametrize("table", [True, False])
def test_command_writes_a_table_for_images_of_any_size(folder, capsys, monkeypatch, table):
    for number in range(20):
        draw(folder / "flowcam" / f"vignette_{number:03d}.jpg", (40 + 9 * number, 150))
    (folder / "flowcam" / "bad.jpg").write_text("no picture")
    monkeypatch.setattr(commands, "_finished_model", lambda _: made_up_model(table))
    command = ["predict", "run", "flowcam", "--output", "flowcam/ecotaxa_new.tsv"]
    assert main([*command, "--format", "ecotaxa"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "flowcam/ecotaxa_new.tsv: 21 images; 1 cannot be imported, listed in "
        "flowcam/ecotaxa_new.tsv.unreadable.csv"
    )
    assert refusals(folder / "flowcam" / "ecotaxa_new.tsv") == []
    rows = read("flowcam/ecotaxa_new.tsv")
    assert len(rows) == 20 and rows["object_id"].iloc[0] == "vignette_000"
    assert (rows["object_nearest_image"] != "").all() == table
    # the same predictions as in the other format
    assert main(["predict", "run", "flowcam", "--output", "flowcam.csv"]) == 0
    other = pd.read_csv("flowcam.csv", dtype=str, keep_default_na=False)
    other = other[other["problem"] == ""]
    for name in ("confidence", "predicted_2", "confidence_3", "nearest_class", "similarity"):
        named = other[name].replace(CLASSES[0], "zero<other")  # its category in EcoTaxa
        assert rows[f"object_{name}"].tolist() == named.tolist()
    named = other["predicted"].replace(CLASSES[0], "zero<other")
    assert rows["object_annotation_category"].tolist() == named.tolist()
    assert "zero<other" in set(rows["object_annotation_category"])


def test_command_hints_at_another_name(folder, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_finished_model", lambda _: made_up_model())
    command = ["predict", "run", "a", "--output", "b/new.tsv", "--format", "ecotaxa"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "rename new.tsv" in out and "3 images are outside the table's folder b/" in out
