"""Metrics are compared with scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from thesis_lib.evaluation.statistics.metrics import (
    METRICS,
    classification_metrics,
    confusion_counts,
    metrics_of_counts,
    most_confused,
    per_class_table,
    worst_mistakes,
)

CLASSES = ["a", "b c", "d_e", "Ω", "without test images", "never seen"]


def answers(n: int = 200, seed: int = 0, accuracy: float = 0.8) -> tuple[list[str], list[str]]:
    """Draw unbalanced true and predicted classes, one without images and one without both."""
    random = np.random.default_rng(seed)
    true = random.choice(CLASSES[:4], n, p=[0.6, 0.25, 0.1, 0.05])
    predicted = np.where(random.random(n) < accuracy, true, random.choice(CLASSES[:5], n))
    predicted[predicted == "Ω"] = "a"  # a class that is never predicted
    return true.tolist(), predicted.tolist()


def scikit_learns(true, predicted, classes) -> dict[str, float]:
    options = {"labels": classes, "average": "macro", "zero_division": 0}
    return {
        "accuracy": sk.accuracy_score(true, predicted),
        "precision": sk.precision_score(true, predicted, **options),
        "recall": sk.recall_score(true, predicted, **options),
        "f1": sk.f1_score(true, predicted, **options),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[::-1]])
def test_metrics_are_scikit_learns_over_all_classes(seed, classes):
    true, predicted = answers(seed=seed)
    found = classification_metrics(true, predicted, classes)
    for name, value in scikit_learns(true, predicted, classes).items():
        assert found[name] == pytest.approx(value, abs=1e-12)
    assert found["n"] == 200


def test_by_default_the_classes_are_those_that_occur():
    true, predicted = answers()
    found = classification_metrics(true, predicted)
    occurring = sorted({*true, *predicted})
    assert occurring != sorted(CLASSES)
    for name, value in scikit_learns(true, predicted, occurring).items():
        assert found[name] == pytest.approx(value, abs=1e-12)


def test_names_and_numbers_give_the_same():
    true, predicted = answers()
    as_numbers = [[CLASSES.index(name) for name in names] for names in (true, predicted)]
    by_name = classification_metrics(true, predicted, CLASSES)
    assert classification_metrics(*as_numbers, range(len(CLASSES))) == by_name
    arrays = [np.array(numbers) for numbers in as_numbers]
    assert classification_metrics(*arrays, np.arange(len(CLASSES))) == by_name
    series = [pd.Series(names) for names in (true, predicted)]
    assert classification_metrics(*series, CLASSES) == by_name


def test_result_can_be_written_as_json_and_holds_an_interval_of_each_metric():
    true, predicted = answers()
    found = json.loads(json.dumps(classification_metrics(true, predicted, CLASSES)))
    assert set(found) == {*METRICS, *(f"{name}_interval" for name in METRICS), "n"}
    for name in METRICS:
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] <= high <= 1


def test_perfect_and_hopeless_answers():
    true = ["a", "b", "b", "c"]
    perfect = classification_metrics(true, true)
    assert all(perfect[name] == 1 for name in METRICS)
    assert perfect["f1_interval"][1] == 1
    hopeless = classification_metrics(true, ["b", "c", "a", "a"])
    assert all(hopeless[name] == 0 for name in METRICS)


def test_confusion_counts_are_scikit_learns_and_a_loops():
    true, predicted = answers()
    counts = confusion_counts(true, predicted, CLASSES)
    assert np.array_equal(counts, sk.confusion_matrix(true, predicted, labels=CLASSES))
    loop = np.zeros((6, 6), int)
    for t, p in zip(true, predicted, strict=True):
        loop[CLASSES.index(t), CLASSES.index(p)] += 1
    assert np.array_equal(counts, loop)


def test_metrics_of_a_stack_of_counts_are_those_of_each():
    stack = np.stack([confusion_counts(*answers(seed=s), CLASSES) for s in range(3)])
    together = metrics_of_counts(stack)
    for i, counts in enumerate(stack):
        for name, value in metrics_of_counts(counts).items():
            assert together[name][i] == value


@pytest.mark.parametrize(
    ("true", "predicted", "classes", "words"),
    [
        (["a"], ["a", "b"], None, "the same length"),
        ([], [], None, "the same length"),
        ([["a"]], [["a"]], None, "the same length"),
        (["a", "x"], ["a", "a"], ["a", "b"], "classes lacks 'x'"),
        (["a", "a"], ["a", "y"], ["a", "b"], "classes lacks 'y'"),
        ([0, 1], [0, 2], [0, 1], "classes lacks 2"),
    ],
)
def test_unsuitable_answers_are_refused(true, predicted, classes, words):
    for judge in (confusion_counts, classification_metrics):
        with pytest.raises(ValueError, match=words):
            judge(true, predicted, classes)


def test_per_class_table_is_scikit_learns_report():
    true, predicted = answers()
    table = per_class_table(true, predicted, CLASSES)
    report = sk.classification_report(
        true, predicted, labels=CLASSES, output_dict=True, zero_division=0
    )
    assert table["class"].tolist() == CLASSES
    for row in table.to_dict("records"):
        expected = report[row["class"]]
        assert row["precision"] == pytest.approx(expected["precision"])
        assert row["recall"] == pytest.approx(expected["recall"])
        assert row["f1"] == pytest.approx(expected["f1-score"])
        assert row["images"] == expected["support"] == true.count(row["class"])
        assert row["predicted_images"] == predicted.count(row["class"])


def test_most_confused_pairs_add_both_ways():
    counts = np.array([[90, 5, 0, 0], [2, 8, 1, 0], [0, 0, 5, 0], [0, 1, 0, 2]])
    table = most_confused(counts, ["a", "b", "c", "d"])
    assert table.to_dict("records") == [
        {
            "class_a": "a",
            "class_b": "b",
            "a_as_b": 5,
            "b_as_a": 2,
            "images": 7,
            "share": pytest.approx(7 / 106),
        },
        # one image each: sorted by the fraction of the classes' images
        {
            "class_a": "b",
            "class_b": "d",
            "a_as_b": 0,
            "b_as_a": 1,
            "images": 1,
            "share": pytest.approx(1 / 14),
        },
        {
            "class_a": "b",
            "class_b": "c",
            "a_as_b": 1,
            "b_as_a": 0,
            "images": 1,
            "share": pytest.approx(1 / 16),
        },
    ]
    assert len(most_confused(counts, ["a", "b", "c", "d"], pairs=2)) == 2


def test_without_a_confusion_there_is_no_pair_but_the_columns():
    table = most_confused(np.diag([3, 4]), ["a", "b"])
    assert len(table) == 0
    assert table.columns.tolist() == ["class_a", "class_b", "a_as_b", "b_as_a", "images", "share"]


def test_worst_mistakes_are_wrong_and_surest_first():
    predictions = pd.DataFrame(
        {
            "path": ["1", "2", "3", "4", "5"],
            "true": ["a", "a", "b", "b", "c"],
            "predicted": ["a", "b", "a", "b", "a"],
            "confidence": [0.99, 0.6, 0.9, 0.95, 0.7],
            "a": 0.1,
        }
    )
    table = worst_mistakes(predictions, num_images=2)
    assert table.to_dict("list") == {
        "path": ["3", "5"],
        "true": ["b", "c"],
        "predicted": ["a", "a"],
        "confidence": [0.9, 0.7],
    }
    assert worst_mistakes(predictions)["path"].tolist() == ["3", "5", "2"]
    assert len(worst_mistakes(predictions.iloc[[0, 3]])) == 0
