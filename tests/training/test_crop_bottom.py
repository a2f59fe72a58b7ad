"""A legend that tells the class: the network learns it, unless its rows are cut off."""

import json

import numpy as np
import pytest
from PIL import Image

from thesis_lib.cli.command_line import main
from thesis_lib.config import IDENTITY, PRETRAIN, RunConfig
from thesis_lib.data.datasets import open_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.runs import stages
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain

ROWS = 4
SETTINGS = {
    "data": "data/d",
    "backbone": "lenet5",
    "batch_size": 32,
    "image_size": 32,
    "epochs": 10,
    "learning_rate": 0.01,
    "save_every": 10,
    "head_epochs": 20,
    "head_views": 0,
}


@pytest.fixture
def noise_with_bars(tmp_path, monkeypatch):
    """Two classes of the same noise, with a black bar below it in one class, white in the other."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, color in (("black", 0), ("white", 255)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(80):
            pixels = random.integers(100, 200, (24 + ROWS, 24), dtype=np.uint8)
            pixels[-ROWS:] = color
            Image.fromarray(pixels).save(tmp_path / "classes" / name / f"{i}.png")
    return tmp_path


def accuracy(config):
    run = pretrain(config)
    probe_checkpoints(run)
    return read_json(run.selection_file)["val_accuracy"]


def test_a_planted_bar_loses_its_effect(noise_with_bars, capsys):
    assert main(["split", "classes", "data/d"]) == 0
    config = RunConfig.from_dict(SETTINGS | {"fit": "pad"})  # the center crop cuts half of it off
    assert accuracy(config) > 0.9
    assert accuracy(config.updated(crop_bottom=ROWS, tag="setting")) < 0.75
    assert main(["split", "classes", "data/cut", "--crop-bottom", str(ROWS)]) == 0
    assert f"the bottom {ROWS} rows of each image will be cut off" in capsys.readouterr().out
    assert accuracy(config.updated(data="data/cut")) < 0.75


def test_a_run_is_not_continued_on_images_that_are_cut_otherwise(noise_with_bars):
    assert main(["split", "classes", "data/d", "--crop-bottom", str(ROWS)]) == 0
    description = read_json(noise_with_bars / "data" / "d" / "dataset.json")
    assert description["crop_bottom"] == ROWS and description["recipe"] == "linear-head"
    run = pretrain(RunConfig.from_dict(SETTINGS | {"epochs": 1}))
    (noise_with_bars / "data" / "d" / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"data/d is not the data set that runs/d/lenet5-bs32"):
        probe_checkpoints(run)
    with pytest.raises(InputError, match="crop_bottom"):
        pretrain(run.config.updated(crop_bottom=0))
    assert open_dataset("data/d").crop_bottom == 0


def test_a_run_of_an_earlier_version_keeps_its_center_crop(noise_with_bars):
    """Its files know neither setting; its stages stay done, and its command continues it."""
    assert main(["split", "classes", "data/d"]) == 0
    cropped = RunConfig.from_dict(SETTINGS | {"epochs": 1, "fit": "crop"})
    run = pretrain(cropped)
    probe_checkpoints(run)
    stored = read_json(run.config_file)
    del stored["fit"], stored["crop_bottom"]
    run.config_file.write_text(json.dumps(stored))
    for path in run.checkpoints.glob("*.pth"):
        checkpoints.save(path, checkpoints.load(path) | {"config": stored})
    earlier = RunDirectory.open(run.path)
    assert earlier.config.fit == "crop" and earlier.config.crop_bottom is None
    hashed = stages._settings(earlier, IDENTITY, PRETRAIN)
    assert not {"fit", "crop_bottom"} & set(hashed)  # as by an earlier version
    assert all(stages.is_done(earlier, stage) for stage in ("pretrain", "probe"))
    assert pretrain(cropped).path == run.path
    with pytest.raises(InputError, match='fit = "crop"'):
        pretrain(cropped.updated(fit="pad"))


def test_rows_must_be_a_number(noise_with_bars, capsys):
    assert main(["split", "classes", "data/d", "--crop-bottom", "-1"]) == 2
    assert "crop_bottom must be 0 or more rows, not -1" in capsys.readouterr().err
    assert not (noise_with_bars / "data").exists()
