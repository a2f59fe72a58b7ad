"""Metrics by size class and by group, counted by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation import final_test, probe_checkpoints
from thesis_lib.evaluation.statistics.subsets import (
    metrics_by_group,
    metrics_by_size,
    spread_of_groups,
)
from thesis_lib.reporting import results_of_run, verify, write_table
from thesis_lib.system.files import read_json
from thesis_lib.training import pretrain


def test_images_are_counted_in_octaves():
    rows = [
        *(("a", 0.25, "x", "x"), ("b", 0.49, "y", "x"), ("c", 0.3, "x", "x")),
        *(("d", 1.0, "x", "y"), ("e", 1.99, "x", "x"), ("f", 2.0, "z", "z"), ("g", None, "x", "y")),
    ]
    predictions = pd.DataFrame(rows, columns=["path", "mm", "true", "predicted"])
    lengths = {path: mm for path, mm, *_ in rows if mm is not None} | {"train/elsewhere": 9.0}
    found = metrics_by_size(predictions, lengths)
    assert found["from_mm"].tolist() == [0.25, 1, 2] and found["to_mm"].tolist() == [0.5, 2, 4]
    assert found["images"].tolist() == [3, 2, 1] and found["classes"].tolist() == [2, 1, 1]
    assert found["accuracy"].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    # In the first class: x is right twice of three predictions, y was not predicted.
    assert found["precision"].tolist() == pytest.approx([(2 / 3 + 0) / 2, 1, 1])
    assert found["recall"].tolist() == pytest.approx([(1 + 0) / 2, 1 / 2, 1])
    assert found["f1"].tolist() == pytest.approx([(4 / 5 + 0) / 2, 2 / 3, 1])
    expected = proportion_confint(2, 3, method="wilson")
    assert found[["accuracy_low", "accuracy_high"]].iloc[0].tolist() == pytest.approx(expected)


def test_without_sizes_there_are_no_rows():
    predictions = pd.DataFrame({"path": ["a"], "true": ["x"], "predicted": ["x"]})
    assert len(metrics_by_size(predictions, {})) == 0


def test_metrics_by_group_by_hand():
    predictions = pd.DataFrame(
        {
            "path": list("abcdef"),
            "true": ["x", "x", "y", "x", "y", "y"],
            "predicted": ["x", "y", "y", "x", "x", "y"],
        }
    )
    groups = {"a": "cruise 2", "b": "cruise 1", "c": "cruise 1", "d": "cruise 1", "e": "cruise 2"}
    table = metrics_by_group(predictions, groups | {"elsewhere": "cruise 3"}).set_index("group")
    assert table["images"].to_dict() == {"cruise 1": 3, "cruise 2": 2}
    assert table["accuracy"].to_dict() == pytest.approx({"cruise 1": 2 / 3, "cruise 2": 1 / 2})
    assert table["recall"]["cruise 1"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics_by_group(predictions, {}).empty


def test_spread_of_groups_is_that_of_chance_if_all_groups_are_alike():
    """Simulated: the ratio to the expected spread is about 1, and larger if groups differ."""
    random = np.random.default_rng(0)
    ratios: dict[float, list[float]] = {0.0: [], 0.1: []}
    for _ in range(200):
        for differ, found in ratios.items():
            images = random.integers(10, 200, 15)
            rate = np.clip(random.normal(0.85, differ, 15), 0, 1)
            accuracy = random.binomial(images, rate) / images
            number, spread, chance = spread_of_groups(
                pd.DataFrame({"images": images, "accuracy": accuracy})
            )
            assert number == 15
            found.append(spread / chance)
    assert np.mean(ratios[0.0]) == pytest.approx(1, abs=0.05)
    assert np.mean(ratios[0.1]) > 1.5
    few = pd.DataFrame({"images": [9, 50], "accuracy": [1, 0.5]})
    assert spread_of_groups(few)[0] == 1 and math.isnan(spread_of_groups(few)[1])


def test_a_grouped_run_shows_its_groups(workbook, tiny_config):
    split_dataset(Path("classes"), Path("data/grouped"), group_by=r"(\d)\.png$")
    run = pretrain(tiny_config.updated(data="data/grouped"))
    probe_checkpoints(run)
    final_test(run)
    results = results_of_run(run, "test")
    table = write_table("by_group", results)
    assert set(table["group"]) == set(results.predictions["path"].map(results.dataset.groups))
    assert table["images"].sum() == len(results.predictions)
    assert "by group of images" in read_json(results.folder / "by_group.json")["caption"]
    assert not [fault for fault in verify(results.folder).differ if "by_group" in fault]
