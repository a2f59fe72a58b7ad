"""Test the chapter, provenance and verification on a small grid that has been run."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from PIL import Image

from tests.conftest import CLASSES, TINY, write_classes
from thesis_lib import figures
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.reporting.catalogue.tables import TABLES
from thesis_lib.reporting.chapter import write_chapter
from thesis_lib.reporting.results import Results
from thesis_lib.reporting.verification import verify
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.system.files import read_json, write_json
from thesis_lib.workbook.grid import grid_configs, run_grid
from thesis_lib.workbook.plan import RUN_NOTEBOOKS
from thesis_lib.workbook.status import status_lines


@pytest.fixture(scope="module")
def grid_root(tmp_path_factory):
    """A workbook in which the notebooks have written the figures and tables of two runs."""
    root = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_classes(root / "classes")
        split_dataset(root / "classes", root / "data" / "tiny", pixel_size="10")
        assert run_grid(grid()) == []
    return root


def grid():
    """Two runs of the tiny data set."""
    return grid_configs({**TINY, "group_by": r"(\d\d)\d", "batch_size": [8, 16]})


def test_the_notebooks_write_all_files_of_a_run_and_are_done_once(grid_root, monkeypatch, capfd):
    monkeypatch.chdir(grid_root)
    for config in grid():
        run = RunDirectory(config)
        for name in (
            *("config.json", "provenance.json", "metrics.csv", "tensorboard"),
            *("checkpoints/epoch_0004.pth", "checkpoints/last.pth", "probe.csv"),
            *("probe_curves.csv", "selection.json", "head.pth", "test.json", "predictions.csv"),
            *("table.safetensors", "table.json", "retrieval.csv", "retrieval.json"),
            *("ood.csv", "retrieval_predictions.csv"),
            *(f"notebooks/{n.name}.ipynb" for n in RUN_NOTEBOOKS),
        ):
            assert (run.path / name).exists(), name
        names = ("views", "pretraining", "checkpoint_accuracy", "head_curves", "embedding")
        for name in (*names, "retrieval_curve", "nearest_images", "ood"):
            assert (run.figures / f"{name}.pdf").is_file()
            assert (run.figures / f"{name}.png").is_file()
        assert read_json(run.config_file)["data"] == "data/tiny"
    figures = grid_root / "figures" / "tiny"
    for name in ("class_counts.pdf", "sample_images.png", "loss_curves.pdf", "runs_accuracy.pdf"):
        assert (figures / name).is_file(), name
    assert "\\newcommand" in (figures / "numbers.tex").read_text()
    assert not list(grid_root.rglob("*.partial*")), "strays of half-written files"
    lines = status_lines()
    assert lines[0].startswith("tiny: 2 runs; notebooks done: 01_data_stats, 06_thesis_tables")
    assert sum(line.count("done ") for line in lines[2:]) == 8

    # Run again, everything is done. Another number of epochs for the same run is refused.
    capfd.readouterr()
    assert run_grid(grid()) == []
    assert capfd.readouterr().out.count("done already") == 10
    with pytest.raises(InputError, match=r"epochs = 4 \(requested: 5\).*--tag"):
        run_grid([grid()[0].updated(epochs=5)])


@pytest.fixture
def done(grid_root, tmp_path, monkeypatch):
    """A copy of that workbook, which a test may change, as the working directory."""
    shutil.copytree(grid_root, tmp_path / "w", symlinks=True)
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w" / "figures" / "tiny"


def test_every_figure_and_table_says_where_it_comes_from(done):
    runs = [run.path.name for run in find_runs("tiny")]
    csv, png = sorted(done.rglob("*.csv")), sorted(done.rglob("*.png"))
    assert len(csv) > 15 and len(png) > 20
    for path in (*csv, *png):
        if path.suffix == ".csv":
            source = read_json(path.with_suffix(".json"))["source"]
            assert f"% {source['line']}" in path.with_suffix(".tex").read_text().splitlines()
        else:
            with Image.open(path) as image:
                source = json.loads(image.info[figures.style.SOURCE])
            pdf = path.with_suffix(".pdf").read_bytes()
            assert b"/Subject (data set tiny \\(fingerprint " in pdf and b"/Keywords (" in pdf
        assert re.fullmatch("[0-9a-f]{16}", source["data_fingerprint"])
        assert source["commit"] and source["data"] == "data/tiny"
        below = path.relative_to(done).parts
        expected = [] if source["part"] == "data" else [below[0]] if len(below) > 1 else runs
        assert list(source["runs"]) == expected
        for facts in source["runs"].values():
            assert "pretrain" in facts["commits"] and facts["files"]


def test_chapter_holds_every_figure_and_table_once(done):
    text = write_chapter("tiny")[1].read_text()
    shown = re.findall(r"\\includegraphics\{\\resultsfolder ([^}]+)\}", text)
    assert sorted(shown) == sorted(p.relative_to(done).as_posix() for p in done.rglob("*.pdf"))
    put_in = re.findall(r"\\input\{\\resultsfolder ([^}]+)\}", text)
    tables = (p.relative_to(done).with_suffix("").as_posix() for p in done.rglob("*.csv"))
    assert sorted(put_in) == sorted(tables)
    assert text.count(r"\caption[") == len(shown) == text.count(r"\label{fig:")
    assert "The selected checkpoint is epoch" in text and "accuracy" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_chapter_compiles(done):
    assert main(["chapter"]) == 0
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "chapter.tex"]
    for _ in range(2):
        run = subprocess.run(command, cwd=done, capture_output=True, text=True, errors="replace")
        assert run.returncode == 0, run.stdout[-3000:]
    for complaint in ("multiply defined", "undefined", "Overfull \\hbox", "Float too large"):
        assert complaint not in run.stdout, run.stdout[-5000:]


def test_chapter_without_figures_is_refused(done, capsys):
    assert main(["chapter", "tini"]) == 2
    assert "figures/tini contains no figures; nearest: tiny" in capsys.readouterr().err


def test_verify_finds_no_difference(done, capsys):
    assert main(["chapter"]) == 0
    capsys.readouterr()
    assert main(["verify", "figures/tiny"]) == 0
    # plus the metrics of head and table of two runs, the numbers, and two chapter files
    things = len(list(done.rglob("*.csv"))) + len(list(done.rglob("*.pdf"))) + 4 + 1 + 2
    assert capsys.readouterr().out == f"{things} agree, 0 differ, 0 unknown\n"


def a_number_typed_over(done, run):
    table = pd.read_csv(done / "test.csv")
    table.loc[0, "accuracy"] = "99.99 (99.90 to 100.00)"
    table.to_csv(done / "test.csv", index=False)
    return r"test.csv: 'accuracy' of 'lenet5-bs16-seed42' is '99.99 .*', but recomputed"


def a_number_typed_over_in_latex(done, run):
    file = done / run.path.name / "per_class.tex"
    file.write_text(file.read_text().replace("001\\_zero", "001\\_naught"))
    return r"per_class.tex differs from the recomputed file"


def a_macro_typed_over(done, run):
    file = done / "numbers.tex"
    file.write_text(re.sub(r"(TestAccuracy\}\{)[\d.]+", r"\g<1>99.99", file.read_text(), count=1))
    return r"numbers.tex: .*TestAccuracy.* differ"


def a_table_without_its_csv(done, run):
    file = done / "test.tex"
    file.write_text(file.read_text().replace("66.", "99."))
    for ending in (".csv", ".md"):
        (done / f"test{ending}").unlink()
    return r"test: .*test.csv is missing"


def a_table_without_its_source(done, run):
    for ending in (".csv", ".md", ".json"):
        (done / f"test{ending}").unlink()
    return r"test: .*test.json is missing"


def no_numbers(done, run):
    (done / "numbers.tex").unlink()
    return r"numbers.tex: .* is missing"


def another_runs_table(done, run):
    other = next(p for p in done.iterdir() if p.is_dir() and p.name != run.path.name)
    for file in other.glob("per_class.*"):
        shutil.copy(file, done / run.path.name / file.name)
    return rf"{run.path.name}/per_class belongs to the run {other.name}"


def another_runs_figure(done, run):
    other = next(p for p in done.iterdir() if p.is_dir() and p.name != run.path.name)
    for file in other.glob("confusion_matrix.*"):
        shutil.copy(file, done / run.path.name / file.name)
    return rf"{run.path.name}/confusion_matrix belongs to the run {other.name}"


def another_figure_of_the_run(done, run):
    for kind in (".png", ".pdf"):
        shutil.copy(
            done / run.path.name / f"views{kind}", done / run.path.name / f"embedding{kind}"
        )
    return r"embedding was originally named 'views'"


def another_fingerprint(done, run):
    file = done / "test.json"
    told = read_json(file)
    told["source"]["data_fingerprint"] = "0" * 16
    write_json(file, told)
    return r"test.json records data_fingerprint '0+', but it is now"


def another_source_in_latex(done, run):
    file = done / "cost.tex"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["% made from nothing at all", *lines[1:]]) + "\n")
    return r"cost.tex differs from the recomputed file"


def an_interval_typed_over(done, run):
    stored = read_json(run.test_file)
    write_json(run.test_file, stored | {"accuracy_interval": [0.9, 0.91], "n": 999})
    return r"test.json: accuracy_interval is \[0.9, 0.91\], but the predictions give"


def a_metric_of_the_table_typed_over(done, run):
    stored = read_json(run.retrieval_test_file)
    write_json(run.retrieval_test_file, stored | {"recall": 0.999})
    return r"retrieval.json: recall is 0.999, but the predictions give [01]\b"


def a_point_of_the_curve_typed_over(done, run):
    curve = pd.read_csv(run.retrieval_file)
    curve.loc[3, "accuracy"] = 0.9999
    curve.to_csv(run.retrieval_file, index=False)
    return r"retrieval_curve.csv: 'accuracy' of '0.83' is '.*', but recomputed '99.99 .*'"


def no_predictions(done, run):
    run.predictions_file.write_text("")
    return r"test.json: cannot be recomputed: .*predictions.csv is not a valid CSV table"


def no_metrics(done, run):
    run.metrics_file.unlink()
    return rf"pretraining: metrics.csv of {run.path.name} changed after it was drawn"


def no_source(done, run):
    write_json(done / "test.json", {})
    return r"test: cannot be recomputed: .*test.json does not record the sources of its table"


def leaking_images(done, run):
    data = done.parents[1] / "data" / "tiny"
    for image in (data / "test" / CLASSES[0]).iterdir():
        shutil.copy(image, data / "train" / CLASSES[0] / f"copy_{image.name}")
    return r"without_leaks: cannot be recomputed: data/tiny is not the data set that"


def a_metric_typed_over(done, run):
    write_json(run.test_file, read_json(run.test_file) | {"f1": 0.999})
    return r"test.json: f1 is 0.999, but the predictions give 0\."


def another_training(done, run):
    run.metrics_file.write_text(run.metrics_file.read_text().replace("\n4,", "\n4,1", 1))
    return (
        rf"{run.path.name}/pretraining: metrics.csv of {run.path.name} changed after it was drawn"
    )


def another_plot(done, run):
    folder = done / run.path.name
    shutil.copy(folder / "embedding.pdf", folder / "views.pdf")
    return r"views.pdf was not drawn together with .*views.png"


def no_run(done, run):
    shutil.rmtree(run.path)
    return rf"{run.path.name}/per_class: cannot be recomputed: .* is not a run"


def another_image(done, run):
    image = next((done.parents[1] / "data" / "tiny" / "test").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"\0")
    return r"class_counts: the data set data/tiny has changed"


@pytest.mark.parametrize(
    "change",
    [
        *(a_number_typed_over, a_number_typed_over_in_latex, a_macro_typed_over),
        *(a_table_without_its_csv, a_table_without_its_source, no_numbers, another_runs_table),
        *(another_runs_figure, another_figure_of_the_run, another_fingerprint),
        *(another_source_in_latex, an_interval_typed_over, no_predictions, no_metrics),
        *(no_source, leaking_images, a_metric_of_the_table_typed_over),
        a_point_of_the_curve_typed_over,
        *(a_metric_typed_over, another_training, another_plot, no_run, another_image),
    ],
)
def test_verify_names_what_no_longer_agrees(done, capsys, change):
    pattern = change(done, find_runs("tiny")[0])
    assert main(["verify", "figures/tiny"]) == 1
    out = capsys.readouterr().out
    assert any(re.search(f"^differs: .*{pattern}", line) for line in out.splitlines()), out


def test_verify_of_a_copy_of_a_run_and_without_the_data(done, tmp_path, capsys):
    run = find_runs("tiny")[0].path.name
    shutil.copytree(done, tmp_path / "thesis" / "plots")
    assert main(["verify", str(tmp_path / "thesis" / "plots")]) == 0
    assert main(["verify", f"figures/tiny/{run}"]) == 0
    shutil.rmtree(done.parents[1] / "data")
    capsys.readouterr()
    assert main(["verify", f"figures/tiny/{run}"]) == 0
    out = capsys.readouterr().out
    for table in ("without_leaks", "by_size"):
        assert f"not checked: {table}, whose data set data/tiny is missing" in out


def test_chapter_is_refused_if_its_tables_show_other_runs(done, capsys):
    run = find_runs("tiny")[0]
    shutil.rmtree(run.path)
    assert main(["chapter"]) == 2
    assert f"figures/tiny do not match the tested runs ({run.path.name})" in capsys.readouterr().err


def test_chapter_of_an_incomplete_run(done, capsys):
    run = find_runs("tiny")[0]
    for file in (run.selection_file, run.metrics_file):
        file.unlink()
    (done / "test.json").unlink()
    assert main(["chapter"]) == 0
    text = (done / "chapter_body.tex").read_text()
    assert f"{run.path.name}/pretraining.pdf" not in text and "confusion_matrix.pdf" in text


def test_verify_says_what_it_cannot_check(done, capsys):
    (done / "mine.csv").write_text("a\n1\n")
    Image.new("RGB", (4, 4)).save(done / "mine_too.png")
    assert main(["verify", "figures/tiny"]) == 0
    out = capsys.readouterr().out
    assert (
        "not checked: mine, which is not a table" in out and "not checked: mine_too, which" in out
    )
    with pytest.raises(InputError, match="no figures or tables in"):
        verify(done.parent / "nothing")


def test_notebooks_write_every_table_of_the_catalogue(done):
    written = {path.stem for path in done.rglob("*.csv")}
    assert set(TABLES) - written == {
        *("published_probe", "published_lookup", "reproduced"),  # for DYB-PlanktonNet only
        "retrieval_test_curve",  # on request
        "large_classes",  # no class of these data has 10 test images
        "training_worth",  # for runs of several methods or initial weights
        *("seeds", "seed_pairs"),  # for runs of several seeds
        "strata",  # all classes have less than 20 training images
        "by_group",  # for data that were split by groups
        *("taxa", "living"),  # for data with a taxonomy
        "balance",  # for runs with another sampling or head
        "elsewhere",  # after a test on other data
        *("splits", "split_pairs", "split_loss"),  # with other splits of the images
    }


def test_run_of_results_with_several_runs_is_an_error(done):
    results = Results("comparison", RunConfig(), tuple(find_runs("tiny")), done)
    with pytest.raises(ValueError):
        results.run  # noqa: B018
