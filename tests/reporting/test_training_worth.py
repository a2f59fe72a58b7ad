"""Is the training worth it? Runs with and without training of the backbone, side by side."""

import pandas as pd
import pytest

from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.statistics.comparison import compare_runs
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.results import results_of_runs
from thesis_lib.reporting.tables.training_worth import (
    accuracy_against_hours,
    is_untrained,
    training_seconds,
    worth_sentence,
    worth_table,
)
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import find_runs
from thesis_lib.system.files import read_json
from thesis_lib.training.pretraining import pretrain


@pytest.fixture
def both(probed, tiny_config):
    """A trained and a frozen run, both tested."""
    final_test(probed)
    frozen = pretrain(tiny_config.updated(method="frozen"))
    probe_checkpoints(frozen)
    final_test(frozen)
    return find_runs("tiny")


def test_method_weights_and_hours_stand_beside_the_metrics(both):
    table = worth_table(both)
    assert table["method"].tolist() == ["frozen", "supcon"]
    assert table["weights"].tolist() == ["random", "random"]
    assert table["training"][0] == "none" and table["training"][1].endswith(" s")
    numbers = accuracy_against_hours(both).set_index("method")
    trained = next(run for run in both if run.config.method == "supcon")
    seconds = sum(row["seconds"] for row in read_metrics(trained))
    assert numbers["hours"].to_dict() == {"frozen": 0, "supcon": pytest.approx(seconds / 3600)}
    for run in both:
        assert numbers["accuracy"][run.config.method] == read_json(run.test_file)["accuracy"]
    assert write_table("training_worth", results_of_runs(trained.config)) is not None
    assert draw("accuracy_against_hours", results_of_runs(trained.config)) is not None


def test_the_sentence_compares_what_validation_has_chosen(both):
    pairs = compare_runs(both)
    assert pairs[0].sentence in worth_sentence(both, pairs)
    alone = [run for run in both if run.config.method == "supcon"]
    assert "no run with and one without" in worth_sentence(alone, pairs)


def test_the_training_of_the_run_that_weights_come_from_counts(both, tiny_config):
    source = next(run for run in both if run.config.method == "supcon")
    settings = {"method": "frozen", "weights": str(source.path), "tag": "from-run"}
    taken = pretrain(tiny_config.updated(**settings))
    probe_checkpoints(taken)
    final_test(taken)
    assert not is_untrained(taken) and is_untrained(next(r for r in both if r is not source))
    assert training_seconds(taken) == training_seconds(source) > 0
    table = worth_table(find_runs("tiny"))
    assert (table["training"] == "none").sum() == 1 and table["training"][0] == "none"


def test_runs_of_one_kind_have_no_such_table(probed):
    final_test(probed)
    assert isinstance(worth_table([probed]), pd.DataFrame) and worth_table([probed]).empty
    assert accuracy_against_hours([probed]).empty
    assert draw("accuracy_against_hours", results_of_runs(probed.config)) is None
