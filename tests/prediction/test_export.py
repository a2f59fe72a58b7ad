import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

from thesis_lib.cli.command_line import main
from thesis_lib.data import transforms
from thesis_lib.data.framing import Frame
from thesis_lib.data.images import read_pixels
from thesis_lib.errors import InputError
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.prediction import export
from thesis_lib.prediction.export import export_run
from thesis_lib.prediction.finished_model import TABLE_NAME, load_exported_model
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.system.files import read_json
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain

CLASSES = ["001_zero with blank", "002_one.dot", "003_δύο"]


def finished(config, **settings):
    """Train, probe and test a run for a few epochs."""
    run = pretrain(config.updated(epochs=2, head_epochs=5, head_views=0, **settings))
    probe_checkpoints(run)
    final_test(run)
    return run


def images_of(run):
    """Return the test images as input for the exported models, and the run's probabilities."""
    facts = checkpoints.load(checkpoints.checkpoint_path(run, 2))
    predictions = read_predictions(run)
    root = run.path.parent.parent.parent / "data" / "tiny"
    frame = Frame(run.config.image_size, run.config.fit)
    views = [frame.evaluation_view(read_pixels(root / file)) for file in predictions["path"]]
    images = transforms.to_float(torch.from_numpy(np.stack(views)))
    images = transforms.normalize(images, facts["mean"], facts["std"])
    return images, predictions[CLASSES].to_numpy()


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("lenet5", {}),
        ("test_resnet", {"small_images": False}),
        ("test_resnet", {"small_images": True}),
        ("test_vit", {"image_size": 64}),  # built for one image size
        ("test_efficientnet", {}),
    ],
)
def test_timm_and_onnx_give_the_runs_probabilities(workbook, tiny_config, backbone, settings):
    run = finished(tiny_config.updated(backbone=backbone, **settings))
    folder = export_run(run)
    assert folder == run.path / "export"
    assert (
        len({file.stat().st_mode for file in folder.iterdir()}) == 1
    )  # the same permissions for all
    assert sorted(f.name for f in folder.iterdir()) == [
        *("config.json", "model.onnx", "model.safetensors", "table.safetensors"),
        "validation.csv",
    ]
    images, expected = images_of(run)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        found = model(images).softmax(1).numpy()
    assert np.abs(found - expected).max() < 1e-4
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(None, {"images": images.numpy()})
    assert np.abs(torch.from_numpy(logits).softmax(1).numpy() - expected).max() < 1e-4
    ours, opened = checkpoints.load_classifier(run)[0], load_exported_model(folder, {})
    with torch.inference_mode():
        features = opened.backbone.model(images)
        assert torch.allclose(features, ours.backbone(images), atol=1e-5)
        assert torch.allclose(opened.head(features), ours(images), atol=1e-5)


def test_config_holds_what_another_program_needs(workbook, tiny_config):
    settings = {"backbone": "test_resnet", "small_images": False, "crop_bottom": 2, "fit": "pad"}
    settings |= {"interpolation": "bicubic"}
    run = finished(tiny_config.updated(**settings))
    folder = export_run(run)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = checkpoints.load(checkpoints.checkpoint_path(run, 2))
    assert config["architecture"] == "test_resnet" and config["num_classes"] == 3
    assert config["label_names"] == CLASSES
    described = config["pretrained_cfg"]
    assert described["mean"] == pytest.approx(facts["mean"])
    assert described["std"] == pytest.approx(facts["std"])
    assert described["input_size"] == [3, 32, 32]
    assert described["crop_pct"] == 1 and described["crop_mode"] == "border"
    assert config["fit"] == "pad" and config["crop_bottom"] == 2
    assert not {"license", "url", "file", "hf_hub_id", "origin_url"} & set(described)
    data = timm.data.resolve_model_data_config(
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    )
    assert list(data["input_size"]) == [3, 32, 32] and list(data["mean"]) == described["mean"]
    told = {p.key: json.loads(p.value) for p in onnx.load(folder / "model.onnx").metadata_props}
    assert told["classes"] == CLASSES and told["image_size"] == 32
    assert told["mean"] == pytest.approx(facts["mean"])
    assert told["fit"] == "pad" and told["crop_bottom"] == 2
    assert described["interpolation"] == told["interpolation"] == "bicubic"
    assert load_exported_model(folder, {}).backbone.config.interpolation == "bicubic"
    cropped = export_run(finished(tiny_config.updated(tag="cropped")))
    described = read_json(cropped / "config.json")["pretrained_cfg"]
    assert described["crop_pct"] == pytest.approx(224 / 256)
    assert described["crop_mode"] == "center"


def test_export_holds_the_pruned_table_and_the_temperature(workbook, tiny_config):
    run = finished(tiny_config)
    folder = export_run(run)
    stored, exported = StoredTable.load(run.table_file), StoredTable.load(folder / TABLE_NAME)
    assert len(exported.table) == len(stored.chosen) <= len(stored.table)
    assert np.array_equal(exported.chosen.vectors, stored.chosen.vectors)
    assert exported.chosen.files == stored.chosen.files and exported.chosen.classes == CLASSES
    for share in (0.05, 0.5):
        assert exported.unlike_below(share) == stored.unlike_below(share)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["temperature"] == read_json(run.selection_file)["temperature"]


def test_timm_alone_loads_a_backbone_of_its_own(workbook, tiny_config):
    folder = export_run(finished(tiny_config.updated(backbone="test_resnet", small_images=False)))
    code = (
        "import sys, timm\n"
        f"model = timm.create_model('local-dir:{folder}', pretrained=True)\n"
        "assert not any(name.startswith('thesis_lib') for name in sys.modules)\n"
        "print(model.num_classes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr


def test_export_needs_a_selection(trained):
    with pytest.raises(InputError, match="no current selection; run notebook 03"):
        export_run(trained)


def test_export_replaces_its_own_folder_but_no_other(workbook, tiny_config, capsys):
    run = finished(tiny_config)
    assert main(["export", run.path.name]) == 0
    assert "model.onnx" in capsys.readouterr().out
    assert main(["export", run.path.name]) == 0
    (workbook / "mine").mkdir()
    assert main(["export", run.path.name, "--output", "mine"]) == 2
    assert "mine already exists" in capsys.readouterr().err
    assert main(["export", run.path.name, "--output", "new/place"]) == 0
    assert (workbook / "new" / "place" / "config.json").is_file()
    assert main(["export", "lenet5-bs9-seed42"]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_models_that_differ_are_not_exported(workbook, tiny_config, monkeypatch):
    run = finished(tiny_config)
    write = export._write_timm

    def spoil(folder, ours, config, facts):
        ours.head.weight.data[0] += 0.01
        write(folder, ours, config, facts)

    monkeypatch.setattr(export, "_write_timm", spoil)
    with pytest.raises(InputError, match="the logits of timm's model differ from the run's"):
        export_run(run)
    assert not list(run.path.glob("*export*"))
