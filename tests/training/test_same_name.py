"""A data set is its fingerprint: two of the same folder name do not overwrite each other."""

import shutil

import pytest

from tests.conftest import TINY, write_classes
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.reporting import results_of_data
from thesis_lib.training.pretraining import pretrain


@pytest.fixture
def sites(tmp_path, monkeypatch):
    """Two sites with a data set called images each, and a run on that of site A."""
    monkeypatch.chdir(tmp_path)
    for site, images in (("siteA", 20), ("siteB", 24)):
        write_classes(tmp_path / f"classes {site}", images)
        split_dataset(tmp_path / f"classes {site}", tmp_path / site / "images")
    config = RunConfig(**TINY | {"data": "siteA/images", "epochs": 1})
    results_of_data(config).statistics  # noqa: B018
    return pretrain(config)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_data_set_under_a_name_with_runs_is_refused_and_nothing_is_written(sites, capsys):
    config = sites.config.updated(data="siteB/images", tag="other")
    before = contents(sites.path.parents[1])
    words = r"siteB/images is not the data set that runs/images/lenet5-bs8-seed42 was trained on"
    with pytest.raises(InputError, match=words):
        pretrain(config)
    with pytest.raises(InputError, match=words):
        results_of_data(config).statistics  # noqa: B018
    with pytest.raises(InputError, match="siteB/images is not the data set"):  # though it is done
        pretrain(sites.config.updated(data="siteB/images"))
    settings = ["--backbone", "lenet5", "--image-size", "32", "--batch-size", "8"]
    assert main(["run", "--data", "siteB/images", "--tag", "other", *settings]) == 2
    error = capsys.readouterr().err
    assert "rename the folder" in error and error.count("\n") == 1
    assert contents(sites.path.parents[1]) == before


def test_the_same_data_set_may_be_moved(sites, tmp_path):
    shutil.move(tmp_path / "siteA" / "images", tmp_path / "moved" / "images")
    config = sites.config.updated(data="moved/images")
    assert pretrain(config).path == sites.path
    assert len(results_of_data(config).statistics.images) == 60
    pretrain(config.updated(tag="second"))


def test_a_renamed_folder_has_its_own_results(sites, tmp_path):
    (tmp_path / "siteB" / "images").rename(tmp_path / "siteB" / "images-B")
    other = pretrain(sites.config.updated(data="siteB/images-B"))
    assert other.path.parent.name == "images-B" and sites.path.is_dir()
    probe_checkpoints(sites)
