import json
import re
import shutil

import pandas as pd
import pytest

from tests.conftest import TINY, write_workbook
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.statistics.comparison import Comparison, compare_with_head
from thesis_lib.evaluation.statistics.metrics import large_class_metrics
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting import numbers as numbers_module
from thesis_lib.reporting.catalogue.figures import FIGURES, Entry
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.results import results_of_data, results_of_run, results_of_runs
from thesis_lib.reporting.tables import runs as tables
from thesis_lib.reporting.tables.published import (
    published_lookup,
    published_probe_table,
    published_table,
    reproduced_table,
    reproduces_dyb,
)
from thesis_lib.reporting.tables.retrieval import curve_table, retrieval_table, size_table
from thesis_lib.runs.artifacts import read_predictions, read_retrieval
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.system.files import read_json, write_json
from thesis_lib.system.progress import elapsed_words
from thesis_lib.training.pretraining import pretrain


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The folder ``runs`` of two runs that are pretrained, probed and tested."""
    root = tmp_path_factory.mktemp("two_runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_workbook(root)
        for batch_size in (8, 16):
            run = pretrain(RunConfig(**TINY).updated(batch_size=batch_size))
            probe_checkpoints(run)
            final_test(run)
    return root / "runs"


@pytest.fixture
def tested(workbook, two_runs):
    """Two runs that are pretrained, probed and tested."""
    shutil.copytree(two_runs, "runs")
    return find_runs("tiny")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3 * 86400 + 21 * 3600 + 4 * 60 + 29, "3 d 21 h 4 min"),
        (3660, "1 h 1 min"),
        (81.4, "1 min 21 s"),
        (3.6, "4 s"),
        (59.7, "1 min 0 s"),
    ],
)
def test_elapsed_time_is_formatted(seconds, words):
    assert elapsed_words(seconds) == words


def test_memory_is_formatted():
    assert tables.memory_words(11831, 12288) == "11,831 of 12,288 MiB (96.28 %)"


def test_table_of_one_runs_checkpoints_has_the_nearest_neighbours_accuracy(tested):
    probe = pd.read_csv(tested[0].probe_file).sort_values("checkpoint", ascending=False)
    table = tables.checkpoint_table(tested[0])
    expected = [f"{100 * value:.2f}" for value in probe["knn_accuracy"]]
    assert table["nearest neighbour"].tolist() == expected


def test_tables_of_look_up_tables_show_what_was_measured(tested):
    run = tested[0]
    assert retrieval_table(tested).empty and size_table(tested).empty
    test = retrieve(run)
    (metrics,), (size,) = (
        table.to_dict("records") for table in (retrieval_table(tested), size_table(tested))
    )
    low, high = (f"{100 * bound:.2f}" for bound in test["recall_interval"])
    assert metrics["run"] == run.path.name and metrics["n"] == test["n"]
    assert metrics["recall"] == f"{100 * test['recall']:.2f} ({low} to {high})"
    assert (size["threshold"], size["images"]) == (f"{test['threshold']:.2f}", test["images"])
    assert size["minus head (points)"].startswith(
        f"{100 * compare_with_head(run).difference:.2f} ("
    )
    rows = curve_table(run, "val")
    assert len(rows) == 21 and rows["images"].is_monotonic_decreasing
    accuracy = read_retrieval(run).set_index(["threshold", "split"])["accuracy"]
    assert rows.iloc[0]["accuracy"].startswith(f"{100 * accuracy.loc[1.0, 'val']:.2f} (")
    assert curve_table(run, "test").empty  # a single threshold is not a curve


def test_probe_table_has_one_row_per_checkpoint_and_a_star(tested):
    table = tables.probe_table(tested)
    assert table["checkpoint"].is_monotonic_decreasing
    assert list(table)[1:] == ["lenet5-bs16-seed42", "lenet5-bs8-seed42"]
    for run in table.columns[1:]:
        cells = table[run][table[run] != ""]
        assert all(re.fullmatch(r"\d+\.\d\d / \d+( \*)?", cell) for cell in cells)
        assert cells.str.endswith("*").sum() == 1


def test_test_and_cost_tables_have_one_row_per_run(tested):
    test, cost = tables.test_table(tested), tables.cost_table(tested)
    assert test["run"].tolist() == cost["run"].tolist() == [run.path.name for run in tested]
    assert test["accuracy"].str.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)").all()
    assert cost["epochs"].tolist() == [4, 4]
    choices = tables.choices_table(tested)
    assert choices["run"].tolist() == test["run"].tolist()
    assert test["choices tested"].tolist() == [1, 1] and test["n"].tolist() == [9, 9]


def pair(a: str, b: str, difference: float, p_holm: float) -> Comparison:
    return Comparison(a, b, 50, 5, 10, 5, difference, 0.0, 0.0, p_holm, p_holm)


def test_macro_metrics_of_large_classes_stand_in_a_table_if_some_are_small(tested):
    assert write_table("large_classes", results_of_runs(tested[0].config)).empty  # no class has 10
    predictions = read_predictions(tested[0])
    answers = (predictions["true"], predictions["predicted"])
    large = large_class_metrics(*answers, [*sorted(set(answers[0])), "no test image"], least=1)
    stored = read_json(tested[0].test_file)
    write_json(tested[0].test_file, stored | {"large_classes": large})
    table = write_table("large_classes", results_of_runs(tested[0].config))
    assert table["run"].tolist() == [tested[0].path.name] and table["classes"].tolist() == [
        "3 of 3"
    ]
    value, low, high = map(float, re.findall(r"[\d.]+", table["f1"][0]))
    assert value == round(100 * large["f1"], 2) and low < value < high


def test_best_run_is_significantly_more_accurate_than_every_other():
    one, other, third = (
        pair("a", "b", 0.1, 0.01),
        pair("a", "c", -0.1, 0.01),
        pair("b", "c", -0.2, 0.01),
    )
    assert tables.shown_best([one, other, third]) == "b"
    assert tables.shown_best([one, other, pair("b", "c", -0.2, 0.06)]) is None
    assert tables.shown_best([pair("a", "b", -0.1, 0.04)]) == "a"
    assert tables.shown_best([]) is None


def test_numbers_have_a_macro_each(tested):
    results = results_of_runs(tested[0].config)
    numbers = numbers_module.chapter_numbers(results)
    written = numbers_module.write_numbers(results)
    text = (results.folder / "numbers.tex").read_text()
    names = re.findall(r"\\newcommand\{\\([A-Za-z]+)\}", text)
    assert len(names) == len(set(names)) == len(numbers)
    assert written["macro"].tolist() == [f"\\{name}" for name in names]
    assert "LenetFiveBsEightSeedFourTwoTestAccuracy" in names


def test_without_a_run_notebook_06_has_failed(workbook, tiny_config):
    with pytest.raises(InputError, match="there are no runs on 'tiny'"):
        numbers_module.write_numbers(results_of_runs(tiny_config))


def test_two_numbers_with_the_same_macro_are_refused():
    with pytest.raises(ValueError, match="two numbers would get the macro"):
        numbers_module.numbers_text({"a-b": "1", "a_b": "2"})


def test_published_values_are_only_shown_for_dyb(tested):
    assert not reproduces_dyb(tested)
    assert "published" not in tables.accuracy_table(tested)
    run = tested[0]
    names = published_table("classes")["class"].tolist()
    result = json.loads(run.test_file.read_text())
    run.test_file.write_text(json.dumps(result | {"classes": names}))
    assert reproduces_dyb(tested)
    assert "published" in tables.accuracy_table(tested)


def test_published_tables_hold_the_published_values(tested):
    probe = published_probe_table().set_index("checkpoint")
    assert probe.index[0] == "last" and probe.index[1] == "1000" and probe.index[-1] == "700"
    assert probe.loc["900", "resnet50-bs32 (published)"] == "95.23 / 52"
    table = reproduced_table(tested)
    published = table[table["source"] == "published"]
    assert published["accuracy"].tolist() == [95.10, 94.86, 95.30]
    assert (table["source"] != "published").sum() == 2
    assert len(published_table("classes")) == 87


def test_the_published_look_up_table_stands_beside_that_of_resnet50_on_dyb(tested):
    retrieve(tested[0])
    results = results_of_run(tested[0], "retrieve")
    assert published_lookup(tested[0]).empty and write_table("published_lookup", results).empty
    run = RunDirectory(tested[0].config.updated(backbone="resnet50"))
    shutil.move(tested[0].path, run.path)
    write_json(run.config_file, run.config.to_dict())
    assert published_lookup(run).empty
    classes = published_table("classes")["class"].tolist()
    write_json(run.test_file, read_json(run.test_file) | {"classes": classes})
    results = results_of_run(run, "retrieve")
    table = write_table("published_lookup", results)
    assert len(table) == 21 and table["threshold"].tolist()[::20] == ["1.00", "0.80"]
    row = table[table["threshold"] == "0.89"].iloc[0]
    assert (row["accuracy (published)"], row["MiB (published)"]) == (95.07, 142.84)
    own = read_retrieval(run).set_index(["threshold", "split"]).loc[(0.89, "val")]
    assert row["accuracy"] == pytest.approx(100 * own["accuracy"])
    assert (
        "selected the threshold" in read_json(results.folder / "published_lookup.json")["caption"]
    )
    assert "selected the threshold" in FIGURES["retrieval_curve"].caption(results)
    labels = [line.get_label() for line in draw("retrieval_curve", results).axes[0].lines]
    assert "published, test" in labels


def test_unfinished_runs_are_left_out(workbook, tiny_config):
    run = pretrain(tiny_config)
    assert tables.probe_table([run]).columns.tolist() == ["checkpoint"]
    assert tables.test_table([run]).empty and len(tables.cost_table([run])) == 1
    assert tables.accuracy_table([run]).empty


def test_a_figure_that_cannot_be_drawn_is_named_and_left_out(
    workbook, tiny_config, monkeypatch, capsys
):
    results = results_of_data(tiny_config)
    assert draw("class_counts", results) is not None
    files = [results.folder / f"class_counts{ending}" for ending in (".pdf", ".png")]
    assert all(file.is_file() for file in files)

    def fail(error):
        def make(_):
            raise error

        monkeypatch.setitem(FIGURES, "class_counts", Entry(make, lambda _: ""))
        return draw("class_counts", results)

    assert fail(ValueError("cannot reshape array\nof size 3")) is None
    assert "!! the figure class_counts cannot be drawn and is left out: ValueError: cannot " in (
        capsys.readouterr().out
    )
    assert not any(file.exists() for file in files)  # they would show earlier results
    with pytest.raises(InputError, match="is missing"):  # the user can mend it
        fail(InputError("the data set is missing"))
