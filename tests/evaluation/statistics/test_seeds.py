"""Configurations over seeds: groups, intervals that cover, and comparisons."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_ind
from scipy.stats import t as student
from statsmodels.formula.api import ols

from thesis_lib.errors import InputError
from thesis_lib.evaluation import classification_metrics
from thesis_lib.evaluation.statistics.comparison import compare
from thesis_lib.evaluation.statistics.intervals import wilson_interval
from thesis_lib.evaluation.statistics.seeds import (
    ENOUGH,
    by_configuration,
    compare_configurations,
    compare_means,
    interaction,
    interval_of_mean,
    right_by_seed,
    shared_margin,
    welch_p,
)
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.numbers import chapter_numbers
from thesis_lib.reporting.results import results_of_runs
from thesis_lib.reporting.tables.seeds import OverSeeds
from thesis_lib.reporting.verification import verify
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.system.files import read_json, write_csv, write_json


def drawn(accuracy, seed_sd, seeds, images, random):
    """Whether each image is classified correctly with each seed, (images, seeds).

    Image, seed and their interaction decide, as normal variables on the probit scale.
    """
    easy = random.normal(scale=np.sqrt(0.8), size=(images, 1))
    noise = random.normal(scale=np.sqrt(0.2), size=(images, seeds))
    of_seeds = random.normal(scale=seed_sd, size=seeds)
    return easy + noise + of_seeds < norm.ppf(accuracy) * np.sqrt(1 + seed_sd**2)


def mean_interval(right):
    bounds = np.array([wilson_interval(int(column.sum()), len(column)) for column in right.T])
    return interval_of_mean(right.mean(0), bounds, shared_margin(right))


def with_seed(run: RunDirectory, seed: int, flipped: int, **settings) -> RunDirectory:
    """Copy a tested run as one of another seed, with another answer for the first images."""
    copy = RunDirectory(run.config.updated(seed=seed, **settings))
    shutil.copytree(run.path, copy.path)
    write_json(copy.config_file, copy.config.to_dict())
    answer_wrongly(copy, flipped)
    return copy


def answer_wrongly(run: RunDirectory, flipped: int) -> None:
    """Give the first images of a tested run another answer."""
    predictions, test = read_predictions(run), read_json(run.test_file)
    after = dict(zip(test["classes"], test["classes"][1:] + test["classes"][:1], strict=True))
    answers = predictions["predicted"].where(
        predictions.index >= flipped, predictions["true"].map(after)
    )
    write_csv(run.predictions_file, predictions.assign(predicted=answers))
    metrics = classification_metrics(predictions["true"], answers, test["classes"])
    write_json(run.test_file, test | metrics)


@pytest.fixture
def tested(probed):
    final_test(probed)
    return probed


@pytest.mark.parametrize("seed_sd", [0.0, 0.1])
@pytest.mark.parametrize(("seeds", "images"), [(2, 274), (3, 60), (3, 274), (6, 274)])
def test_intervals_over_seeds_and_images_contain_the_true_accuracy(seed_sd, seeds, images):
    random = np.random.default_rng(seeds * images)
    found = []
    for _ in range(300):
        low, high = mean_interval(drawn(0.9, seed_sd, seeds, images, random))
        found.append(low <= 0.9 <= high)
    assert np.mean(found) >= 0.93


def test_an_interval_over_test_images_alone_would_be_too_narrow():
    random, found = np.random.default_rng(0), []
    for _ in range(300):
        right = drawn(0.9, 0.1, 3, 2000, random)
        low, high = wilson_interval(int(right[:, 0].sum()), 2000)
        found.append(low <= 0.9 <= high)
    assert np.mean(found) < 0.8


def test_the_margins_of_seeds_and_images_are_squared_and_added():
    values = np.array([0.90, 0.92, 0.97])
    bounds = np.array([[0.85, 0.94], [0.88, 0.95], [0.93, 0.99]])
    low, high = interval_of_mean(values, bounds, 0.5)
    seeds = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    below, above = 0.5 * (0.05 + 0.04 + 0.04) / 3, 0.5 * (0.04 + 0.03 + 0.02) / 3
    assert low == pytest.approx(values.mean() - np.sqrt(seeds**2 + below**2))
    assert high == pytest.approx(values.mean() + np.sqrt(seeds**2 + above**2))


def test_one_seed_has_its_own_interval():
    right = drawn(0.9, 0.1, 1, 274, np.random.default_rng(1))
    expected = wilson_interval(int(right.sum()), 274)
    assert mean_interval(right) == pytest.approx(expected)
    assert shared_margin(np.repeat(right, 3, axis=1)) == pytest.approx(1)


def test_without_variance_from_the_images_the_test_is_welchs():
    a, b = np.random.default_rng(0).normal(0.9, 0.02, (2, 7))
    b = b[:6]
    parts, counts = (a.var(ddof=1) / 7, b.var(ddof=1) / 6), (7, 6)
    expected = ttest_ind(b, a, equal_var=False)
    assert welch_p(b.mean() - a.mean(), parts, counts, 0.0) == pytest.approx(expected.pvalue)
    z = abs(b.mean() - a.mean()) / np.sqrt(sum(parts) + 1)
    assert welch_p(b.mean() - a.mean(), parts, counts, 1.0) == pytest.approx(
        2 * norm.sf(z), rel=1e-3
    )
    assert welch_p(0.0, (0, 0), (6, 6), 0.0) == 1 and welch_p(0.1, (0, 0), (6, 6), 0.0) == 0


def test_interaction_is_the_residual_of_a_two_way_analysis_of_variance():
    random = np.random.default_rng(7)
    right = (
        random.normal(size=(4000, 1)) + random.normal(scale=0.5, size=(4000, 5)) + [0, 1, 2, 3, 4]
    )
    assert interaction(right) == pytest.approx(0.25, rel=0.05)
    table = pd.DataFrame(right[:30]).stack().reset_index()
    table.columns = ["image", "seed", "value"]
    model = ols("value ~ C(image) + C(seed)", table).fit()
    assert interaction(right[:30]) == pytest.approx(model.mse_resid)


@pytest.mark.parametrize("seed_sd", [0.0, 0.1])
def test_two_configurations_of_the_same_accuracy_are_rarely_told_apart(seed_sd):
    random, shown, covered = np.random.default_rng(3), 0, 0
    for _ in range(300):
        right = drawn(0.9, seed_sd, 12, 274, random)
        pair = compare_means("a", "b", right[:, :6], right[:, 6:])
        shown += pair.p_holm < 0.05
        covered += pair.low <= 0 <= pair.high
    assert shown <= 0.08 * 300 and 0.93 * 300 <= covered < 300


def test_a_clear_difference_between_configurations_is_found():
    random, shown = np.random.default_rng(4), 0
    for _ in range(20):
        easy = random.normal(size=(2000, 1))
        right = easy + random.normal(scale=0.3, size=(2000, 12)) < [1.2] * 6 + [1.6] * 6
        pair = compare_means("a", "b", right[:, :6], right[:, 6:])
        assert pair.low > 0
        shown += pair.verdict == "yes"
    assert shown == 20


def test_fewer_than_six_seeds_give_an_interval_and_no_verdict():
    right = drawn(0.9, 0.1, 11, 274, np.random.default_rng(5))
    pair = compare_means("a", "b", right[:, :6], right[:, 6:])
    assert pair.seeds == (6, 5) and np.isnan(pair.p_holm)
    assert pair.verdict == f"fewer than {ENOUGH} seeds" and pair.low < pair.high
    single = compare_means("a", "b", right[:, :1], right[:, 1:2])
    newcombe = compare("a", "b", right[:, 0], right[:, 1])
    assert (single.low, single.high) == pytest.approx((newcombe.low, newcombe.high))


def test_runs_are_grouped_by_all_settings_but_the_seed(tested):
    with_seed(tested, 7, 2)
    with_seed(tested, 9, 2, method="frozen")
    other = with_seed(tested, 11, 2, weight_decay=0.5)
    groups = {n: [r.config.seed for r in g] for n, g in by_configuration(find_runs("tiny")).items()}
    assert groups == {
        "lenet5-bs8 (seeds 7, 42)": [7, 42],
        "lenet5-bs8-frozen": [9],
        "lenet5-bs8 (seed 11)": [11],
    }
    shutil.rmtree(other.path)
    assert list(by_configuration(find_runs("tiny"))) == ["lenet5-bs8", "lenet5-bs8-frozen"]
    settings = {"seed": 1, "device": "cpu", "workers": 3, "text_width": 85.0}
    with_seed(tested, **{"flipped": 0}, **settings)
    assert len(by_configuration(find_runs("tiny"))["lenet5-bs8"]) == 3  # machine's settings


def test_seeds_stand_in_table_figure_numbers_and_chapter(tested):
    results = results_of_runs(tested.config)
    assert "single seed" in results.over_seeds.sentence
    assert write_table("seeds", results).empty and write_table("seed_pairs", results).empty
    assert draw("seeds", results) is None
    assert not any("over seeds" in words for words in chapter_numbers(results))

    with_seed(tested, 7, 2)
    with_seed(tested, 9, 3, method="frozen")
    results = results_of_runs(tested.config)
    table = write_table("seeds", results)
    assert table["configuration"].tolist() == ["lenet5-bs8", "lenet5-bs8-frozen"]
    assert table["seeds"].tolist() == [2, 1]
    values = [
        read_json(run.test_file)["accuracy"] for run in by_configuration(results.runs)["lenet5-bs8"]
    ]
    sd = np.std(values, ddof=1)
    assert table["accuracy"][0].startswith(f"{100 * np.mean(values):.2f} ± {100 * sd:.2f} (")
    assert "±" not in table["accuracy"][1]
    assert write_table("seed_pairs", results)["shown"].tolist() == ["fewer than 6 seeds"]
    assert draw("seeds", results) is not None
    numbers = chapter_numbers(results)
    assert numbers["lenet5-bs8 seeds"] == "2"
    assert numbers["lenet5-bs8 over seeds test accuracy"] == f"{100 * np.mean(values):.2f}"
    assert not any(words.startswith("lenet5-bs8-frozen over seeds") for words in numbers)
    assert "single seed: lenet5-bs8-frozen" in results.over_seeds.sentence
    caption = read_json(results.folder / "seeds.json")["caption"]
    assert "With a single seed" in caption
    assert not [fault for fault in verify(results.folder).differ if "seed" in fault.split(":")[0]]
    csv = results.folder / "seeds.csv"
    csv.write_text(csv.read_text().replace("lenet5-bs8,2", "lenet5-bs8,3"))
    assert any("seeds.csv" in fault for fault in verify(results.folder).differ)


def test_runs_on_different_test_images_are_refused(tested):
    other = with_seed(tested, 7, 0)
    predictions = read_predictions(other)
    predictions.loc[0, "path"] = "test/zero/elsewhere.png"
    write_csv(other.predictions_file, predictions)
    results = OverSeeds(find_runs("tiny"))
    with pytest.raises(InputError, match=r"tested on different images.*test both on the same"):
        results.summaries  # noqa: B018
    with pytest.raises(InputError, match="tested on different images"):
        results.pairs  # noqa: B018
    frozen = with_seed(tested, 9, 0, method="frozen")
    right = {run.path.name: right_by_seed([run]) for run in (other, frozen)}
    with pytest.raises(InputError, match="tested on different images"):
        compare_configurations(right)
