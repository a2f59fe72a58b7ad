"""Metrics over classes with many, some and few training images."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from thesis_lib.evaluation import classification_metrics
from thesis_lib.evaluation.statistics import metrics_by_stratum
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.results import results_of_run, results_of_runs
from thesis_lib.reporting.tables.strata import strata_table

TRAIN = {"a": 900, "b": 101, "c": 100, "d": 20, "e": 19, "f": 3, "g": 0}


def answers():
    """True and predicted classes of 400 images, a quarter of them wrong."""
    random = np.random.default_rng(0)
    true = random.choice(list("abcdef"), 400, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    return true, np.where(random.random(400) < 0.25, random.choice(list("abcdefg"), 400), true)


def test_metrics_of_each_stratum_are_those_of_scikit_learn_over_its_classes():
    true, predicted = answers()
    table = metrics_by_stratum(true, predicted, TRAIN).set_index("group")
    assert table["classes"].tolist() == [2, 2, 3]
    assert list(table.index) == ["many (> 100)", "some (20 to 100)", "few (< 20)"]
    for row, classes in zip(table.itertuples(), ("ab", "cd", "efg"), strict=True):
        expected = precision_recall_fscore_support(
            true, predicted, labels=list(classes), average="macro", zero_division=0
        )
        assert (row.precision, row.recall, row.f1) == pytest.approx(expected[:3])
        of_them = np.isin(true, list(classes))
        assert row.images == of_them.sum()
        assert row.accuracy == (true == predicted)[of_them].mean()
        for name in ("accuracy", "precision", "recall", "f1"):
            low, value, high = (getattr(row, name + end) for end in ("_low", "", "_high"))
            assert 0 <= low <= value <= high <= 1 and low < high


def test_a_single_stratum_has_the_metrics_of_all_classes():
    true, predicted = answers()
    (row,) = metrics_by_stratum(true, predicted, dict.fromkeys("abcdefg", 50)).to_dict("records")
    whole = classification_metrics(true, predicted, list("abcdefg"))
    for name in ("accuracy", "precision", "recall", "f1"):
        assert row[name] == pytest.approx(whole[name])
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(whole[f"{name}_interval"])


def test_a_stratum_without_test_images_is_left_out():
    table = metrics_by_stratum(["a", "b"], ["a", "a"], {"a": 500, "b": 30, "rare": 4})
    assert table["group"].tolist() == ["many (> 100)", "some (20 to 100)"]


def test_strata_stand_beside_each_other_for_each_run(probed):
    final_test(probed)
    results = results_of_run(probed, "test")
    assert write_table("strata", results).empty  # all classes have less than 20 training images
    assert list(write_table("strata", results)) == []
    names = list(results.dataset.counts().index)
    images = dict(zip(names, (300, 30, 3), strict=True))
    table = strata_table([probed], images)
    assert table["training images"].tolist() == ["many (> 100)", "some (20 to 100)", "few (< 20)"]
    assert "run" not in table and table["test images"].sum() == len(results.predictions)
    both = strata_table([probed, probed], images)
    assert both["run"].tolist() == [probed.path.name] * 6
    assert both["training images"].tolist()[:2] == ["many (> 100)"] * 2
    assert write_table("strata", results_of_runs(probed.config)).empty
