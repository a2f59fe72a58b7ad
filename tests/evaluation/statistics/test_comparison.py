"""Paired tests are compared with statsmodels, published examples and simulations."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics.comparison import (
    compare,
    compare_all,
    comparison_matrix,
    comparison_table,
    holm,
    mcnemar_p,
    paired_interval,
)

TABLES = [(10, 3, 12, 4), (6500, 120, 141, 386), (5, 0, 0, 2), (0, 7, 0, 0), (3, 1, 1, 0)]


@pytest.mark.parametrize("counts", TABLES)
def test_p_is_statsmodels_exact_mcnemar(counts):
    both, only_a, only_b, neither = counts
    expected = mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert mcnemar_p(only_a, only_b) == pytest.approx(1.0 if np.isnan(expected) else expected)


@pytest.mark.parametrize("seed", range(5))
def test_adjustment_is_statsmodels_holm(seed):
    p = np.random.default_rng(seed).uniform(0, 0.2, 7).tolist()
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([]) == [] and holm([0.03]) == [0.03]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # 95 % intervals by Newcombe's method 10, from table II of his paper
        ((36, 2, 12, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_interval_is_newcombes(counts, low, high):
    assert paired_interval(*counts) == pytest.approx((low, high), abs=6e-5)


def test_interval_turns_with_the_pair():
    low, high = paired_interval(90, 3, 9, 8)
    assert paired_interval(90, 9, 3, 8) == pytest.approx((-high, -low))


def test_interval_covers_the_true_difference_in_95_of_100():
    random, n = np.random.default_rng(0), 400
    p = np.array([0.88, 0.03, 0.05, 0.04])  # both, only a, only b, neither
    drawn = random.multinomial(n, p, size=4000)
    intervals = np.array([paired_interval(*row) for row in drawn])
    covered = ((intervals[:, 0] <= 0.02) & (intervals[:, 1] >= 0.02)).mean()
    assert 0.94 <= covered <= 0.97


def test_test_of_equal_runs_shows_a_difference_in_at_most_5_of_100():
    random = np.random.default_rng(1)
    only = random.multinomial(300, [0.9, 0.04, 0.04, 0.02], size=3000)
    assert np.mean([mcnemar_p(b, c) < 0.05 for _, b, c, _ in only]) <= 0.055


def series(right: str, start: int = 0) -> pd.Series:
    """Convert a string such as ``"1101"`` to a series of correct (1) and wrong (0) images."""
    index = [f"test/a/{number}.png" for number in range(start, start + len(right))]
    return pd.Series([letter == "1" for letter in right], index=index)


def test_images_are_matched_by_their_path():
    a, b = series("1100"), series("1010")
    (pair,) = compare_all({"a": a, "b": b.sample(frac=1, random_state=0)})
    assert (pair.both, pair.only_a, pair.only_b, pair.neither) == (1, 1, 1, 1)
    assert pair.difference == 0


def test_runs_on_different_images_are_refused_by_name():
    with pytest.raises(InputError, match=r"^lenet5 and resnet50 were tested on .*2 are not in"):
        compare_all({"lenet5": series("1100"), "resnet50": series("1100", start=1)})


def test_table_and_matrix_hold_every_pair_both_ways():
    right = {"a": series("1100"), "b": series("1110"), "c": series("0000")}
    pairs = compare_all(right)
    assert comparison_table(pairs)["b - a (points)"].str.split(" ").str[0].tolist() == [
        *("+25.00", "-50.00", "-75.00"),
    ]
    matrix = comparison_matrix(pairs).set_index("run")
    assert matrix.loc["a", "b"].startswith("-25.00") and matrix.loc["b", "a"].startswith("+25.00")
    assert matrix.loc["a", "a"] == "" and matrix.shape == (3, 3)
    assert comparison_table([]).empty


def test_equal_accuracies_have_no_minus():
    matrix = comparison_matrix(compare_all({"a": series("1100"), "b": series("1100")}))
    assert [matrix.set_index("run").loc[pair] for pair in (("a", "b"), ("b", "a"))] == [
        *("+0.00 (p 1)", "+0.00 (p 1)"),
    ]


def test_sentences_say_what_is_shown_and_no_more():
    n = 7147
    same = compare("a", "b", np.arange(n) < 6797, np.arange(n) < 6811)
    assert same.is_shown and same.sentence.startswith("b better than a by 0.20 points (95 % ")
    worse = compare("a", "b", np.arange(n) < 6811, np.arange(n) < 6797)
    assert worse.sentence == same.sentence.replace("b better than a", "a better than b")
    random = np.random.default_rng(0)
    one, other = (random.random(n) < share for share in (0.951, 0.953))
    unclear = compare("resnet50", "seresnext50", one, other)
    assert not unclear.is_shown
    assert "resnet50 and seresnext50: no difference shown; " in unclear.sentence
    equal = compare("a", "b", one, one)
    assert equal.sentence.startswith(
        "a and b: no difference shown; both have the same accuracy (95 %"
    )
    assert equal.sentence.endswith("p = 1.000")


def test_many_pairs_make_a_difference_harder_to_show():
    random = np.random.default_rng(3)
    right = {f"run{i}": pd.Series(random.random(1000) < 0.9) for i in range(6)}
    base = random.random(1000) < 0.9
    right["x"], right["y"] = pd.Series(base), pd.Series(base | (np.arange(1000) % 90 == 0))
    pairs = {(pair.a, pair.b): pair for pair in compare_all(right)}
    assert len(pairs) == 28
    assert all(pair.p_holm >= pair.p for pair in pairs.values())
