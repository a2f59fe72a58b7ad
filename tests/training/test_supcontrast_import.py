"""Import of checkpoints in SupContrast's layout, written by a model built like SupContrast's."""

import argparse
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import papermill
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import normalize, relu
from torch.utils.tensorboard import SummaryWriter

from thesis_lib.cli.command_line import main
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import epochs_to_probe, kept_epochs, run_plateau
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import create_model, pretrain
from thesis_lib.training.supcontrast import read_checkpoint
from thesis_lib.training.supcontrast_import import import_checkpoints

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
SETTINGS = {"data": "data/tiny", "backbone": "resnet18"}


def convolution(before, after, size, stride=1):
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """A residual block with SupContrast's weight names; two convolutions, or three if wide."""

    def __init__(self, before, width, stride, wide):
        super().__init__()
        after = 4 * width if wide else width
        steps = [(before, width, 3, stride), (width, after, 3, 1)]
        if wide:
            steps = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        self.steps = range(1, len(steps) + 1)
        for number, step in zip(self.steps, steps, strict=True):
            setattr(self, f"conv{number}", convolution(*step))
            setattr(self, f"bn{number}", nn.BatchNorm2d(step[1]))
        changed = stride != 1 or before != after
        shortcut = (convolution(before, after, 1, stride), nn.BatchNorm2d(after))
        self.shortcut = nn.Sequential(*(shortcut if changed else ()))

    def forward(self, x):
        out = x
        for number in self.steps:
            out = relu(out) if number > 1 else out
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
        return relu(out + self.shortcut(x))


class Encoder(nn.Module):
    """SupContrast's own ResNet: a 3x3 stem without pooling."""

    def __init__(self, blocks, wide):
        super().__init__()
        self.conv1, self.bn1, before = convolution(3, 64, 3), nn.BatchNorm2d(64), 64
        for stage, number in enumerate(blocks):
            width, layers = 64 * 2**stage, []
            for block in range(number):
                layers.append(Block(before, width, 2 if stage and not block else 1, wide))
                before = width * (4 if wide else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3, 4):
            out = getattr(self, f"layer{stage}")(out)
        return out.mean((2, 3))


class SupConModel(nn.Module):
    def __init__(self, encoder, width, classes=None):
        super().__init__()
        self.encoder = encoder
        if classes is None:
            layers = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
            self.head = nn.Sequential(*layers)
        else:
            self.fc = nn.Linear(width, classes)

    def forward(self, x):
        features = self.encoder(x)
        return self.fc(features) if hasattr(self, "fc") else normalize(self.head(features), dim=1)


def resnet18(seed=0, classes=None):
    torch.manual_seed(seed)
    return lively(SupConModel(Encoder((2, 2, 2, 2), wide=False), 512, classes))


def lively(model):
    """Set batch statistics as if trained, so that a test notices if one is lost."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def options(**changed):
    """Return the options that main_supcon.py saves in a checkpoint, as far as they are read."""
    told = {
        "save_freq": 1,
        "batch_size": 8,
        "epochs": 3,
        "learning_rate": 0.016,
        "lr_decay_epochs": [700, 800, 900],
        "lr_decay_rate": 0.1,
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "model": "resnet18",
        "dataset": "path",
        "mean": "(0.0418, 0.0353, 0.0409)",
        "std": "(0.0956, 0.0911, 0.0769)",
        "size": 32,
        "method": "SupCon",
        "temp": 0.07,
        "cosine": True,
        "warm": False,
    }
    return argparse.Namespace(**{**told, **changed})


def momentum_sgd(model):
    """Create an SGD optimizer whose momentum buffers are filled by one step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.012, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    optimizer.step()
    return optimizer


def write(path, model, epoch, opt=None, rename=str, optimizer=None):
    content = {
        "opt": options() if opt is None else opt,
        "model": {rename(key): value for key, value in model.state_dict().items()},
        "optimizer": (optimizer or momentum_sgd(model)).state_dict(),
        "epoch": epoch,
    }
    torch.save(content, path)
    return path


def imported_model(run, epoch):
    model = create_model(run.config, 3)
    content = checkpoints.load(checkpoints.checkpoint_path(run, epoch))
    checkpoints.load_weights(model, content["model"], "the run")
    return model.eval()


def outputs(model, size=32):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return model(images)


RENAMED = {
    "one GPU": str,
    "encoder.module": lambda key: key.replace("encoder.", "encoder.module."),
    "module": lambda key: f"module.{key}",
    "compiled": lambda key: f"_orig_mod.{key}",
}


@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED)
def test_supcontrasts_own_resnet_gives_the_same_outputs(workbook, rename):
    model = resnet18()
    file = write(workbook / "last.pth", model, 3, rename=rename)
    before = outputs(model)
    run = import_checkpoints([file], SETTINGS)
    assert (outputs(imported_model(run, 3)) - before).abs().max() < 1e-6
    backbone, facts = checkpoints.load_backbone(checkpoints.checkpoint_path(run, 3))
    features, theirs = outputs(backbone), outputs(model.encoder)
    assert (features - theirs).abs().max() < 1e-6 * theirs.abs().max()
    assert run.config.small_images is True and run.config.zero_init_last is False
    assert facts["mean"] == [0.0418, 0.0353, 0.0409]


def test_supcontrasts_resnet50_gives_the_same_outputs(workbook):
    torch.manual_seed(0)
    model = lively(SupConModel(Encoder((3, 4, 6, 3), wide=True), 2048))
    before = outputs(model)
    file = write(
        workbook / "ckpt_epoch_3.pth", model, 3, optimizer=torch.optim.SGD([torch.ones(1)])
    )
    run = import_checkpoints([file], {**SETTINGS, "backbone": "resnet50"})
    assert (outputs(imported_model(run, 3)) - before).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("seresnext26d_32x4d", 2048)])
def test_timms_backbone_under_the_encoder_prefix_gives_the_same_outputs(workbook, name, width):
    """As in the thesis: at 64 px the stem follows from the weights, not from the image size."""
    torch.manual_seed(0)
    model = lively(SupConModel(timm.create_model(name, num_classes=0), width))
    file = write(workbook / "last.pth", model, 3, options(size=64))
    before = outputs(model, 64)
    run = import_checkpoints([file], {**SETTINGS, "backbone": name})
    assert run.config.small_images is False and run.config.zero_init_last is None
    assert (outputs(imported_model(run, 3), 64) - before).abs().max() < 1e-6


def test_cross_entropy_baseline_gives_the_same_logits(workbook):
    model = resnet18(classes=3)
    opt = options()
    del opt.method  # main_ce.py has no such option
    file = write(workbook / "last.pth", model, 3, opt)
    before = outputs(model)
    run = import_checkpoints([file], SETTINGS)
    assert run.config.method == "cross-entropy"
    after = outputs(imported_model(run, 3))
    assert (after - before).abs().max() < 1e-6 * max(1, before.abs().max())


def test_settings_are_those_of_the_files_options(workbook):
    opt = options(warm=True, warm_epochs=5, warmup_from=0.01, temp=0.1, cosine=False)
    run = import_checkpoints([write(workbook / "last.pth", resnet18(), 3, opt)], SETTINGS)
    config = json.loads(run.config_file.read_text())
    expected = {
        "batch_size": 8,
        "epochs": 3,
        "method": "supcon",
        "image_size": 32,
        "schedule": "step",
        "warmup_epochs": 5,
        "warmup_from": 0.01,
        "temperature": 0.1,
        "save_every": 1,
        "mean": [0.0418, 0.0353, 0.0409],
        "std": [0.0956, 0.0911, 0.0769],
        "decay_epochs": [700, 800, 900],
    }
    assert {name: config[name] for name in expected} == expected
    entry = read_json(run.provenance_file)[0]
    assert entry["supcontrast_options"]["dataset"] == "path"
    assert entry["imported"][0]["file"] == "last.pth" and len(entry["imported"][0]["sha256"]) == 64


def test_given_settings_win_and_a_bare_file_takes_the_defaults(workbook):
    file = workbook / "ckpt_epoch_2.pth"
    torch.save({"model": resnet18().state_dict()}, file)
    given = {**SETTINGS, "batch_size": 8, "epochs": 2, "image_size": 32}
    run = import_checkpoints([file], given)
    assert run.config.epochs == 2 and run.config.warmup_epochs == 10
    assert is_done(run, "pretrain") and kept_epochs(run) == [2]


def test_batch_size_other_than_the_files_is_refused(workbook):
    file = write(workbook / "last.pth", resnet18(), 3)
    with pytest.raises(InputError, match="trained with batch size 8, not 16"):
        import_checkpoints([file], {**SETTINGS, "batch_size": 16})
    assert not (workbook / "runs").exists()


class Trap:
    """The file would create a folder if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickled_code_is_refused_and_never_run(workbook):
    file = write(workbook / "last.pth", resnet18(), 3, options(dataset=Trap()))
    with pytest.raises(InputError, match=r"contains \w+\.mkdir, which is not loaded"):
        import_checkpoints([file], SETTINGS)
    assert not (workbook / "trapped").exists() and not (workbook / "runs").exists()


def test_every_key_and_shape_that_differs_is_listed_as_the_file_names_it(workbook):
    model = resnet18()
    weights = model.state_dict()
    del weights["encoder.layer2.0.shortcut.0.weight"], weights["head.2.bias"]
    weights |= {"encoder.extra.weight": torch.ones(2), "queue": torch.ones(3)}
    weights["encoder.layer1.0.conv1.weight"] = torch.ones(64, 64, 1, 1)
    torch.save({"opt": options(), "model": weights, "epoch": 3}, workbook / "last.pth")
    with pytest.raises(InputError) as raised:
        import_checkpoints([workbook / "last.pth"], SETTINGS)
    message = str(raised.value)
    assert "\n" not in message and "2 missing, 2 unexpected, 1 of another shape" in message
    for name in (
        "encoder.layer2.0.shortcut.0.weight",
        "head.2.bias",
        "encoder.extra.weight",
        "queue",
        "encoder.layer1.0.conv1.weight (64, 64, 1, 1) instead of (64, 64, 3, 3)",
    ):
        assert name in message
    assert not (workbook / "runs").exists()


def test_backbone_other_than_the_files_is_refused(workbook):
    file = write(workbook / "last.pth", resnet18(), 3)
    with pytest.raises(
        InputError, match=r"do not fit the model: \d+ missing.*encoder.layer3.2.conv1.weight"
    ):
        import_checkpoints([file], {**SETTINGS, "backbone": "resnet34"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "is not a SupContrast checkpoint: it contains state_dict"),
        ([1, 2], "is not a SupContrast checkpoint"),
        ({"model": {}}, "does not say which epoch it was saved in"),
        ({"model": {}, "epoch": 0}, "does not say which epoch it was saved in"),
        ({"model": {"head.0.bias": 1}, "epoch": 1}, "is not a SupContrast checkpoint"),
        (
            {"model": {"module.head.0.bias": torch.ones(1), "head.0.bias": torch.ones(1)}},
            "same weight twice",
        ),
        ({"model": {"head.0.bias": torch.tensor([np.nan])}}, r"not finite: head\.0\.bias"),
        (
            {"model": {}, "epoch": 1, "opt": options(method="MoCo")},
            r"last\.pth: its options cannot be used: method must be SupCon or SimCLR, not 'MoCo'",
        ),
        (
            {"model": {}, "epoch": 1, "opt": options(batch_size="many")},
            r"last\.pth: its options cannot be used: batch_size must be a whole number",
        ),
        (
            {"model": {}, "epoch": 1, "opt": options(mean="foo bar")},
            r"last\.pth: its options cannot be used: mean must be three numbers",
        ),
    ],
)
def test_file_that_is_laid_out_otherwise_is_refused(workbook, content, message):
    torch.save(content, workbook / "last.pth")
    with pytest.raises(InputError, match=message):
        import_checkpoints([workbook / "last.pth"], SETTINGS)


def test_damaged_or_missing_file_is_refused(workbook):
    file = write(workbook / "last.pth", resnet18(), 3)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.pth cannot be read as a checkpoint: \w+"):
        import_checkpoints([file], SETTINGS)
    for content in (b"", b"no checkpoint at all"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"last\.pth (cannot be read|\w+ something)"):
            import_checkpoints([file], SETTINGS)
    with pytest.raises(InputError, match=r"data is not a file"):
        import_checkpoints([workbook / "data"], SETTINGS)
    with pytest.raises(InputError, match=r"there is no file .*ckpt_epoch_9\.pth"):
        import_checkpoints([workbook / "ckpt_epoch_9.pth"], SETTINGS)


def test_last_pth_that_repeats_the_last_epoch_counts_once(workbook):
    files = [
        write(workbook / f"{name}.pth", resnet18(seed=epoch), epoch)
        for name, epoch in (("last", 3), ("ckpt_epoch_2", 2), ("ckpt_epoch_3", 3))
    ]
    run = import_checkpoints(files, SETTINGS)
    assert kept_epochs(run) == [2, 3] and run.last_checkpoint.is_file()
    assert [row["epoch"] for row in read_metrics(run)] == [2, 3]
    write(files[2], resnet18(seed=7), 3)
    with pytest.raises(InputError, match="are both from epoch 3 but differ"):
        import_checkpoints(files, {**SETTINGS, "tag": "again"})


def test_files_of_two_trainings_are_refused(workbook):
    one = write(workbook / "ckpt_epoch_2.pth", resnet18(), 2)
    other = write(workbook / "last.pth", resnet18(), 3, options(temp=0.1))
    with pytest.raises(InputError, match=r"different trainings: temperature is 0\.1 and 0\.07"):
        import_checkpoints([one, other], SETTINGS)


def test_run_that_is_there_is_not_touched(workbook):
    file = write(workbook / "last.pth", resnet18(), 3)
    run = import_checkpoints([file], SETTINGS)
    before = run.last_checkpoint.read_bytes()
    with pytest.raises(InputError, match="exists already; import under another --tag"):
        import_checkpoints([file], SETTINGS)
    assert run.last_checkpoint.read_bytes() == before


def test_import_that_was_cut_short_is_no_run_and_can_be_made_again(workbook, monkeypatch):
    files = [write(workbook / f"ckpt_epoch_{e}.pth", resnet18(seed=e), e) for e in (1, 2, 3)]
    save = checkpoints.save

    def dying(path, content):
        save(path, content)
        if path.name == "epoch_0002.pth":
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        import_checkpoints(files, SETTINGS)
    monkeypatch.setattr(checkpoints, "save", save)
    folder = workbook / "runs" / "tiny" / "resnet18-bs8-seed42"
    assert not list(folder.glob("checkpoints/*")) and not (folder / "provenance.json").exists()
    with pytest.raises(InputError, match="is not a run"):
        RunDirectory.open(folder)
    run = import_checkpoints(files[1:], SETTINGS)
    assert kept_epochs(run) == [2, 3]
    assert not list(folder.rglob("*partial*"))


def test_checkpoints_without_a_config_are_never_taken_for_a_runs_own(workbook, tiny_config):
    """An import leaves this state if it is killed between writing its last two files."""
    file = write(workbook / "last.pth", resnet18(), 3)
    run = import_checkpoints([file], SETTINGS)
    run.config_file.unlink()
    with pytest.raises(InputError, match=r"holds checkpoints, but the run has no config\.json"):
        pretrain(run.config)


def test_learning_rate_of_a_step_schedule_is_a_scalar_of_numpy(workbook):
    """SupContrast multiplies by ``decay ** np.sum(...)``."""
    model = resnet18()
    optimizer = momentum_sgd(model)
    optimizer.param_groups[0]["lr"] = 0.016 * 0.1 ** np.sum(np.asarray([700]) < 701)
    assert isinstance(optimizer.param_groups[0]["lr"], np.float64)
    opt = options(cosine=False, temp=np.float32(0.5), epochs=np.int64(3))
    file = write(workbook / "last.pth", model, np.int64(3), opt, optimizer=optimizer)
    run = import_checkpoints([file], SETTINGS)
    assert read_metrics(run)[0]["learning_rate"] == pytest.approx(0.0016)
    assert run.config.epochs == 3 and run.config.temperature == 0.5


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_numpy_are_read_whichever_numpy_wrote_them(workbook, module):
    file = write(workbook / "last.pth", resnet18(), np.int64(3))
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, re.sub(rb"numpy\._?core\.multiarray", module.encode(), content))
    assert read_checkpoint(file).epoch == 3


@pytest.mark.parametrize("epoch", [torch.tensor(3), 3.0, None])
def test_epoch_is_read_however_it_is_written(workbook, epoch):
    assert read_checkpoint(write(workbook / "ckpt_epoch_3.pth", resnet18(), epoch)).epoch == 3


@pytest.mark.parametrize("optimizer", [None, [], {"foo": 1}, {"state": {}, "param_groups": []}])
def test_file_without_a_state_of_sgd_can_still_be_probed(workbook, capsys, optimizer):
    content = {"opt": options(), "model": resnet18().state_dict(), "optimizer": optimizer}
    torch.save(content, workbook / "ckpt_epoch_2.pth")
    command = ["import-checkpoint", "ckpt_epoch_2.pth", "--data", "data/tiny"]
    assert main([*command, "--backbone", "resnet18"]) == 0
    assert "its training cannot be resumed" in capsys.readouterr().out


def test_old_format_of_torch_and_options_as_a_dict_are_read(workbook):
    content = {"opt": vars(options(temp=0.5)), "model": resnet18().state_dict(), "epoch": 3}
    file = workbook / "last.pth"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    assert import_checkpoints([file], SETTINGS).config.temperature == 0.5


@pytest.mark.parametrize("decay", ["700,800,900", "700,800,900,", "[700, 800, 900]"])
def test_decay_epochs_are_read_as_they_were_typed(workbook, decay):
    file = write(workbook / "last.pth", resnet18(), 3, options(lr_decay_epochs=decay))
    assert read_checkpoint(file).settings["decay_epochs"] == [700, 800, 900]


def test_backbone_that_names_its_own_shortcuts_keeps_them(workbook):
    torch.manual_seed(0)
    model = SupConModel(timm.create_model("ghostnet_050", num_classes=0), 1280)
    file = write(workbook / "last.pth", model, 3, options(size=64))
    run = import_checkpoints([file], {**SETTINGS, "backbone": "ghostnet_050"})
    assert any(".shortcut." in key for key in imported_model(run, 3).state_dict())


def test_baseline_without_a_size_was_trained_at_32_px(workbook):
    opt = options()
    del opt.method, opt.size
    file = write(workbook / "last.pth", resnet18(classes=3), 3, opt)
    assert import_checkpoints([file], SETTINGS).config.image_size == 32


def test_momentum_of_each_weight_stays_with_it(workbook):
    model = resnet18()
    optimizer = momentum_sgd(model)
    file = write(workbook / "last.pth", model, 3, optimizer=optimizer)
    run = import_checkpoints([file], SETTINGS)
    theirs = dict(model.named_parameters())
    ours = create_model(run.config, 3)
    state = checkpoints.load(run.last_checkpoint)["optimizer"]["state"]
    assert len(state) == len(theirs)
    for number, (name, _) in enumerate(ours.named_parameters()):
        spelt = name.replace("backbone.", "encoder.").replace("projection.layers.", "head.")
        parameter = theirs[spelt.replace("downsample", "shortcut")]
        expected = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(state[number]["momentum_buffer"], expected), name


def test_training_goes_on_from_an_imported_checkpoint(workbook):
    file = write(workbook / "ckpt_epoch_2.pth", resnet18(), 2)
    run = import_checkpoints([file], SETTINGS)
    assert not is_done(run, "pretrain")
    with pytest.raises(InputError, match="not trained to its last epoch"):
        probe_checkpoints(run)
    pretrain(run.config)
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == [2, 3]
    assert np.isnan(rows[0]["loss"]) and rows[0]["learning_rate"] == 0.012
    assert rows[1]["loss"] > 0 and is_done(run, "pretrain")
    assert kept_epochs(run) == epochs_to_probe(run) == [2, 3]
    before, after = (imported_model(run, epoch).state_dict() for epoch in (2, 3))
    assert not torch.equal(before["backbone.conv1.weight"], after["backbone.conv1.weight"])


def test_training_cannot_go_on_without_the_optimizers_state(workbook):
    file = workbook / "ckpt_epoch_2.pth"
    torch.save({"opt": options(), "model": resnet18().state_dict()}, file)
    run = import_checkpoints([file], SETTINGS)
    with pytest.raises(InputError, match="imported without the optimizer's state"):
        pretrain(run.config)


def test_losses_come_from_the_tensorboard_logs(workbook):
    logs = workbook / "tensorboard"
    with SummaryWriter(logs) as writer:
        for epoch, loss in enumerate((5.0, 2.0, 1.99), start=1):
            writer.add_scalar("loss", loss, epoch)
            writer.add_scalar("learning_rate", 0.016 / epoch, epoch)
    files = [write(workbook / f"ckpt_epoch_{e}.pth", resnet18(), e) for e in (2, 3)]
    run = import_checkpoints(files, SETTINGS, logs)
    rows = read_metrics(run)
    assert [row["loss"] for row in rows] == pytest.approx([5.0, 2.0, 1.99])
    assert rows[0]["learning_rate"] == pytest.approx(0.016)
    assert run_plateau(run) == 2
    (workbook / "empty").mkdir()
    with pytest.raises(InputError, match="contains no TensorBoard logs with a loss"):
        import_checkpoints(files, {**SETTINGS, "tag": "b"}, workbook / "empty")


def test_imported_run_goes_through_notebooks_03_04_and_06(workbook):
    files = [write(workbook / f"ckpt_epoch_{e}.pth", resnet18(seed=e), e) for e in (1, 2, 3)]
    run = import_checkpoints(files, {**SETTINGS, "head_epochs": 5, "head_views": 0})
    name = {"data": "data/tiny", "backbone": "resnet18", "batch_size": 8}
    for notebook, parameters in (
        ("03_checkpoint_probing", name),
        ("04_final_test", name),
        ("06_thesis_tables", {"data": "data/tiny"}),
    ):
        papermill.execute_notebook(
            NOTEBOOKS / f"{notebook}.ipynb",
            workbook / f"{notebook}.ipynb",
            parameters,
            progress_bar=False,
        )
    assert read_json(run.selection_file)["probed"] == [1, 2, 3]
    assert read_json(run.test_file)["n"] == 9
    figures = workbook / "figures" / "tiny"
    assert "resnet18-bs8-seed42" in (figures / "test.csv").read_text()
    assert "TestAccuracy" in (figures / "numbers.tex").read_text()
    assert not (figures / "cost.csv").exists()  # training cost is unknown


def test_command_imports_and_says_how_to_go_on(workbook, capsys):
    files = [write(workbook / f"ckpt_epoch_{e}.pth", resnet18(), e) for e in (1, 2)]
    command = ["import-checkpoint", *map(str, files), "--data", "data/tiny"]
    command += ["--backbone", "resnet18", "--batch-size", "8"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "imported 2 checkpoints, epochs 1 to 2 of 3" in out
    assert "can be resumed from epoch 2" in out
    resume = next(line for line in out.splitlines() if line.startswith("continue with: thesis run"))
    assert main([*resume.split()[3:], "--dry-run"]) == 0
    assert "would run   tiny/resnet18-bs8-seed42: 02" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert "resnet18-bs8-seed42" in capsys.readouterr().out
    assert main([*command, "--epochs", "2", "--tag", "short"]) == 0
    assert (
        "so left at the default: projection_dim = 128, base_temperature" in capsys.readouterr().out
    )
    assert main(["probe", "resnet18-bs8-seed42-short", "--head-epochs", "2"]) == 0
    assert "chosen checkpoint" in capsys.readouterr().out


def test_changed_bits_of_a_file_are_found(workbook):
    """torch.load alone loads such files without an error."""
    path = write(workbook / "ckpt_epoch_1.pth", resnet18(), 1)
    whole, places = path.read_bytes(), np.random.default_rng(0)
    found = 0
    for _ in range(30):
        changed = bytearray(whole)
        bit = int(places.integers(8 * len(whole)))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except InputError:
            found += 1
    assert found >= 29  # the padding in zip archives has no checksum


def test_import_that_was_killed_can_be_given_again(workbook, monkeypatch):
    files = [write(workbook / f"ckpt_epoch_{e}.pth", resnet18(), e) for e in (1, 2)]
    rename = Path.rename

    def die(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", die)
        import_checkpoints(files, SETTINGS)
    assert Path.rename is rename
    run = import_checkpoints(files, SETTINGS)
    assert kept_epochs(run) == [1, 2]
    assert not list(run.path.glob(".*partial"))
