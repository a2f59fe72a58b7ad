"""Metrics of merged taxa and distances in the tree, worked by hand."""

import math

import pandas as pd
import pytest

from thesis_lib.data.sources.taxonomy import Taxonomy
from thesis_lib.evaluation import classification_metrics
from thesis_lib.evaluation.statistics import (
    metrics_by_level,
    metrics_of_living,
    mistake_distances,
)
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.results import results_of_run
from thesis_lib.reporting.verification import verify
from thesis_lib.system.files import read_json

TREE = Taxonomy(
    {
        "calanoid": ("living", "copepod", "calanoid"),
        "cyclopoid": ("living", "copepod", "cyclopoid"),
        "podon": ("living", "cladoceran", "podon"),
        "detritus": ("dead", "detritus"),
    },
    "by hand",
    {"calanoid": True, "cyclopoid": True, "podon": True, "detritus": False},
)
TRUE = ["calanoid"] * 4 + ["cyclopoid"] * 2 + ["podon"] * 2 + ["detritus"] * 2
PREDICTED = [
    *("calanoid", "calanoid", "cyclopoid", "podon"),
    *("cyclopoid", "calanoid"),
    *("podon", "detritus"),
    *("detritus", "detritus"),
]


def test_metrics_by_level_by_hand():
    table = metrics_by_level(TRUE, PREDICTED, TREE)
    assert table["level"].tolist() == [1, 2, 3] and table["taxa"].tolist() == [2, 3, 4]
    # right: all but podon -> detritus; also not calanoid -> podon; not the two among copepods
    assert table["accuracy"].tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert table["names"].tolist() == [
        "dead, living",
        "detritus, cladoceran, copepod",
        "detritus, podon, calanoid, ...",
    ]
    last = classification_metrics(TRUE, PREDICTED, sorted(TREE.lineages))
    for metric in ("accuracy", "precision", "recall", "f1"):
        row = table.iloc[-1]
        assert row[metric] == pytest.approx(last[metric])
        assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
    # level 2: copepod recall 5/6 and precision 5/5, cladoceran 1/2 and 1/2, detritus 2/2 and 2/3
    f1 = [2 * 5 / 6 / (1 + 5 / 6), 0.5, 0.8]
    assert table["f1"][1] == pytest.approx(sum(f1) / 3)


def test_levels_without_a_difference_are_left_out():
    chain = Taxonomy({"a": ("x", "y", "z", "a"), "b": ("x", "y", "w", "b")}, "by hand")
    table = metrics_by_level(["a", "b"], ["a", "a"], chain)
    assert table["level"].tolist() == [3]
    assert metrics_by_level(["a"], ["a"], Taxonomy({"a": ("a",)}, "")).empty


def test_living_and_other_classes_by_hand():
    table = metrics_of_living(TRUE, PREDICTED, TREE.living).set_index("group")
    assert table["images"].to_dict() == {"living": 8, "not living": 2}
    assert table["classes"].to_dict() == {"living": 3, "not living": 1}
    assert table["accuracy"].to_dict() == pytest.approx({"living": 4 / 8, "not living": 1})
    assert table["recall"]["living"] == pytest.approx((2 / 4 + 1 / 2 + 1 / 2) / 3)
    assert metrics_of_living(TRUE, PREDICTED, {}).empty
    partly = metrics_of_living(TRUE, PREDICTED, {"detritus": False})
    assert partly["group"].tolist() == ["not living", "unknown whether living"]


def test_distances_of_mistakes_by_hand():
    # calanoid -> cyclopoid 2, calanoid -> podon 4, cyclopoid -> calanoid 2, podon -> detritus 5
    found, chance = mistake_distances(TRUE, PREDICTED, TREE)
    assert found == pytest.approx((2 + 4 + 2 + 5) / 4)
    calanoid = (2 * 2 + 2 * 4 + 2 * 5) / 6  # 2 cyclopoids, 2 podons, 2 detritus
    cyclopoid = (4 * 2 + 2 * 4 + 2 * 5) / 8
    podon = (4 * 4 + 2 * 4 + 2 * 5) / 8
    assert chance == pytest.approx((2 * calanoid + cyclopoid + podon) / 4)
    assert all(math.isnan(value) for value in mistake_distances(TRUE, TRUE, TREE))
    assert math.isnan(mistake_distances(["podon"], ["detritus"], TREE)[1])


def test_a_run_shows_its_taxa(probed):
    final_test(probed)
    results = results_of_run(probed, "test")
    assert write_table("taxa", results).empty and write_table("living", results).empty
    first, *others = results.dataset.classes
    rows = [f'"{first}",not-living>dust', *(f'"{name}",living>Copepoda' for name in others)]
    file = results.dataset.root / "taxonomy.csv"
    file.write_text("class,lineage\n" + "\n".join(rows) + "\n", encoding="utf-8")
    results = results_of_run(probed, "test")
    table, living = write_table("taxa", results), write_table("living", results)
    assert table["taxa"].tolist() == [2, 3]
    assert living["classes are"].tolist() == ["living", "not living"]
    accuracy = read_json(probed.test_file)["accuracy"]
    assert table["accuracy"].iloc[-1].startswith(f"{100 * accuracy:.2f}")
    caption = read_json(results.folder / "taxa.json")["caption"]
    assert "steps apart in the tree" in caption or "There is no mistake" in caption
    assert not [f for f in verify(results.folder).differ if "taxa" in f or "living" in f]
    predictions = pd.read_csv(probed.predictions_file)
    predictions["predicted"] = predictions["true"].to_numpy()[::-1]
    predictions.to_csv(probed.predictions_file, index=False)
    assert [f for f in verify(results.folder).differ if "taxa" in f]
