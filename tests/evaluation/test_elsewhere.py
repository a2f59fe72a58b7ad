"""A finished run on another labelled data set: matched classes, and what is left out."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tests.conftest import CLASSES
from thesis_lib.cli.command_line import main
from thesis_lib.evaluation import final_test
from thesis_lib.reporting import results_of_runs, verify, write_table
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json, write_json


@pytest.fixture
def other(probed):
    """A data set with two known classes, an unknown one, and three images of the run's train."""
    root = Path("data/other[2]")
    for label, name in enumerate((CLASSES[0], CLASSES[2], "new species")):
        for split in ("train", "test"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number, file in enumerate(sorted(Path("data/tiny/test").glob("*/*"))):
                if number % 3 == label:
                    shutil.copy(file, folder / f"{split}-{file.parent.name}-{file.name}")
    for file in sorted((Path("data/tiny/train") / CLASSES[0]).iterdir())[:3]:
        shutil.copy(file, root / "train" / CLASSES[0])
    return root


def test_a_run_is_judged_on_another_data_set(probed, other, capsys):
    final_test(probed)
    before = {p: p.read_bytes() for p in probed.path.glob("*.*") if p.is_file()}
    assert main(["test", probed.path.name, "--data", str(other)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    found = read_json(probed.elsewhere / "other[2].json")
    predictions = pd.read_csv(probed.elsewhere / "other[2].csv")
    test = sorted(Path("data/tiny/test").glob("*/*"))
    known = 2 * sum(number % 3 < 2 for number in range(len(test)))
    assert found["n"] == len(predictions) == known and found["classes"] == 2
    assert found["unknown_classes"] == {"new species": 2 * len(test) - known}
    assert found["seen_before"] == 3 and found["skipped_images"] == 0
    true, predicted = predictions["true"], predictions["predicted"]
    assert found["accuracy"] == accuracy_score(true, predicted)
    expected = f1_score(true, predicted, labels=[CLASSES[0], CLASSES[2]], average="macro")
    assert found["f1"] == pytest.approx(expected)
    assert f"on {known} images of 2 classes" in said
    assert f"left out, of unknown classes: {2 * len(test) - known} (new species)" in said
    assert "left out, as the run was trained on them: 3" in said
    # by the same network as in the final test: the pictures are those of data/tiny/test
    own = pd.read_csv(probed.predictions_file).set_index("path")["predicted"]
    for row in predictions.itertuples():
        _, folder, name = row.path.rsplit("/", 1)[1].split("-")
        assert row.predicted == own[f"test/{folder}/{name}"]
    # no choice reads it, and nothing else has changed
    assert {p: p.read_bytes() for p in before} == before and is_done(probed, "test")

    results = results_of_runs(probed.config)
    table = write_table("elsewhere", results)
    assert table["data set"].tolist() == ["other[2]"] and table["images"].tolist() == [known]
    assert table["of unknown classes"].tolist() == [found["unknown_classes"]["new species"]]
    assert not [fault for fault in verify(results.folder).differ if "elsewhere" in fault]
    write_json(probed.elsewhere / "other[2].json", found | {"selection": "of an earlier choice"})
    assert write_table("elsewhere", results).empty


def test_what_cannot_be_judged_is_one_line(probed, other, capsys):
    run = probed.path.name
    assert main(["test", run, "--data", "data/nothing"]) == 2
    assert "there is no data folder data/nothing" in capsys.readouterr().err
    for name in (CLASSES[0], CLASSES[2]):
        for split in ("train", "test"):
            (other / split / name).rename(other / split / f"{name} of another name")
    assert main(["test", run, "--data", str(other)]) == 2
    error = capsys.readouterr().err
    assert "has no image to test" in error and "of 3 classes that it does not know" in error
    assert not probed.elsewhere.exists()
    probed.selection_file.unlink()
    assert main(["test", run, "--data", str(other)]) == 2
    assert "was not probed" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["data/tiny", "moved/tiny"])
def test_its_own_data_set_is_the_final_test(probed, capsys, folder):
    if folder != "data/tiny":
        Path(folder).parent.mkdir()
        Path("data/tiny").rename(folder)
    assert main(["test", probed.path.name, "--data", folder]) == 0
    assert "test accuracy" in capsys.readouterr().out and not probed.elsewhere.exists()


def test_without_the_training_images_it_says_that_they_are_not_left_out(probed, other, capsys):
    Path("data/tiny").rename("data/moved")
    assert main(["test", str(probed.path), "--data", str(other)]) == 0
    assert "tiny is gone, so images that the run was trained on" in capsys.readouterr().out
    assert read_json(probed.elsewhere / "other[2].json")["seen_before"] == 0
