"""Configurations over several splits: intervals that cover, comparisons, tables and figure."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from tests.evaluation.statistics.test_seeds import answer_wrongly
from thesis_lib.cli.command_line import main
from thesis_lib.data.datasets import open_splits
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics.intervals import wilson_interval
from thesis_lib.evaluation.statistics.seeds import Summary
from thesis_lib.evaluation.statistics.splits import (
    loss_between,
    resampled_interval,
    resampled_p,
    summarize_splits,
)
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.numbers import write_numbers
from thesis_lib.reporting.results import results_of_runs
from thesis_lib.reporting.verification import verify
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json, write_json
from thesis_lib.workbook.grid import grids_of

NAMES = ("splits", "split_pairs", "split_loss")


def test_without_the_correction_it_is_students_t():
    a, b = np.array([0.91, 0.9, 0.93, 0.88]), np.array([0.9, 0.86, 0.92, 0.9])
    oracle = ttest_rel(a, b)
    assert resampled_p(a - b, 0) == pytest.approx(oracle.pvalue)
    low, high = oracle.confidence_interval()
    no_margin = np.repeat((a - b)[:, None], 2, axis=1)
    assert resampled_interval(a - b, no_margin, 0) == pytest.approx((low, high))
    assert resampled_p(np.zeros(6), 0.2) == 1.0


def test_correction_is_that_of_nadeau_and_bengio():
    values = [0.8, 0.9, 0.85]
    variance = np.var(values, ddof=1) * (1 / 3 + 15 / 70)
    margin = student.ppf(0.975, 2) * np.sqrt(variance)
    found = summarize_splits(values, np.array([[v - 0.01, v + 0.01] for v in values]), 15 / 70)
    assert (found.mean, found.sd) == (pytest.approx(0.85), pytest.approx(0.05))
    assert (found.low, found.high) == (pytest.approx(0.85 - margin), min(0.85 + margin, 1))


def test_splits_that_agree_by_chance_do_not_make_it_certain():
    bounds = np.array([[0.82, 0.95], [0.84, 0.93]])
    found = summarize_splits([0.9, 0.9], bounds, 15 / 70)
    assert found.low == pytest.approx(0.9 - 0.07 / np.sqrt(2))
    assert found.high == pytest.approx(0.9 + 0.04 / np.sqrt(2))


def test_loss_combines_both_margins():
    before, after = Summary((0.9,), 0.0, 0.87, 0.92), Summary((0.8,), 0.0, 0.75, 0.84)
    loss, low, high = loss_between(before, after)
    assert loss == pytest.approx(0.1)
    assert low == pytest.approx(0.1 - np.hypot(0.03, 0.04))
    assert high == pytest.approx(0.1 + np.hypot(0.02, 0.05))


def accuracies(images, labels, num_splits, random):
    """The accuracy of a linear discriminant analysis on random splits of the same images."""
    found = []
    for _ in range(num_splits):
        seed = int(random.integers(2**31))
        halves = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
        train, test, train_labels, test_labels = halves
        model = LinearDiscriminantAnalysis().fit(train, train_labels)
        found.append(model.score(test, test_labels))
    return np.array(found)


@pytest.mark.parametrize("num_splits", [3, 6])
def test_intervals_over_splits_contain_the_expected_accuracy(num_splits):
    """Data sets are drawn from a population; the truth is the mean accuracy over all of them."""
    random, found = np.random.default_rng(num_splits), []
    for _ in range(300):
        labels = np.repeat(np.arange(3), 50)
        images = random.normal(size=(150, 5)) + 1.2 * np.eye(3, 5)[labels]
        found.append(accuracies(images, labels, num_splits, random))
    truth = np.mean(found)
    bounds = [np.array([wilson_interval(round(30 * v), 30) for v in values]) for values in found]
    corrected = [resampled_interval(*of, 20 / 80) for of in zip(found, bounds, strict=True)]
    plain = [resampled_interval(of, np.repeat(of[:, None], 2, axis=1), 0) for of in found]
    covered, naive = (
        np.mean([low <= truth <= high for low, high in intervals])
        for intervals in (corrected, plain)
    )
    assert 0.93 <= covered <= 0.99
    assert naive < covered - 0.03 and naive < 0.93


def copied(run: RunDirectory, data: str, tag: str, wrong: int) -> RunDirectory:
    """Copy a tested run as one on another split, with other answers for the first images."""
    copy = RunDirectory(run.config.updated(data=data, tag=tag))
    shutil.copytree(run.path, copy.path)
    write_json(copy.config_file, copy.config.to_dict())
    answer_wrongly(copy, wrong)
    return copy


@pytest.fixture
def over(probed):
    """Runs with and without a tag on the splits tiny, b and c; c keeps groups together."""
    final_test(probed)
    told = read_json(Path("data/tiny/dataset.json"))
    for name, more in (("b", {"seed": 7}), ("c", {"seed": 7, "group_by_column": "sample_id"})):
        shutil.copytree("data/tiny", f"data/{name}")
        write_json(Path("data", name, "dataset.json"), told | more)
    manifest = pd.read_csv("data/c/manifest.csv", dtype=str)
    manifest.assign(group="s1").to_csv("data/c/manifest.csv", index=False)
    for data, tag, wrong in (
        *(("data/tiny", "other", 2), ("data/b", "", 1), ("data/b", "other", 4)),
        *(("data/c", "", 3), ("data/c", "other", 3)),
    ):
        copied(probed, data, tag, wrong)
    return results_of_runs(probed.config.updated(other_splits=("data/b", "data/c"))).splits


def test_tables_and_figure_are_those_of_a_plain_loop(over):
    name, folder = "lenet5-bs8", over.runs[0].path.parents[1]
    values = {
        (data, tag): read_json(folder / data / f"{name}-seed42{tag}" / "test.json")
        for data in ("tiny", "b", "c")
        for tag in ("", "-other")
    }
    accuracy = {key: 100 * result["accuracy"] for key, result in values.items()}
    tables = {table: write_table(table, over) for table in NAMES}

    rows = tables["splits"].set_index(["configuration", "split"])
    random = [accuracy["tiny", ""], accuracy["b", ""]]
    assert rows.loc[name, "random"]["splits"] == 2
    assert rows.loc[name, "random"]["accuracy"].startswith(
        f"{np.mean(random):.2f} ± {np.std(random, ddof=1):.2f} ("
    )
    grouped = rows.loc[f"{name}-other", "grouped by sample_id"]
    low, high = (100 * bound for bound in values["c", "-other"]["accuracy_interval"])
    assert grouped["accuracy"] == f"{accuracy['c', '-other']:.2f} ({low:.2f} to {high:.2f})"

    (pair,) = tables["split_pairs"].itertuples(index=False)
    lost = np.mean([accuracy[data, "-other"] - accuracy[data, ""] for data in ("tiny", "b")])
    assert pair[:4] == (name, f"{name}-other", "random", 2)
    assert pair[4].startswith(f"{lost:+.2f} (") and pair[5] == ""  # two splits: no verdict

    losses = tables["split_loss"].set_index("configuration")
    assert list(losses["from"]) == ["random"] * 2
    assert losses.loc[name]["loss of accuracy (points)"].startswith(
        f"{np.mean(random) - accuracy['c', '']:+.2f} ("
    )
    sentence = over.over_splits.sentence
    assert "random: seed 42, seed 7; grouped by sample_id: seed 7" in sentence
    assert "two splits share 100 % of their test images" in sentence

    assert draw("splits", over) is not None
    assert over.folder.name == "tiny+2" and (over.folder / "splits.pdf").is_file()
    verdict = verify(over.folder)
    assert verdict.agree == 4 + 6 and not verdict.differ and not verdict.unknown
    copy = RunDirectory.open(folder / "b" / f"{name}-seed42")
    write_json(copy.test_file, values["b", ""] | {"accuracy": 0.5})
    assert any("b/lenet5" in line or "splits" in line for line in verify(over.folder).differ)


def test_f1_of_each_class_stands_run_beside_run(over):
    results = results_of_runs(over.config)  # two runs on the first split
    table = write_table("class_f1", results)
    names = [run.path.name for run in results.runs]
    assert sorted(table.columns) == sorted(["class", "images", *names])
    values = {}
    for run in results.runs:
        predictions = read_predictions(run)
        rates = f1_score(
            predictions["true"], predictions["predicted"], labels=list(table["class"]), average=None
        )
        values[run.path.name] = 100 * rates
        for cell, rate in zip(table[run.path.name], 100 * rates, strict=True):
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert value == pytest.approx(rate, abs=0.005) and low <= value <= high
    assert (np.diff(np.mean(list(values.values()), axis=0)) >= 0).all()  # the lowest first
    assert draw("class_f1", results) is not None
    write_numbers(results)
    assert not verify(results.folder).differ


def test_one_split_says_that_it_is_one(probed):
    final_test(probed)
    results = results_of_runs(probed.config).splits
    assert all(write_table(name, results).empty for name in NAMES)
    assert draw("splits", results) is None
    assert "share one split" in results.over_splits.sentence
    assert not (results.folder / "splits.csv").exists()


def test_splits_of_other_classes_are_refused(workbook, capsys):
    split_dataset(workbook / "classes", workbook / "data" / "fewer", exclude=["003_δύο"])
    with pytest.raises(InputError, match="tiny and fewer are not splits of the same images"):
        open_splits(["data/tiny", "data/fewer"])
    options = ["--backbone", "lenet5", "--batch-size", "8", "--image-size", "32", "--dry-run"]
    assert main(["run", "--data", "data/tiny", "data/fewer", *options]) == 2
    assert "only one of them has '003_δύο'" in capsys.readouterr().err
    assert main(["run", "--data", "data/tiny", "tiny", *options]) == 2
    assert "other_splits must be folders with other names than data" in capsys.readouterr().err
    assert main(["run", "--data", "data/tiny", "data/tinny", *options]) == 2
    assert "no data folder data/tinny; nearest: tiny" in capsys.readouterr().err


def test_the_grid_of_the_first_split_comes_last_and_compares(workbook):
    for name in ("b", "c"):
        shutil.copytree("data/tiny", f"data/{name}")
    grids = grids_of({"data": ["tiny", "b", "data/c"], "seed": [1, 2], "backbone": "lenet5"})
    assert [[config.data for config in grid] for grid in grids] == [
        *(["data/b"] * 2, ["data/c"] * 2, ["data/tiny"] * 2)
    ]
    assert [grid[0].other_splits for grid in grids] == [(), (), ("data/b", "data/c")]
