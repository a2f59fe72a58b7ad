"""Intervals are compared with formulas and naive loops, and cover the truth as they claim."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from thesis_lib.evaluation.statistics.intervals import (
    class_f1_intervals,
    draw_test_sets,
    macro_intervals,
    macro_metrics,
    smoothed_rows,
    wilson_interval,
)
from thesis_lib.evaluation.statistics.metrics import (
    METRICS,
    classification_metrics,
    large_class_metrics,
    metrics_of_counts,
)

COUNTS = np.array([[50, 3, 1, 0], [2, 20, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])


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


def test_the_intervals_are_in_the_result():
    true = np.repeat(np.arange(4), COUNTS.sum(1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in COUNTS])
    found = classification_metrics(true, predicted, range(4))
    assert found["accuracy_interval"] == pytest.approx(list(naive_wilson(72, 79)), abs=1e-9)
    for name, limits in macro_intervals(COUNTS).items():
        assert found[f"{name}_interval"] == list(limits)


def naive_rows(counts: np.ndarray) -> np.ndarray:
    """The docstring of smoothed_rows, class by class and cell by cell."""
    k, images = len(counts), counts.sum(1)
    rows = np.zeros((k, k))
    for c in range(k):
        recalls, weights = [0.5], [1.0]
        for other in range(k):
            if images[other]:
                octaves = math.log2(max(images[c], 1) / images[other])
                recalls.append(counts[other, other] / images[other])
                weights.append(math.exp(-(octaves**2) / 2))
        mean = sum(r * w for r, w in zip(recalls, weights, strict=True)) / sum(weights)
        recall = (counts[c, c] + 4 * mean) / (images[c] + 4)
        pooled = np.zeros(k)
        for other in range(k):
            if other != c:
                wrong = sum(counts[row, other] for row in range(k) if row not in (c, other))
                pooled[other] = wrong + 2 * k * math.sqrt(images[other]) / np.sqrt(images).sum()
        pooled /= pooled.sum()
        errors = [counts[c, other] if other != c else 0 for other in range(k)]
        once = errors.count(1) / sum(errors) if sum(errors) else 0
        moved = sum(errors) * once + 4 * (1 - mean)
        weights = np.array(
            [e * (1 - once) + moved * p for e, p in zip(errors, pooled, strict=True)]
        )
        rows[c] = (1 - recall) * weights / weights.sum()
        rows[c, c] = recall
    return rows


def test_the_smoothed_matrix_is_that_of_a_naive_loop():
    rows = smoothed_rows(COUNTS)
    assert rows == pytest.approx(naive_rows(COUNTS), abs=1e-12)
    assert rows.sum(1) == pytest.approx(1) and (rows[:3, :3] > 0).all()


def test_macro_metrics_are_scikit_learns():
    true = np.repeat(np.arange(4), COUNTS.sum(1))
    answers = np.concatenate([np.repeat(np.arange(4), row) for row in COUNTS])
    found = macro_metrics(np.diagonal(COUNTS), COUNTS.sum(1), COUNTS.sum(0))
    for value, score in zip(found, (precision_score, recall_score, f1_score), strict=True):
        expected = score(true, answers, labels=range(4), average="macro", zero_division=0)
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("factor", [1, 30])  # few errors of each class, and more than classes
def test_drawn_test_sets_are_distributed_as_multinomials(factor):
    images, rows, draws = factor * COUNTS.sum(1), smoothed_rows(COUNTS), 20_000
    found = draw_test_sets(images, rows, draws, np.random.default_rng(3))
    random = np.random.default_rng(4)
    cells = np.stack(
        [random.multinomial(n, row, draws) for n, row in zip(images, rows, strict=True)]
    )
    naive = np.diagonal(cells, axis1=0, axis2=2), cells.sum(0)
    for ours, expected in zip(found, naive, strict=True):
        error = expected.std(0) * np.sqrt(2 / draws)
        assert (np.abs(ours.mean(0) - expected.mean(0)) <= 4 * error).all()
        assert ours.std(0) == pytest.approx(expected.std(0), rel=0.03)
    hits, predicted = found
    assert np.corrcoef(hits[:, 0], predicted[:, 1])[0, 1] == pytest.approx(
        np.corrcoef(naive[0][:, 0], naive[1][:, 1])[0, 1], abs=0.03
    )
    assert (predicted.sum(1) == images.sum()).all()


def test_intervals_are_reproducible_and_narrow_with_more_images():
    assert macro_intervals(COUNTS) == macro_intervals(COUNTS)
    assert macro_intervals(COUNTS) != macro_intervals(COUNTS, seed=1)
    wide = macro_intervals(COUNTS)
    for name, (low, high) in macro_intervals(COUNTS * 100).items():
        assert high - low < 0.2 * (wide[name][1] - wide[name][0])


def test_intervals_of_extreme_results_lie_within_0_and_1():
    for name, (low, high) in macro_intervals(np.diag([5, 5, 5])).items():
        assert 0.8 < low < 0.95 and high == 1, name
    for low, high in macro_intervals(np.array([[7]])).values():  # there is no other class
        assert (low, high) == (1, 1)
    for low, high in macro_intervals(np.array([[0, 4], [4, 0]])).values():
        assert low == 0 and high < 0.6


def test_classes_with_few_test_images_can_be_left_out_of_the_averages():
    true = np.repeat(np.arange(4), COUNTS.sum(1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in COUNTS])
    found = large_class_metrics(true, predicted, range(4))
    assert found["least"] == 10 and found["classes"] == 2  # of 54, 22, 3 and 0 images
    for name, score in zip(METRICS[1:], (precision_score, recall_score, f1_score), strict=True):
        expected = score(true, predicted, labels=[0, 1], average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected)
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
        assert high - low < np.diff(macro_intervals(COUNTS)[name])
    assert large_class_metrics(true, predicted, range(4), least=0) is None  # every class counts
    assert large_class_metrics(true, predicted, range(4), least=99) is None  # none does


def harder(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class sizes as in plankton sets, and a population in which rare classes are hard."""
    sizes = np.array([2, 2, 3, 4, 6, 9, 15, 30, 60, 120, 250, 500])
    errors = np.minimum(random.beta(2, 1, 12) / (1 + np.sqrt(sizes / sizes.mean())) / 3, 0.9)
    rows = np.diag(1 - errors)
    for index, error in enumerate(errors):
        others = np.delete(np.arange(12), index)
        weights = sizes[others] * random.gamma(0.5, size=11)
        rows[index, others] = error * weights / weights.sum()
    return sizes, rows


def test_intervals_cover_the_truth_where_classes_are_rare():
    """Resampling the test images covers the true precision here in 78 of 100 sets."""
    random, sets = np.random.default_rng(0), 400
    covered = np.zeros(3)
    for _ in range(sets):
        sizes, rows = harder(random)
        shares = sizes / sizes.sum()
        truth = macro_metrics(shares * np.diagonal(rows), shares, shares @ rows)
        counts = np.stack([random.multinomial(n, row) for n, row in zip(sizes, rows, strict=True)])
        low, high = np.array(list(macro_intervals(counts).values())).T
        covered += (low <= truth) & (truth <= high)
    assert (covered / sets >= 0.925).all() and (covered / sets <= 0.985).all(), covered / sets


def test_interval_of_a_classs_f1_is_wilsons_of_the_jaccard_index():
    limits = class_f1_intervals(COUNTS)
    for index, (low, high) in enumerate(limits[:3]):
        hits, true, predicted = COUNTS[index, index], COUNTS[index].sum(), COUNTS[:, index].sum()
        bounds = naive_wilson(hits, true + predicted - hits)
        assert (low, high) == pytest.approx([2 * bound / (1 + bound) for bound in bounds])
        assert low < 2 * hits / (true + predicted) < high
    assert np.isnan(limits[3]).all()  # neither an image nor a prediction


def test_interval_of_a_classs_f1_covers_the_truth_also_in_rare_classes():
    random, sets = np.random.default_rng(0), 400
    covered = np.zeros(12)
    for _ in range(sets):
        sizes, rows = harder(random)
        counts = np.stack([random.multinomial(n, row) for n, row in zip(sizes, rows, strict=True)])
        low, high = class_f1_intervals(counts).T
        shares = sizes / sizes.sum()
        truth = 2 * shares * np.diagonal(rows) / (shares + shares @ rows)
        covered += (low <= truth) & (truth <= high)
    assert 0.93 <= (covered / sets).mean() <= 0.98 and (covered / sets).min() >= 0.88


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
        intervals = macro_intervals(counts, seed=number)
        intervals["accuracy"] = wilson_interval(counts.trace(), 800)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
    for name in METRICS:
        assert 0.925 <= covered[name] / sets <= 0.975, (name, covered[name] / sets)
