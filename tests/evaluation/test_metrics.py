"""Metrics are compared with scikit-learn, intervals with formulas and a naive bootstrap."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from thesis_lib.evaluation.metrics import (
    METRICS,
    bootstrap_intervals,
    classification_metrics,
    confusion_counts,
    metrics_of_counts,
    most_confused,
    per_class_table,
    wilson_interval,
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


def naive_wilson(correct: int, n: int) -> tuple[float, float]:
    """As in statsmodels.stats.proportion.proportion_confint(method="wilson")."""
    z = 1.959963984540054
    share = correct / n
    denominator = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / denominator
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / denominator
    return centre - half, centre + half


@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (5, 10), (6797, 7147), (0, 50), (50, 50)]
)
def test_interval_of_accuracy_is_wilsons(correct, n):
    low, high = naive_wilson(correct, n)
    assert wilson_interval(correct, n) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-9)


def test_interval_of_accuracy_is_in_the_result():
    true, predicted = answers()
    correct = sum(t == p for t, p in zip(true, predicted, strict=True))
    found = classification_metrics(true, predicted, CLASSES)
    assert found["accuracy_interval"] == pytest.approx(list(naive_wilson(correct, 200)), abs=1e-9)


def naive_macro(true: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, ...]:
    precision, recall, f1 = [], [], []
    for c in range(classes):
        hits = np.sum((true == c) & (predicted == c))
        found, there = np.sum(predicted == c), np.sum(true == c)
        precision.append(hits / found if found else 0)
        recall.append(hits / there if there else 0)
        f1.append(2 * hits / (found + there) if found + there else 0)
    return float(np.mean(precision)), float(np.mean(recall)), float(np.mean(f1))


def test_bootstrap_is_that_of_drawing_images_one_by_one():
    random = np.random.default_rng(1)
    true = random.choice(4, 120, p=[0.5, 0.3, 0.15, 0.05])
    predicted = np.where(random.random(120) < 0.75, true, random.choice(4, 120))
    drawn = []
    for _ in range(3000):
        chosen = random.integers(0, 120, 120)
        drawn.append(naive_macro(true[chosen], predicted[chosen], 5))
    expected = np.quantile(drawn, (0.025, 0.975), axis=0).T
    found = bootstrap_intervals(confusion_counts(true, predicted, range(5)))
    assert list(found) == ["precision", "recall", "f1"]
    assert np.abs(np.array(list(found.values())) - expected).max() < 0.01


def test_bootstrap_is_reproducible_and_narrows_with_more_images():
    few = confusion_counts(*answers(), CLASSES)
    assert bootstrap_intervals(few) == bootstrap_intervals(few)
    assert bootstrap_intervals(few) != bootstrap_intervals(few, seed=1)
    for name, (low, high) in bootstrap_intervals(few * 100, resamples=1500).items():
        wide = bootstrap_intervals(few, resamples=1500)[name]
        assert high - low < 0.2 * (wide[1] - wide[0])


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


def test_intervals_cover_the_truth_in_about_95_of_100():
    """A simulated classifier with known true metrics is tested on many test sets."""
    random = np.random.default_rng(0)
    shares = np.array([0.4, 0.25, 0.15, 0.12, 0.08])
    rows = 0.82 * np.eye(5) + 0.18 * random.dirichlet(np.ones(5), size=5)
    cells = shares[:, None] * rows  # probability of each pair of true and predicted class
    truth = {name: float(value) for name, value in metrics_of_counts(cells).items()}
    covered, sets = dict.fromkeys(METRICS, 0), 600
    for number in range(sets):
        counts = random.multinomial(800, cells.ravel()).reshape(5, 5)
        intervals = bootstrap_intervals(counts, resamples=500, seed=number)
        intervals["accuracy"] = wilson_interval(counts.trace(), 800)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
    for name in METRICS:
        assert 0.925 <= covered[name] / sets <= 0.975, (name, covered[name] / sets)
