"""Metrics by size class, counted by hand."""

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from thesis_lib.evaluation.statistics.metrics import metrics_by_size


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
