"""A grid of notebooks: what runs, what is skipped as done, and what happens on failures."""

import json
import os
import re

import pytest

from thesis_lib.config import PRETRAIN, RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import find_data
from thesis_lib.workbook import grid as module
from thesis_lib.workbook import receipts
from thesis_lib.workbook.grid import execute, grid_configs, run_grid
from thesis_lib.workbook.plan import plan_of
from thesis_lib.workbook.receipts import write_receipt

SETTINGS = {
    "data": "data/tiny",
    "image_size": 32,
    "epochs": 3,
    "save_every": 1,
    "learning_rate": 0.05,
    "head_epochs": 5,
}


def _settings_digest(run, stage):
    """Stand in for the inputs of a stage that was not really done."""
    names = {"pretrain": RunConfig.field_names(PRETRAIN), "probe": ["head_epochs"]}
    return repr([getattr(run.config, name) for name in names.get(stage, [])])


@pytest.fixture
def executed(monkeypatch):
    """Replace the notebooks: record each task, and write an executed copy and a receipt."""
    tasks = []

    def note(task):
        tasks.append(task.label)
        if (
            task.run
            and task.run.config.backbone == "test_resnet"
            and task.notebook.stage == "probe"
        ):
            return "InputError: broken"
        task.executed.parent.mkdir(parents=True, exist_ok=True)
        copy = {"metadata": {"papermill": {"parameters": task.parameters}}}
        task.executed.write_text(json.dumps(copy))
        write_receipt(task.notebook.name, task.config)
        return None

    monkeypatch.setattr(module, "execute", note)
    monkeypatch.setattr(receipts, "is_done", lambda run, stage: True)
    monkeypatch.setattr(receipts, "inputs_digest", _settings_digest)
    return tasks


def test_grid_is_every_backbone_with_every_batch_size(workbook):
    configs = grid_configs(
        {**SETTINGS, "backbone": ["lenet5", "test_resnet"], "batch_size": [8, 16]}
    )
    assert [c.run_name for c in configs] == [
        *("lenet5-bs8-seed42", "lenet5-bs16-seed42"),
        *("test_resnet-bs8-seed42", "test_resnet-bs16-seed42"),
    ]
    labels = [task.label for task in plan_of(configs).tasks]
    assert labels[0] == "tiny: 01_data_stats" and labels[-1] == "tiny: 06_thesis_tables"
    assert len(labels) == 2 + 4 * 4


def test_failure_ends_its_run_but_not_the_grid(workbook, executed, capsys):
    failures = run_grid(
        grid_configs({**SETTINGS, "backbone": ["test_resnet", "lenet5"], "batch_size": [8]})
    )
    assert failures == ["tiny/test_resnet-bs8-seed42: 03_checkpoint_probing: InputError: broken"]
    assert "tiny/test_resnet-bs8-seed42: 04_final_test" not in executed
    assert "tiny/lenet5-bs8-seed42: 04_final_test" in executed
    assert executed[-1] == "tiny: 06_thesis_tables"


def test_what_is_done_is_skipped(workbook, executed, capsys):
    configs = grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]})
    run_grid(configs)
    for file in workbook.rglob("runs/**/*.*"):
        os.utime(file, (1, 1))  # a copied or unpacked workbook
    executed.clear()
    assert run_grid(configs) == [] and executed == []
    assert capsys.readouterr().out.count("done already") == 6


def new_result(run):
    run.write_config()
    run.test_file.write_text("{}")


def new_image(run):
    folder = next((find_data(run.config.data) / "train").iterdir())
    (folder / "new.png").write_bytes(next(folder.iterdir()).read_bytes())


def other_head(run):
    return {"head_epochs": 6}


def more_neighbours(run):
    return {"neighbours": 3}


def other_predictions(run):
    run.path.mkdir(parents=True, exist_ok=True)
    run.predictions_file.write_text("path,true,predicted")


def wider_text(run):
    return {"text_width": 120.0}


def no_receipt(run):
    (run.notebooks / "04_final_test.receipt.json").unlink()


def torn_receipt(run):
    (run.notebooks / "04_final_test.receipt.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (new_result, ["06"]),
        (new_image, ["01"]),
        (other_head, ["02", "03", "04", "05"]),
        (more_neighbours, ["05"]),
        (other_predictions, ["05"]),
        (wider_text, ["01", "02", "03", "04", "05", "06"]),
        (no_receipt, ["04"]),
        (torn_receipt, ["04"]),
    ],
)
def test_what_has_changed_makes_anew_what_shows_it(workbook, executed, change, again):
    configs = grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]})
    run_grid(configs)
    executed.clear()
    changed = change(RunDirectory(configs[0])) or {}
    run_grid([config.updated(**changed) for config in configs])
    assert [label.split(": ")[1][:2] for label in executed] == again


def test_dry_run_prints_the_plan_and_writes_nothing(workbook, capsys):
    assert (
        run_grid(
            grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8, 16]}), dry_run=True
        )
        == []
    )
    out = capsys.readouterr().out
    assert out.count("would run") == 10 and out.count("    epochs = 3\n") == 2
    assert len(re.findall(r"^tiny/lenet5-bs\d+-seed42: about .+ of training", out, re.M)) == 2
    assert not (workbook / "runs").exists()


def test_the_place_of_weights_does_not_depend_on_the_order_of_methods(workbook):
    (workbook / "sub").mkdir()
    (workbook / "sub" / "own.pth").write_bytes(b"")
    weights = str(workbook / "sub" / "own.pth")
    for methods in (["regions", "frozen"], ["frozen", "regions"]):
        configs = grid_configs({"data": "data/tiny", "method": methods, "weights": weights})
        assert {c.method: c.weights for c in configs} == {"frozen": "sub/own.pth", "regions": ""}


def test_a_run_that_cannot_be_estimated_is_said_and_no_reason_to_stop(workbook, capsys):
    file = sorted((workbook / "data" / "tiny" / "train").rglob("*.png"))[0]
    file.write_bytes(b"not an image")
    configs = grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]})
    assert run_grid(configs, dry_run=True) == []
    shown = file.relative_to(workbook)
    assert f"cannot be estimated: cannot read the image '{shown}'" in capsys.readouterr().out


def test_data_set_without_test_images_is_refused(workbook):
    os.rename(workbook / "data" / "tiny" / "test", workbook / "elsewhere")
    with pytest.raises(InputError, match="data/tiny has no test/ folder"):
        run_grid(grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]}))


def test_failing_notebook_says_why_in_one_line(workbook):
    task = next(
        t
        for t in plan_of(
            grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]})
        ).tasks
        if t.notebook.stage == "probe"
    )
    error = execute(task)
    assert error.startswith("InputError: there is no run runs/tiny/lenet5-bs8-seed42")
    assert "\n" not in error and "03_checkpoint_probing.failed.ipynb" in error
    failed = task.executed.with_name("03_checkpoint_probing.failed.ipynb")
    assert failed.is_file() and not task.executed.exists()
    outputs = [o for c in json.loads(failed.read_text())["cells"] for o in c.get("outputs", [])]
    shown = next(o for o in outputs if o["output_type"] == "error")
    assert len(shown["traceback"]) == 1  # also one line in the notebook


def test_notebook_that_somebody_else_is_at_fails_alone(workbook):
    task = plan_of(grid_configs({**SETTINGS, "backbone": ["lenet5"], "batch_size": [8]})).tasks[0]
    with locked(task.executed.parent):
        error = execute(task)
    assert error.startswith(f"{task.executed.parent} is in use by process {os.getpid()} on ")
