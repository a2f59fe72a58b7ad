import contextlib
import csv
import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.neighbors import NearestNeighbors

from tests.conftest import CLASSES, TINY, write_classes
from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.framing import Frame
from thesis_lib.data.images import read_pixels
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.prediction import new_images
from thesis_lib.prediction import predictions as module
from thesis_lib.prediction.export import export_run
from thesis_lib.prediction.finished_model import (
    TABLE_NAME,
    VALIDATION_NAME,
    load_exported_model,
    load_run_model,
)
from thesis_lib.prediction.new_images import find_images
from thesis_lib.prediction.predictions import (
    IMAGES_PER_BATCH,
    UNCLASSIFIED,
    UNKNOWN,
    choose_limits,
    predict_images,
    ranked,
    write_predictions,
)
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.system.files import read_json
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain

NEIGHBOUR = ["nearest_image", "nearest_class", "similarity"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tested run, and an export of it outside the workbook."""
    root = tmp_path_factory.mktemp("workbook")
    with contextlib.chdir(root):
        write_classes(root / "classes")
        split_dataset(root / "classes", root / "data" / "tiny", crop_bottom=2)
        manifest = pd.read_csv("data/tiny/manifest.csv")  # as of an export of EcoTaxa
        manifest["object_annotation_category"] = manifest["class"].map({CLASSES[2]: "δύο<other"})
        manifest.to_csv("data/tiny/manifest.csv", index=False)
        learned = {"epochs": 60, "batch_size": 16, "learning_rate": 0.02, "fit": "pad"}
        run = pretrain(RunConfig(**TINY).updated(save_every=60, head_views=0, **learned))
        probe_checkpoints(run)
        final_test(run)
        export_run(run, root / "model")
    return SimpleNamespace(root=root, run=run, export=root / "model")


@pytest.fixture
def here(made, monkeypatch):
    """The workbook of the run, as the working directory."""
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def alone(here, tmp_path, monkeypatch):
    """A folder with two new images and the export, as the working directory."""
    shutil.copytree(here.export, tmp_path / "model")
    (tmp_path / "new" / "δείγμα 1").mkdir(parents=True)
    for number in range(2):
        draw(tmp_path / "new" / "δείγμα 1" / f"{number}.png", number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path, seed, size=(9, 14)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def read(path):
    return pd.read_csv(path, dtype={"predicted": str}, keep_default_na=False)


def views_of(paths, described):
    """Prepare images as the model's input, following its config.json."""
    frame = Frame(described["pretrained_cfg"]["input_size"][-1], described["fit"])
    pixels = [read_pixels(Path(path))[: -described["crop_bottom"]] for path in paths]
    views = np.stack([frame.evaluation_view(image) for image in pixels])
    described = described["pretrained_cfg"]
    scaled = torch.from_numpy(views).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(described[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (scaled - mean) / std


def test_a_run_and_its_export_keep_the_categories_of_ecotaxa(here):
    assert load_run_model(here.run).categories == {CLASSES[2]: "δύο<other"}
    assert load_exported_model(here.export, {}).categories == {CLASSES[2]: "δύο<other"}


def test_predictions_match_the_final_test(here, capsys):
    assert main(["predict", here.run.path.name, "data/tiny/test", "--output", "out/a.csv"]) == 0
    found = read("out/a.csv")
    tested = read_predictions(here.run)
    assert found["path"].tolist() == [f"data/tiny/{path}" for path in tested["path"]]
    assert found["predicted"].tolist() == tested["predicted"].tolist()
    assert set(found["predicted"]) <= {"001_zero with blank", "002_one.dot", "003_δύο"}
    assert not found["problem"].any()
    assert "out/a.csv: 9 images; all could be read" in capsys.readouterr().out.splitlines()[-1]
    # the final test's confidence is not calibrated
    model = dataclasses.replace(load_run_model(here.run), temperature=1.0)
    for one, (_, row) in zip(predict_images(model, found["path"]), tested.iterrows(), strict=True):
        expected = row[list(one.classes)].astype(float)
        assert np.abs(np.array(one.confidences) - expected).max() < 1e-4


def test_confidence_is_calibrated_and_classes_are_ranked(here):
    """Compare with the exported ONNX model, with the softmax computed by SciPy."""
    assert main(["predict", "model", "data/tiny/test", "--output", "ranked.csv"]) == 0
    found = read("ranked.csv")
    described = read_json(here.export / "config.json")
    images = views_of(found["path"], described)
    session = onnxruntime.InferenceSession(here.export / "model.onnx")
    (logits,) = session.run(None, {"images": images.numpy()})
    temperature = read_json(here.run.selection_file)["temperature"]
    expected = softmax(logits / temperature, axis=1)
    order = np.argsort(-expected, axis=1)
    names = np.array(described["label_names"])[order]
    for rank, (name, confidence) in enumerate(ranked(3)):
        assert found[name].tolist() == names[:, rank].tolist()
        share = np.take_along_axis(expected, order, 1)[:, rank]
        assert np.abs(found[confidence] - share).max() < 1e-4


def test_five_classes_are_listed_or_all_if_there_are_fewer():
    assert ranked(2) == [("predicted", "confidence"), ("predicted_2", "confidence_2")]
    assert [name for name, _ in ranked(87)] == [
        *("predicted", "predicted_2", "predicted_3", "predicted_4", "predicted_5"),
    ]


def test_nearest_image_is_the_nearest_of_the_table(here):
    """Compare with scikit-learn on the features of the selected checkpoint."""
    assert main(["predict", str(here.run.path), "data/tiny/test", "--output", "near.csv"]) == 0
    found = read("near.csv")
    stored = StoredTable.load(here.run.table_file)
    backbone, _ = checkpoints.load_backbone(
        checkpoints.checkpoint_path(here.run, stored.checkpoint)
    )
    described = read_json(here.export / "config.json")
    with torch.inference_mode():
        features = backbone(views_of(found["path"], described)).numpy()
    oracle = NearestNeighbors(metric="cosine").fit(stored.chosen.vectors)
    distance, rows = oracle.kneighbors(features, 1)
    assert found["nearest_image"].tolist() == [stored.chosen.files[row] for row in rows[:, 0]]
    assert np.abs(found["similarity"] - (1 - distance[:, 0])).max() < 1e-5
    folders = [Path(file).parent.name for file in found["nearest_image"]]
    assert found["nearest_class"].tolist() == folders
    assert all(Path("data/tiny", file).is_file() for file in found["nearest_image"])


def test_similarity_of_unknown_images_comes_from_the_validation_images(here):
    stored = StoredTable.load(here.run.table_file)
    images, model = find_images(["data/tiny/val"]), load_run_model(here.run)
    for share in (0.01, 0.3, 0.99):
        found = list(predict_images(model, images, choose_limits(model, share)))
        similarity = np.array([one.similarity for one in found])
        assert np.abs(np.sort(similarity) - stored.known_similarity).max() < 1e-5
        flagged = [one.rejected == UNKNOWN for one in found]
        assert [one.label == "" for one in found] == flagged
        assert sum(flagged) == int(share * len(images))
        assert max(similarity[flagged], default=-1) <= min(similarity[~np.array(flagged)])


def test_wanted_precision_is_reached_on_the_validation_images(here, tmp_path, capsys):
    """By run and by export; what is rejected has no label, and the confidence says why."""
    unlike = ["--false-positive-rate", "0.001"]
    for place in (here.run.path.name, str(here.export)):
        command = ["predict", place, "data/tiny/val", "--output", "x.csv", *unlike]
        for wanted in (0.5, 0.9, 1.0):
            assert main([*command, "--wanted-precision", str(wanted)]) == 0
            found = read("x.csv")
            true = found["path"].str.split("/").str[-2]
            kept = found["label"] != ""
            assert kept.any() and (found["label"] == true)[kept].mean() >= wanted
            assert set(found["rejected"][~kept]) <= {UNCLASSIFIED}
            rest = found["confidence"].astype(float)
            assert rest[~kept].max() < rest[kept].min() if (~kept).any() else True
            said = capsys.readouterr().out
            assert f"for a precision of {wanted:.1%}: {(~kept).sum()}\n" in said
    for bad in ("0", "1.5"):
        assert main([*command, "--wanted-precision", bad]) == 2
        assert "wanted precision must be above 0 and at most 1" in capsys.readouterr().err
    (here.export / VALIDATION_NAME).rename(tmp_path / VALIDATION_NAME)
    try:
        assert main([*command, "--wanted-precision", "0.9"]) == 2
        assert "confidences of the validation images are unknown" in capsys.readouterr().err
    finally:
        (tmp_path / VALIDATION_NAME).rename(here.export / VALIDATION_NAME)


def test_export_gives_the_runs_predictions_when_everything_else_is_gone(here, tmp_path):
    places = ["data/tiny/test", "data/tiny/val"]
    assert main(["predict", here.run.path.name, *places, "--output", "of_run.csv"]) == 0
    shutil.copytree(here.export, tmp_path / "model")
    shutil.copytree("data/tiny", tmp_path / "data" / "tiny")
    expected = read("of_run.csv")
    os.chdir(tmp_path)
    assert main(["predict", "model", *places, "--output", "of_export.csv"]) == 0
    found = read("of_export.csv")
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5)
    assert found["nearest_image"].all() and (found["label"] == found["predicted"]).any()


def test_workers_change_nothing(alone):
    (alone / "new" / "bad.jpg").write_text("no picture")
    for number in range(IMAGES_PER_BATCH):
        draw(alone / "new" / f"{number:03d}.jpg", number, (60, 40 + number))
    for workers in (0, 2):
        command = ["predict", "model", "new", "--output", f"{workers}.csv"]
        assert main([*command, "--workers", str(workers), "--device", "cpu"]) == 0
    assert Path("0.csv").read_bytes() == Path("2.csv").read_bytes()
    assert len(read("0.csv")) == IMAGES_PER_BATCH + 3


def bomb(path):
    """A PNG of a few bytes that claims to have 10^10 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def cut_short(path):
    draw(path, 0, (40, 40))
    path.write_bytes(path.read_bytes()[:-200])


def animation(path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


UNREADABLE = {
    "empty.png": (Path.touch, "empty"),
    "text.jpg": (
        lambda path: path.write_text("not a picture"),
        "not an image of a supported format",
    ),
    "bomb.png": (bomb, "exceeds limit"),
    "cut.jpg": (cut_short, "cut short"),
    "moving.gif": (animation, "2 frames"),
    "lost.png": (lambda path: path.symlink_to("nowhere.png"), "a link to 'nowhere.png'"),
    "low.png": (lambda path: draw(path, 1, size=(2, 9)), "crop_bottom = 2 cuts off all of them"),
    "new\nline.png": (lambda path: draw(path, 1), "control character"),
    os.fsdecode(b"latin-\xe9.png"): (lambda path: draw(path, 1), "not UTF-8"),
}


def test_unreadable_images_are_listed_with_the_reason(alone, capsys):
    for name, (spoil, _) in UNREADABLE.items():
        spoil(alone / "new" / name)
    (alone / "new" / "notes.txt").write_text("not an image by its name")
    assert main(["predict", "model", "new", "--output", "all.csv"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    count = len(UNREADABLE)
    assert last == (
        f"all.csv: {count + 2} images; {count} could not be read, listed in the column 'problem'"
    )
    with open("all.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(rows) == count + 2 and all("\n" not in path for path in rows)
    shown = {"new\nline.png": "new\\nline.png", "latin-\udce9.png": "latin-\\udce9.png"}
    for name, (_, reason) in UNREADABLE.items():
        row = rows.pop(f"new/{shown.get(name, name)}")
        assert reason in row.pop("problem") and set(row.values()) == {row["path"], ""}
    for row in rows.values():
        rejected = row.pop("rejected")
        assert row.pop("label") == ("" if rejected else row["predicted"])
        assert row.pop("problem") == "" and all(row.values())


def test_a_line_is_padded_but_cannot_be_cropped(tmp_path):
    line = str(tmp_path / "line.png")
    Image.new("L", (1, 100_000)).save(line)
    for fit, problem in (("pad", ""), ("crop", "too long and thin")):
        _, views, problems = new_images.NewImages([line], RunConfig(image_size=32, fit=fit))[[0]]
        assert problem in problems[0] and len(views) == (fit == "pad")


def test_a_batch_without_any_readable_image_is_listed_too(alone):
    for number in range(IMAGES_PER_BATCH + 1):
        (alone / f"{number:03d}.png").touch()
    assert main(["predict", "model", ".", "--output", "all.csv"]) == 0
    found = read("all.csv")
    assert (found["problem"] != "").sum() == IMAGES_PER_BATCH + 1 and len(found) > len(UNREADABLE)


def test_features_that_are_not_finite_are_a_problem_of_the_image(alone):
    model = load_exported_model(alone / "model", {})

    class Spoilt(torch.nn.Module):
        def forward(self, images):
            features = torch.ones(len(images), 84)
            features[0, 3] = torch.nan
            return features

    spoilt = dataclasses.replace(model.backbone, model=Spoilt())
    model = dataclasses.replace(model, backbone=spoilt)
    first, second = predict_images(model, find_images(["new"]))
    assert "not finite" in first.problem and first.classes == () and first.similarity is None
    assert second.problem == "" and len(second.classes) == 3 and second.nearest_image


def test_images_are_read_only_when_needed(alone, monkeypatch):
    for number in range(3 * IMAGES_PER_BATCH):
        draw(alone / "new" / f"{number:03d}.png", number)
    reads = []
    monkeypatch.setattr(
        new_images, "read_pixels", lambda path, cut: (reads.append(path), read_pixels(path, cut))[1]
    )
    found = predict_images(
        load_exported_model(alone / "model", {"workers": 0}), find_images(["new"])
    )
    assert not reads
    next(found)
    assert len(reads) == IMAGES_PER_BATCH
    assert len(list(found)) + 1 == len(reads) == 3 * IMAGES_PER_BATCH + 2


def test_rows_are_written_as_they_arrive_and_appear_at_the_end(alone):
    output, partial = alone / "out.csv", f".out.csv.{os.getpid()}.partial"
    output.write_text("before")

    def rows():
        for number in range(50_000):
            yield module.Prediction(f"{number}.png", "x" * 50)
        assert (alone / partial).stat().st_size > 2_000_000 and output.read_text() == "before"

    write_predictions(rows(), output, 3)
    assert len(read(output)) == 50_000


def test_failure_midway_keeps_the_earlier_file(alone, monkeypatch):
    output = alone / "out.csv"
    output.write_text("before")

    def fail(*_):
        raise InputError("no more")

    monkeypatch.setattr(module, "_classify", fail)
    assert main(["predict", "model", "new", "--output", "out.csv"]) == 2
    assert output.read_text() == "before" and not list(alone.glob(".*partial*"))


# --- finding images


@pytest.fixture
def scattered(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/b/2.JPG", "a/b/3.txt", "a/.hidden/4.png", "a/.5.png", "c/6.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "[7].png").touch()
    (tmp_path / "c" / "same.png").symlink_to("6.tif")
    (tmp_path / "a" / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["a"], ["a/1.png", "a/b/2.JPG"]),
        (["a/"], ["a/1.png", "a/b/2.JPG"]),
        (["a/b/3.txt"], ["a/b/3.txt"]),  # named explicitly: used as it is
        (["a/b/2.JPG", "a"], ["a/b/2.JPG", "a/1.png"]),  # each once, in the order of the places
        (["*/*.png"], ["a/1.png", "c/[7].png", "c/same.png"]),
        (["**/*.JPG"], ["a/b/2.JPG"]),
        (["**"], ["a/1.png", "a/b/2.JPG", "c/6.tif", "c/[7].png"]),
        (["?"], ["a/1.png", "a/b/2.JPG", "c/6.tif", "c/[7].png"]),  # folders, searched
        (["c/[7].png"], ["c/[7].png"]),
        (["c/[6-9].tif"], ["c/6.tif"]),
        (["c/same.png", "c"], ["c/same.png", "c/[7].png"]),
        (["./a/../c/6.tif", "c/6.tif"], ["./a/../c/6.tif"]),
    ],
)
def test_images_are_found(scattered, places, expected):
    assert find_images(places) == expected


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["b"], ["there is no file or folder 'b'"]),
        (["a", "a/1.pgn"], ["no file or folder 'a/1.pgn'; nearest: 1.png"]),
        (["aa/b/2.JPG"], ["'aa/b/2.JPG'; nearest: a"]),
        (["a/*.bmp"], ["no image matches the pattern 'a/*.bmp'"]),
        (["**/*.txt"], ["no image matches"]),
        (["a/1.png/x"], ["no file or folder 'a/1.png/x'"]),
        ([""], ["no file or folder ''"]),
        (["a/.hidden", "/dev/null"], ["/dev/null is neither a file nor a folder"]),
        (["a/folder.png"], ["found no image in a/folder.png", ".tiff"]),
    ],
)
def test_place_without_images_is_one_clear_line(scattered, places, words, capsys):
    assert (
        main(["predict", "no run, but that is not checked yet", *places, "--output", "x.csv"]) == 2
    )
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error
    assert not Path("x.csv").exists()


# --- the command line


def one_line(capsys, *words):
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "5", "nan"])
def test_false_positive_rate_must_be_a_share(alone, capsys, share):
    assert (
        main(["predict", "model", "new", "--output", "x.csv", "--false-positive-rate", share]) == 2
    )
    one_line(capsys, "the false positive rate must be between 0 and 1")
    assert not Path("x.csv").exists()


def test_higher_false_positive_rate_flags_more_images(here, capsys):
    flagged = []
    for share in ("0.01", "0.5", "0.99"):
        command = ["predict", "model", "data/tiny/val", "--output", "x.csv"]
        assert main([*command, "--false-positive-rate", share]) == 0
        flagged.append((read("x.csv")["rejected"] == UNKNOWN).sum())
        assert f"unlike all training images: {flagged[-1]} (" in capsys.readouterr().out
    assert flagged == [0, 4, 8]


def test_places_that_cannot_be_written_are_refused(alone, capsys):
    image = next((alone / "new").rglob("*.png"))
    content = image.read_bytes()
    (alone / "link.csv").symlink_to(image)
    (alone / "a file").touch()
    for output, words in (
        ("new", "new is a folder"),
        (str(image), "is one of the images"),
        ("link.csv", "is one of the images"),
        ("a file/below/x.csv", "a file is a file, not a folder"),
    ):
        assert main(["predict", "model", "new", "--output", output]) == 2
        one_line(capsys, words)
    assert image.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model", "new"], ["--output"]),
        (["model", "--output", "x.csv"], ["images"]),
        (["model", "new", "--output", "x", "--format", "tsv"], ["'tsv'", "ecotaxa"]),
        (["model", "new", "--outptu", "x"], ["--output"]),
        (
            ["model", "new", "--output", "x", "--false-positive-rat", "1"],
            ["nearest: --false-positive-rate"],
        ),
    ],
)
def test_mistyped_options_are_one_line(alone, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    assert ended.value.code == 2
    one_line(capsys, *words)


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("modle", [], ["modle is not a run"]),
        ("new", [], ["new is not a run"]),
        ("model", ["--device", "cdua"], ["device", "'cdua'", "cuda"]),
        ("model", ["--workers", "-1"], ["workers", "-1"]),
    ],
)
def test_bad_run_or_setting_is_one_line(alone, capsys, run, options, words):
    assert main(["predict", run, "new", "--output", "x.csv", *options]) == 2
    one_line(capsys, *words)
    assert not Path("x.csv").exists()


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom thesis_lib.cli.command_line import main\n"
        "try:\n    main(['predict', '--help'])\n"
        "finally:\n    assert not {'torch', 'pandas', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--false-positive-rate" in done.stdout, done.stderr


# --- incomplete runs and exports


def test_run_that_was_not_probed_says_so(trained, capsys):
    command = ["predict", trained.path.name, "data/tiny/test", "--output", "x.csv"]
    assert main(command) == 2
    one_line(capsys, "was not probed", "thesis probe lenet5-bs8-seed42")


def test_first_use_makes_the_table_and_without_data_there_is_none(workbook, tiny_config, capsys):
    run = pretrain(tiny_config.updated(epochs=2, head_epochs=5, head_views=0))
    probe_checkpoints(run)
    shutil.copytree("data/tiny/val", "new")
    Path("data/tiny").rename("data/elsewhere")
    assert main(["predict", run.path.name, "new", "--output", "without.csv"]) == 0
    out = capsys.readouterr().out
    assert "similarity stay empty, and no image is called unknown: there is no data folder" in out
    assert "look unlike" not in out.splitlines()[-1]
    without = read("without.csv")
    assert (without[NEIGHBOUR] == "").all(axis=None) and without["confidence"].min() > 0.3

    assert main(["export", run.path.name]) == 0
    assert "exporting without a look-up table: there is no data folder" in capsys.readouterr().out
    assert not (run.path / "export" / TABLE_NAME).exists()
    assert main(["predict", str(run.path / "export"), "new", "--output", "export.csv"]) == 0
    assert "stay empty" in capsys.readouterr().out
    pd.testing.assert_frame_equal(read("export.csv"), without, rtol=0, atol=1e-5)

    Path("data/elsewhere").rename("data/tiny")
    assert main(["predict", run.path.name, "new", "--output", "with.csv"]) == 0
    assert run.table_file.is_file()
    assert (read("with.csv")[NEIGHBOUR] != "").all(axis=None)

    # the table of another selection is not used
    assert main(["probe", run.path.name, "--head-epochs", "6"]) == 0
    Path("data/tiny").rename("data/elsewhere")
    capsys.readouterr()
    command = ["predict", run.path.name, "new", "--output", "again.csv"]
    assert main(command) == 0
    assert "no image is called unknown: there is no data folder" in capsys.readouterr().out


def test_table_of_another_checkpoint_is_refused(workbook, tiny_config, capsys):
    run = pretrain(tiny_config.updated(epochs=2, head_epochs=5, head_views=0))
    probe_checkpoints(run)
    chosen = read_json(run.selection_file)["checkpoint"]
    assert main(["retrieve", run.path.name, "--table-checkpoint", str(3 - chosen)]) == 0
    capsys.readouterr()
    command = ["predict", run.path.name, "data/tiny/val", "--output", "x.csv"]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert f"features of checkpoint {3 - chosen}" in error and len(error.splitlines()) == 1
    mend = error.split("build the table again: thesis ")[1].split()
    assert main(mend) == 0
    assert main(command) == 0


def test_damaged_table_is_refused(alone, capsys):
    table = alone / "model" / "table.safetensors"
    table.write_bytes(table.read_bytes()[:1000])
    assert main(["predict", "model", "new", "--output", "x.csv"]) == 2
    one_line(capsys, "table.safetensors cannot be read")


def test_folder_that_is_not_an_export_is_refused(alone, capsys):
    weights, config = (alone / "model" / name for name in ("model.safetensors", "config.json"))
    sound = json.loads(config.read_text())
    command = ["predict", "model", "new", "--output", "x.csv"]
    config.write_text(json.dumps({k: v for k, v in sound.items() if k != "temperature"}))
    assert main(command) == 2
    one_line(capsys, "'temperature'", "export the run again")
    config.write_text(json.dumps(sound | {"architecture": "resnet5"}))
    assert main(command) == 2
    one_line(capsys, "cannot be loaded", "resnet5")
    config.unlink()
    assert main(command) == 2
    one_line(capsys, "export the run again")
    config.write_text(json.dumps(sound))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(command) == 2
    one_line(capsys, "cannot be loaded")


def test_link_or_device_is_never_replaced_by_the_output(tmp_path):
    """For example /dev/stdout, which is a link to wherever the shell sends the output."""
    (tmp_path / "table.csv").write_text("mine")
    link, pipe = tmp_path / "link.csv", tmp_path / "pipe"
    link.symlink_to(tmp_path / "table.csv")
    os.mkfifo(pipe)
    for place in (link, pipe):
        with pytest.raises(InputError, match="is a link or a device, not a regular file"):
            module.check_output(place, [])
    module.check_output(tmp_path / "table.csv", [])  # an earlier table may be replaced
    assert link.is_symlink() and link.read_text() == "mine"
