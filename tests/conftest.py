"""Tiny real data for the tests: some of scikit-learn's digits, and one trained run on them."""

import os
import shutil
import signal

# Under nohup or in a background job, SIGINT is ignored, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores: the threads of torch and of the loading workers would fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.fault_table import faults, pytest_terminal_summary  # noqa: F401  (fixture and hook)
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.training.pretraining import pretrain

torch.set_num_threads(1)

CLASSES = ("001_zero with blank", "002_one.dot", "003_δύο")
TINY = {
    "data": "data/tiny",
    "backbone": "lenet5",
    "batch_size": 8,
    "image_size": 32,
    "epochs": 4,
    "save_every": 1,
    "learning_rate": 0.05,
    "head_epochs": 10,
    "head_views": 2,
}


# What takes minutes, starts other programs or kills processes: `make test-all`.
SLOW = (
    "tests/faults/",
    "tests/slurm/",
    "tests/notebooks/test_jupyterlab.py",
    "tests/reporting/test_chapter.py",
    "tests/system/test_distributed.py",
    "tests/training/test_supcontrast_import.py",
    "tests/workbook/test_parallel.py",
    "tests/figures/test_figures.py::test_figures_of_any_number_of_classes_fit_a_page",
    "tests/figures/test_figures.py::test_long_and_many_names_leave_the_key_on_the_page",
    "tests/prediction/test_export.py::test_timm_alone_loads_a_backbone",
    "tests/test_models.py::test_thesis_backbone_takes_a_real_step_at_224_px",
    "tests/training/test_pretraining.py::test_compiled_run_trains_and_resumes",
    "tests/workbook/test_grid.py::test_failing_notebook",
    "tests/data/organisms/test_regions.py::test_a_forest_on_them",
    "tests/training/test_estimates.py::test_a_process_of_its_own",
    "tests/training/test_estimates.py::test_the_memory",
)


# What takes minutes begins first, so that no worker is busy with it at the end.
LONG = (
    "tests/slurm/",
    "tests/faults/test_resume.py::test_kill_storm",
    "tests/faults/test_notebooks.py",
    "tests/faults/test_distributed.py",
    "tests/workbook/test_parallel.py",
    "tests/system/test_distributed.py",
    "tests/notebooks/test_jupyterlab.py",
    "tests/reporting/test_chapter.py",
    "tests/training/test_supcontrast_import.py",
)


# Their tests share what takes minutes to make, so one worker of `--dist loadgroup` takes them all.
ONE_WORKER = (
    "tests/slurm/test_cluster.py",
    "tests/reporting/test_chapter.py",
    "tests/notebooks/test_jupyterlab.py",
    "tests/system/test_distributed.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if (file := item.nodeid.split("::")[0]) in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(file))
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))  # stable


def write_classes(folder: Path, images: int = 20) -> None:
    """Write the first digits 0, 1 and 2 as class folders of PNG."""
    digits = load_digits()
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:images]):
            image = Image.fromarray((pixels * 255 / 16).astype(np.uint8))
            image.save(folder / name / f"{number:03d}.png")


def write_workbook(root: Path) -> None:
    """Make the data set data/tiny in a folder."""
    write_classes(root / "classes")
    split_dataset(root / "classes", root / "data" / "tiny")


@pytest.fixture
def workbook(tmp_path, monkeypatch) -> Path:
    """An empty workbook root with the split data set data/tiny; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_workbook(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_config() -> RunConfig:
    return RunConfig(**TINY)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    """``trained/`` and ``probed/``: the folder ``runs`` after each stage of a run."""
    root = tmp_path_factory.mktemp("made_once")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_workbook(root)
        run = pretrain(RunConfig(**TINY))
        shutil.copytree("runs", "trained")
        probe_checkpoints(run)
        shutil.copytree("runs", "probed")
    return root


@pytest.fixture
def trained(workbook, tiny_config, made_once):
    """A run that is trained to its end."""
    shutil.copytree(made_once / "trained", "runs")
    return RunDirectory(tiny_config)


@pytest.fixture
def probed(workbook, tiny_config, made_once):
    """A run that is trained and probed."""
    shutil.copytree(made_once / "probed", "runs")
    return RunDirectory(tiny_config)
