"""The test set is read only after the selection; tests of earlier selections are recorded."""

import os

import pytest

from thesis_lib.data import datasets
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import read_pixels
from thesis_lib.data.statistics import data_statistics
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.tables import runs as tables
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.training.pretraining import pretrain


@pytest.fixture
def splits_read(monkeypatch) -> set[str]:
    """The splits of the data set whose pixels have been read."""
    splits = set()

    def note(path, crop_bottom):
        splits.add(path.parts[-3])
        return read_pixels(path, crop_bottom)

    monkeypatch.setattr(datasets, "read_pixels", note)
    return splits


def test_test_images_are_read_after_the_choice_alone(workbook, tiny_config, splits_read, faults):
    """Except by notebook 01, which measures sizes and finds unreadable images in all splits."""
    data_statistics(open_dataset("data/tiny"))
    run = pretrain(tiny_config)
    with pytest.raises(InputError, match=r"has no selection\.json"):
        final_test(run)
    probe_checkpoints(run)
    assert splits_read == {"train", "val"}
    final_test(run)  # control: reading the test images is noticed
    assert splits_read == {"train", "val", "test"}
    faults("the test set asked for before a choice", 1, 1)


def choose_again(run: RunDirectory, **settings) -> RunDirectory:
    again = RunDirectory(run.config.updated(**settings))
    probe_checkpoints(again)
    return again


def test_second_choice_is_in_the_history_and_the_table(workbook, tiny_config, faults):
    run = pretrain(tiny_config)
    probe_checkpoints(run)
    first = final_test(run)
    assert first["history"] == []
    assert tables.test_table([run])["choices tested"].tolist() == [1]
    again = choose_again(run, head_epochs=5)
    assert not is_done(again, "test") and tables.test_table([again]).empty
    second = final_test(again)
    (entry,) = second["history"]
    assert entry["selection"] == first["selection"] != second["selection"]
    assert entry["accuracy"] == first["accuracy"] and entry["n"] == first["n"]
    third = choose_again(again, head_epochs=7)
    history = final_test(third)["history"]
    assert [entry["selection"] for entry in history] == [first["selection"], second["selection"]]
    assert tables.test_table([third])["choices tested"].tolist() == [3]
    faults("another choice tested after the first", 2, 2)


def test_history_outlives_a_kill_between_choice_and_test(workbook, tiny_config, monkeypatch):
    run = pretrain(tiny_config)
    probe_checkpoints(run)
    first = final_test(run)
    again = choose_again(run, head_epochs=5)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("thesis_lib.evaluation.testing.classification_metrics", die)
        final_test(again)
    again = choose_again(again, head_epochs=6)
    assert [e["selection"] for e in final_test(again)["history"]] == [first["selection"]]


def test_control_without_the_superseded_file_the_first_look_is_forgotten(
    workbook, tiny_config, monkeypatch
):
    run = pretrain(tiny_config)
    probe_checkpoints(run)
    final_test(run)
    monkeypatch.setattr(os, "replace", forgetting(run.test_file, os.replace))
    again = choose_again(run, head_epochs=5)
    assert final_test(again)["history"] == []


def forgetting(file, replace):
    """Return an ``os.replace`` that deletes this file instead of renaming it."""
    return lambda old, new: os.unlink(old) if old == file else replace(old, new)


def test_the_same_choice_again_is_no_second_look(workbook, tiny_config):
    run = pretrain(tiny_config)
    probe_checkpoints(run)
    final_test(run)
    run.predictions_file.unlink()
    assert final_test(run)["history"] == []
    assert "history" in read_json(run.test_file)
