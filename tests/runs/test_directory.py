"""Paths of a run's files, finding and checking runs, and atomic writing of files."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError, nearest
from thesis_lib.runs.directory import RunDirectory, find_runs
from thesis_lib.system.files import atomic_path, read_json, write_csv, write_json, write_text
from thesis_lib.system.paths import (
    data_runs_folder,
    figures_folder,
    find_data,
    relative_to_root,
    workbook_root,
)
from thesis_lib.workbook.status import status_lines


@pytest.fixture
def workbook(tmp_path, monkeypatch) -> Path:
    """A workbook whose root is the working directory."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_data_stats.ipynb").write_text("{}")
    (tmp_path / "data" / "tiny" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(**settings) -> RunDirectory:
    run = RunDirectory(RunConfig(**({"data": "data/tiny", "backbone": "lenet5"} | settings)))
    run.write_config()
    return run


# --- the root


def test_root_is_the_nearest_folder_with_the_notebooks(workbook, monkeypatch):
    deep = workbook / "runs" / "tiny" / "deep"
    deep.mkdir(parents=True)
    for here in (workbook, workbook / "notebooks", deep):
        monkeypatch.chdir(here)
        assert workbook_root() == workbook


def test_without_notebooks_the_root_is_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workbook_root() == tmp_path
    (tmp_path / "notebooks").mkdir()  # a folder of other notebooks
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert workbook_root() == tmp_path / "sub"


def test_data_is_looked_for_here_and_then_at_the_root(workbook, monkeypatch):
    monkeypatch.chdir(workbook / "notebooks")
    assert find_data("data/tiny").resolve() == workbook / "data" / "tiny"
    assert find_data(str(workbook / "data")) == workbook / "data"
    (workbook / "notebooks" / "data" / "tiny").mkdir(parents=True)
    assert find_data("data/tiny").resolve() == workbook / "notebooks" / "data" / "tiny"


def test_paths_are_shown_from_the_root(workbook, monkeypatch):
    monkeypatch.chdir(workbook / "notebooks")
    assert relative_to_root(workbook / "runs" / "tiny") == "runs/tiny"
    assert relative_to_root(Path("../data/tiny")) == "data/tiny"
    assert relative_to_root(Path("/elsewhere/x")) == "/elsewhere/x"


# --- atomic files


def test_file_appears_with_its_content(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent and partial != path
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_whole_and_no_stray(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failure_of_the_first_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    with (
        pytest.raises(InputError, match=r"b\.txt needs 7 bytes, [\d,]+ bytes are free"),
        atomic_path(tmp_path / "b.txt", 7),
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_text_json_and_tables_come_back_as_they_were_written(tmp_path):
    content = {"class": "Ωμέγα", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "Ωμέγα" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_text(tmp_path / "a.tex", "ä\nb\n")
    assert (tmp_path / "a.tex").read_bytes() == "ä\nb\n".encode()
    table = pd.DataFrame({"path": ["a, b", "Ω"], "confidence": [0.1, 2 / 3]})
    write_csv(tmp_path / "a.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), table)


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff\xfe"])
def test_broken_json_is_one_clear_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is not valid JSON") as caught:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


# --- names


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"backbone": "resnet50", "batch_size": 64}, "resnet50-bs64-seed42"),
        ({"backbone": "lenet5", "batch_size": 32, "seed": 7}, "lenet5-bs32-seed7"),
        ({"backbone": "lenet5", "tag": "lr0.1"}, "lenet5-bs32-seed42-lr0.1"),
    ],
)
def test_run_lies_where_the_contract_says(workbook, settings, folder):
    run = RunDirectory(RunConfig(data="data/tiny", **settings))
    assert run.path == workbook / "runs" / "tiny" / folder
    assert run.figures == workbook / "figures" / "tiny" / folder
    assert data_runs_folder("tiny") == workbook / "runs" / "tiny"
    assert figures_folder("tiny") == workbook / "figures" / "tiny"
    assert not run.path.exists()


def test_artefacts_have_the_contracts_names(workbook):
    run = RunDirectory(RunConfig())
    artefacts = {
        "config.json": run.config_file,
        "provenance.json": run.provenance_file,
        "metrics.csv": run.metrics_file,
        "tensorboard": run.tensorboard,
        "checkpoints": run.checkpoints,
        "checkpoints/last.pth": run.last_checkpoint,
        "probe.csv": run.probe_file,
        "probe_curves.csv": run.probe_curves_file,
        "selection.json": run.selection_file,
        "head.pth": run.head_file,
        "test.json": run.test_file,
        "predictions.csv": run.predictions_file,
        "notebooks": run.notebooks,
    }
    for name, path in artefacts.items():
        assert path == run.path / name


# --- open


def test_run_opens_with_the_config_it_was_written_with(workbook, monkeypatch):
    run = made(epochs=7, mean=(0.1, 0.2, 0.3))
    for path in (run.path, Path("runs/tiny/lenet5-bs32-seed42")):
        assert RunDirectory.open(path).config == run.config
    monkeypatch.chdir(workbook / "notebooks")
    opened = RunDirectory.open(Path("runs/tiny/lenet5-bs32-seed42"))
    assert opened.config == run.config and opened.path == run.path


def test_config_holds_the_datas_path_from_the_root(workbook, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(workbook / "notebooks")
    assert read_json(made(data="../data/tiny").config_file)["data"] == "data/tiny"
    assert read_json(made(data=str(workbook / "data/tiny")).config_file)["data"] == "data/tiny"
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other"
    elsewhere.mkdir()
    run = made(data=str(elsewhere))
    assert read_json(run.config_file)["data"] == str(elsewhere)
    assert run.path == workbook / "runs" / "other" / "lenet5-bs32-seed42"


def test_opening_no_run_is_refused_with_the_nearest(workbook):
    made()
    with pytest.raises(InputError, match="is not a run") as caught:
        RunDirectory.open(Path("runs/tiny/lenet5-bs23-seed42"))
    assert "lenet5-bs32-seed42" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_renamed_run_is_refused(workbook):
    run = made()
    run.path.rename(run.path.with_name("mine"))
    with pytest.raises(InputError, match=r"holds the config\.json of runs/tiny/lenet5-bs32-seed42"):
        RunDirectory.open(run.path.with_name("mine"))


def test_config_with_an_unknown_setting_is_refused(workbook):
    run = made()
    run.config_file.write_text(json.dumps(run.config.to_dict() | {"epoch": 3}))
    with pytest.raises(InputError, match="unknown setting 'epoch'; nearest: epochs"):
        RunDirectory.open(run.path)


def test_all_runs_are_found_or_those_on_one_data_set(workbook):
    names = [made(batch_size=n).path.name for n in (8, 16)]
    (workbook / "data" / "other").mkdir()
    other = made(data="data/other")
    (workbook / "runs" / "tiny" / "no run").mkdir()
    assert sorted(run.path.name for run in find_runs("tiny")) == sorted(names)
    assert [run.path for run in find_runs("other")] == [other.path]
    assert len(find_runs()) == 3
    assert find_runs("none") == []


# --- find


def test_find_takes_the_settings_it_was_trained_with(workbook):
    made(epochs=7, learning_rate=0.1, head_epochs=3)
    found = RunDirectory.find(data="data/tiny", backbone="lenet5")
    assert (found.config.epochs, found.config.learning_rate) == (7, 0.1)
    assert found.config.head_epochs == 3


def test_find_lets_settings_of_later_stages_take_their_place(workbook):
    run = made(epochs=7, head_epochs=3)
    asked = {"data": "data/tiny", "backbone": "lenet5"}
    found = RunDirectory.find(**asked, head_epochs=5, probe_from=2, workers=1)
    assert found.path == run.path
    config = found.config
    assert (config.head_epochs, config.probe_from, config.workers, config.epochs) == (5, 2, 1, 7)
    assert RunDirectory.open(run.path).config.head_epochs == 3  # config.json is unchanged


def test_find_refuses_another_pretraining(workbook):
    made(epochs=7, learning_rate=0.1)
    with pytest.raises(InputError, match="--tag") as caught:
        RunDirectory.find(data="data/tiny", backbone="lenet5", epochs=8, head_epochs=5)
    message = str(caught.value)
    assert "epochs = 7 (requested: 8)" in message
    assert "learning_rate" not in message and "head_epochs" not in message


def test_find_refuses_a_run_that_is_not_there(workbook):
    with pytest.raises(InputError, match="there is no run runs/tiny/lenet5-bs32-seed42"):
        RunDirectory.find(data="data/tiny", backbone="lenet5")


# --- check_config


def test_same_settings_pass_wherever_they_run(workbook):
    made(epochs=7)
    RunDirectory(RunConfig(data="data/tiny", backbone="resnet50", epochs=9)).check_config()
    same = {"data": str(workbook / "data/tiny"), "backbone": "lenet5", "epochs": 7}
    RunDirectory(RunConfig(**same, workers=3, device="cpu", text_width=100)).check_config()


def test_differing_settings_are_named_with_the_way_to_keep_both(workbook):
    made(epochs=7, decay_epochs=(1, 2))
    asked = {"data": "data/tiny", "backbone": "lenet5", "decay_epochs": (1,), "temperature": 0.1}
    with pytest.raises(InputError) as caught:
        RunDirectory(RunConfig(**asked, epochs=8, head_epochs=100)).check_config()
    message = str(caught.value)
    assert "epochs = 7 (requested: 8)" in message
    assert "decay_epochs = [1, 2] (requested: [1])" in message
    assert "temperature = 0.07 (requested: 0.1)" in message
    assert "--tag" in message and "tag = 'NAME'" in message
    assert "head_epochs" not in message and "thesis probe" not in message
    assert "\n" not in message
    RunDirectory(RunConfig(**asked, epochs=8, tag="hot")).check_config()  # its own folder


def test_differing_probe_settings_are_told_how_to_probe_anew(workbook):
    made(head_epochs=7)
    run = RunDirectory(RunConfig(data="data/tiny", backbone="lenet5", head_epochs=8))
    with pytest.raises(InputError, match=r"thesis probe lenet5-bs32-seed42 --head-epochs"):
        run.check_config()
    run.check_config(stages=("identity", "pretrain"))


# --- names that would be patterns


@pytest.mark.parametrize("name", ["v[2]", "a*", "what?", "[!x]", "100 % {run} $x$"])
def test_a_data_set_is_found_by_its_name_whatever_signs_it_has(workbook, name, capsys):
    (workbook / "data" / name / "train").mkdir(parents=True)
    run, other = made(data=f"data/{name}"), made(data="data/a b")
    assert [found.path for found in find_runs(name)] == [run.path]
    assert status_lines(name)[0].startswith(f"{name}: 1 runs")
    assert len(find_runs()) == 2 and other.path.parent.name == "a b"
    assert main(["clean", "--data", name]) == 0
    assert "0 files of 1 runs" in capsys.readouterr().out


def test_a_run_is_not_looked_for_by_a_pattern(workbook, capsys):
    made()
    assert main(["test", "lenet5-*"]) == 2
    assert "lenet5-* is not a run" in capsys.readouterr().err


def test_a_data_set_whose_runs_have_not_begun_is_no_typo(workbook, capsys):
    (workbook / "runs" / "tiny" / "notebooks").mkdir(parents=True)
    assert main(["status", "--data", "tiny"]) == 2
    assert "no run on 'tiny' has started training yet" in capsys.readouterr().err
    assert nearest("tiny", ["tiny", "tinny"]) == "; nearest: tinny"
