"""The `thesis` command: help, options, stages without notebooks, and one-line errors."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from thesis_lib.cli.command_line import main
from thesis_lib.cli.options import Parser, add_settings, given_settings
from thesis_lib.config import IDENTITY, MACHINE, PRETRAIN, PROBE, RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.training.pretraining import pretrain
from thesis_lib.workbook.parameters import as_options


def thesis(*arguments, cwd):
    command = [sys.executable, "-m", "thesis_lib", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def assert_one_line(done, *words):
    assert done.returncode not in (0, None)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert lines[0].startswith("thesis")
    for word in words:
        assert word in lines[0], lines[0]


def test_thesis_alone_prints_the_help_and_version_the_version(capsys):
    assert main([]) == 0
    assert "thesis [-h] [--version] COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"thesis-workbook \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "split", "run", "status", "pretrain", "probe"))


def test_every_setting_is_an_option_of_run(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--head-learning-rates X [X ...]" in out and "--no-small-images" in out
    assert "--backbone NAME [NAME ...]" in out and "(default 0.016)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["invalid choice: 'rum'"]),
        (["split", "a", "b", "--seed", "many"], ["--seed", "'many'"]),
    ],
)
def test_mistyped_command_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "data/nowhere"], ["no data folder data/nowhere"]),
        (["--batch-size", "0"], ["batch_size must be at least 2", "not 0"]),
        (["--batch-size", "1000"], ["batch_size 1000 is larger than the data set"]),
        (["--backbone", "resnet5O"], ["resnet5O", "nearest", "resnet50"]),
        (["--backbone", "lenet5", "--image-size", "16"], ["too small", "32 px"]),
        (["--learning-rate", "-1"], ["learning_rate must be a number above 0"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "pretrain"])
def test_bad_value_is_one_line_and_writes_nothing(workbook, capsys, command, options, words):
    given = ["--data", "data/tiny", "--epochs", "1", "--image-size", "32", *options]
    assert main([command, *given]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error
    assert not (workbook / "runs").exists()


def folder_without_train(data):
    (data / "train").rename(data.parent / "elsewhere")


def empty_class(data):
    (data / "train" / "zz_empty").mkdir()


def unknown_class_in_val(data):
    (data / "val" / "zz_new").mkdir()
    Image.new("RGB", (8, 8)).save(data / "val" / "zz_new" / "a.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (folder_without_train, ["data/tiny has no train/ folder"]),
        (empty_class, ["classes with no images: 'zz_empty'"]),
        (unknown_class_in_val, ["has a class 'zz_new' that is missing in", "tiny/train"]),
    ],
)
def test_spoilt_data_set_is_one_line(workbook, capsys, spoil, words):
    spoil(workbook / "data" / "tiny")
    assert main(["run", "--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error
    assert not (workbook / "runs").exists()


def test_truncated_image_is_one_line_on_the_real_command_line(workbook):
    image = next((workbook / "data" / "tiny" / "train").glob("*/*.png"))
    image.write_bytes(image.read_bytes()[:50])
    options = ["--backbone", "lenet5", "--batch-size", 8, "--image-size", 32, "--epochs", 1]
    done = thesis("pretrain", "--data", "data/tiny", *options, cwd=workbook)
    assert_one_line(done, "cannot read the image", image.name)
    assert not (workbook / "runs" / "tiny" / "lenet5-bs8-seed42").exists()


def test_stages_without_notebooks(workbook, capsys):
    options = ["--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]
    more = ["--image-size", "32", "--epochs", "3", "--save-every", "1", "--head-epochs", "5"]
    assert main(["pretrain", *options, *more]) == 0
    assert main(["probe", *options]) == 0
    assert main(["test", "lenet5-bs8-seed42"]) == 0
    out = capsys.readouterr().out
    assert "trained for 3 epochs" in out and "chosen checkpoint" in out and "test accuracy" in out
    assert main(["status"]) == 0
    assert capsys.readouterr().out.count("done 0:00:0") == 3
    assert main(["test", "lenet5-bs9-seed42"]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_split_says_what_it_did(workbook, capsys):
    source, destination = workbook / "classes", workbook / "data" / "again"
    (source / "small").mkdir()
    (source / "small" / "one.png").write_bytes(b"")
    assert main(["split", str(source), str(destination), "--min-images", "4"]) == 0
    out = capsys.readouterr().out
    assert "left out: 'small' (1 image, fewer than 4)" in out
    assert "train: 42 images of 3 classes" in out
    assert main(["split", str(source), str(destination)]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_status_without_runs_says_how_to_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "thesis demo" in capsys.readouterr().out


def test_status_goes_on_past_a_copied_run(trained, capsys):
    shutil.copytree(trained.path, trained.path.with_name("backup"))
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "lenet5-bs8-seed42  done" in out and "unreadable: " in out and "rename the folder" in out


def test_full_disk_or_forbidden_folder_is_one_line(workbook, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "runs/tiny/x")

    monkeypatch.setattr("thesis_lib.training.pretraining.pretrain", full)
    options = ["--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]
    assert main(["pretrain", *options]) == 1
    error = capsys.readouterr().err
    assert error.strip() == "thesis: error: No space left on device (runs/tiny/x)"


def test_short_memory_is_one_line(workbook, capsys, monkeypatch):
    def starve(*_):
        raise MemoryError

    monkeypatch.setattr("thesis_lib.data.statistics.read_pixels", starve)
    options = ["--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]
    assert main(["pretrain", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("thesis: error: out of memory while") and "\n" not in error
    monkeypatch.setattr("thesis_lib.training.pretraining.pretrain", starve)
    assert main(["pretrain", *options]) == 1
    assert capsys.readouterr().err.startswith("thesis: error: out of memory; close other programs")


def test_name_of_two_runs_is_not_taken_for_one_of_them(trained, capsys):
    other = trained.config.updated(data="data/other")
    split_dataset(Path("classes"), Path("data/other"))
    pretrain(other)
    assert main(["probe", "lenet5-bs8-seed42"]) == 2
    error = capsys.readouterr().err
    assert "several runs" in error and "runs/other/lenet5-bs8-seed42, runs/tiny/" in error
    assert main(["probe", "runs/other/lenet5-bs8-seed42"]) == 0


def test_status_takes_the_data_sets_path_too(trained, capsys):
    for data in ("tiny", "data/tiny", "data/tiny/"):
        assert main(["status", "--data", data]) == 0
        assert "lenet5-bs8-seed42" in capsys.readouterr().out


def manifests(workbook, **rows):
    """A CSV file for each part: rows of (class, file)."""
    paths = []
    for part, images in rows.items():
        path = workbook / f"{part}.csv"
        lines = ["folder,filename", *(f"{name},{file}" for name, file in images)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        paths.append(str(path))
    return paths


def test_published_split_is_rebuilt_and_what_is_missing_is_listed(workbook, capsys):
    zero, one = "001_zero with blank", "002_one.dot"
    files = manifests(
        workbook,
        train=[(zero, "000.png"), (zero, "001.png"), (one, "000.png")],
        val=[(zero, "002.png"), (one, "900.png")],
        test=[(zero, "000.png"), (one, "002.png")],
    )
    command = ["split", "classes", "data/published", "--manifest", *files]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "1 of 7 listed images are missing" in error
    assert f"val: {one}/900.png (val.csv)" in error and "--allow-missing" in error
    assert not (workbook / "data" / "published").exists()
    assert main([*command, "--allow-missing"]) == 0
    out = capsys.readouterr().out
    assert f"missing, left out: val: {one}/900.png" in out
    assert f"in two splits, as published: {zero}/000.png (train, test)" in out
    assert "no manifest lists" in out and "train: 3 images of 2 classes" in out
    rebuilt = sorted(p.name for p in (workbook / "data" / "published" / "val").rglob("*.png"))
    assert rebuilt == ["002.png"]


@pytest.mark.parametrize(
    "options", [["--recipe", "cosine"], ["--seed", "1"], ["--min-images", "3"], ["--exclude", "x"]]
)
def test_manifest_goes_with_no_recipe(workbook, capsys, options):
    files = manifests(workbook, train=[("002_one.dot", "000.png")], test=[])
    assert main(["split", "classes", "data/b", "--manifest", *files, *options]) == 2
    error = capsys.readouterr().err
    assert f"{options[0]} cannot be used with --manifest" in error


def test_options_of_a_config_ask_for_it_again(workbook):
    config = RunConfig(
        data="data/with blank",
        small_images=False,
        mean=(0.1, 0.2, 0.3),
        method="simclr",
        head_learning_rates=(0.25, 2.5),
        tag="x",
        warmup_epochs=0,
    )
    parser = Parser()
    add_settings(parser, (IDENTITY, PRETRAIN, PROBE, MACHINE))
    words = shlex.split(" ".join(as_options(config)))
    assert RunConfig.from_dict(given_settings(parser.parse_known_args(words)[0])) == config


def test_letters_that_the_terminal_cannot_show_are_replaced(tmp_path):
    for number in range(5):
        (tmp_path / "in" / "larve ó").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "in" / "larve ó" / f"{number}.png")
    command = [sys.executable, "-m", "thesis_lib", "split", "in", "óut"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"?ut/train: 3 images of 1 classes" in done.stdout.replace(b"\\", b"/")
