import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch

from tests.processes import wait_until
from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.testing import final_test
from thesis_lib.losses import SupConLoss
from thesis_lib.models import create_backbone
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.plateau import epochs_to_probe, find_plateau, kept_epochs, smooth
from thesis_lib.runs.provenance import stage_states
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json, write_json
from thesis_lib.training import checkpoints
from thesis_lib.training.engine import learning_rate, method_loss
from thesis_lib.training.pretraining import check_run, pretrain


def recipe_rate(config, epoch, step, steps, warm_epochs):
    """Compute learning rates by the recipe's formulas, per epoch and per warm-up step."""

    def of_epoch(e):
        if config.schedule == "step":
            rate = config.learning_rate
            for decay in config.decay_epochs:
                if e > decay:
                    rate *= config.decay_rate
            return rate
        floor = config.learning_rate * config.decay_rate**3
        wave = 1 + math.cos(math.pi * e / config.epochs)
        return floor + (config.learning_rate - floor) * wave / 2

    if epoch > warm_epochs:
        return of_epoch(epoch)
    warm_to = of_epoch(warm_epochs) if config.schedule == "cosine" else config.learning_rate
    share = (step + (epoch - 1) * steps) / (warm_epochs * steps)
    return config.warmup_from + share * (warm_to - config.warmup_from)


@pytest.mark.parametrize("warmup_from", [0.0, 0.01])
@pytest.mark.parametrize("schedule", ["cosine", "step"])
@pytest.mark.parametrize("warm_epochs", [0, 10])
def test_rate_follows_the_recipe_at_every_step(schedule, warmup_from, warm_epochs):
    config = RunConfig(
        epochs=100,
        schedule=schedule,
        decay_epochs=(5, 70, 80, 90),
        warmup_from=warmup_from,
        warmup_epochs=warm_epochs,
    )
    for epoch in range(1, 101):
        for step in range(7):
            expected = recipe_rate(config, epoch, step, 7, warm_epochs)
            assert learning_rate(config, epoch, step, 7) == pytest.approx(expected, rel=1e-12)


def test_thesiss_thousand_epochs_at_marked_places():
    """Expected values were computed by hand from the recipe: peak 0.016, floor 0.000016."""
    config, steps = RunConfig(), 1036  # 33,135 images in batches of 32
    assert learning_rate(config, 1, 0, steps) == 0
    at_ten = 0.000016 + 0.015984 * (1 + math.cos(math.pi / 100)) / 2
    assert learning_rate(config, 6, 0, steps) == pytest.approx(at_ten / 2)
    assert learning_rate(config, 500, 3, steps) == pytest.approx(0.000016 + 0.015984 / 2)
    assert learning_rate(config, 1000, 1035, steps) == pytest.approx(0.000016)
    other = config.updated(warmup_from=0.01)
    assert learning_rate(other, 1, 0, steps) == 0.01


@pytest.mark.parametrize("schedule", ["cosine", "step"])
@pytest.mark.parametrize("warmup_from", [0.0, 0.01])
def test_optimizer_steps_with_the_recipes_rates(
    workbook, tiny_config, monkeypatch, schedule, warmup_from
):
    config = tiny_config.updated(
        schedule=schedule, decay_epochs=(3,), warmup_from=warmup_from, warmup_epochs=2
    )
    used, step_once = [], torch.optim.SGD.step

    def noting(optimizer, *arguments, **options):
        used.append({group["lr"] for group in optimizer.param_groups})
        return step_once(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    pretrain(config)
    steps = len(used) // 4
    assert steps == 6  # 42 images in batches of 8
    expected = [recipe_rate(config, e, s, steps, 2) for e in (1, 2, 3, 4) for s in range(steps)]
    assert [len(rates) for rates in used] == [1] * len(used)
    assert [rate for rates in used for rate in rates] == pytest.approx(expected, rel=1e-12)


def test_step_rate_decays_after_each_decay_epoch():
    config = RunConfig(schedule="step", warmup_epochs=0)
    rates = [learning_rate(config, epoch, 0, 5) for epoch in (700, 701, 800, 801, 900, 901)]
    assert rates == pytest.approx([0.016, 0.0016, 0.0016, 0.00016, 0.00016, 0.000016])


def test_warmup_takes_at_most_half_of_a_short_training():
    config = RunConfig(epochs=4)
    for epoch in (1, 2, 3, 4):
        expected = recipe_rate(config, epoch, 0, 1, warm_epochs=2)
        assert learning_rate(config, epoch, 0, 1) == pytest.approx(expected)


def test_artefacts_of_a_training(trained, workbook):
    assert trained.path == workbook / "runs" / "tiny" / "lenet5-bs8-seed42"
    assert json.loads(trained.config_file.read_text()) == trained.config.to_dict()
    rows = read_metrics(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == [
        *("epoch", "loss", "learning_rate", "seconds", "images_per_second", "peak_memory_mib"),
    ]
    assert kept_epochs(trained) == [1, 2, 3, 4]
    assert trained.last_checkpoint.is_file()
    assert list(trained.tensorboard.glob("events*"))
    entry = json.loads(trained.provenance_file.read_text())[0]
    assert {"git_commit", "versions", "hardware", "data_fingerprint", "command"} <= set(entry)
    assert stage_states(trained)["pretrain"]["state"] == "done"


def test_loss_falls(trained):
    rows = read_metrics(trained)
    assert rows[-1]["loss"] < rows[0]["loss"]


def final_weights(run):
    return checkpoints.load(run.last_checkpoint)


def assert_same_bits(first, second):
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for key, state in first["optimizer"]["state"].items():
        other = second["optimizer"]["state"][key]["momentum_buffer"]
        assert torch.equal(state["momentum_buffer"], other)
    losses = ([row["loss"] for row in content["metrics"]] for content in (first, second))
    assert next(losses) == next(losses)


def dying_save(after):
    """Make ``checkpoints.save`` raise after some saves; the 4th is last.pth after epoch 2."""
    save, saved = checkpoints.save, []

    def save_then_die(path, content):
        save(path, content)
        saved.append(path)
        if len(saved) == after:
            raise KeyboardInterrupt

    return save_then_die


def train_with_an_interruption(config, monkeypatch):
    """Train the same run under another tag, interrupted after epoch 2 and resumed."""
    interrupted = config.updated(tag="interrupted")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", dying_save(after=4))
        pretrain(interrupted)
    return pretrain(interrupted)


def test_dropout_is_the_same_for_any_number_of_workers_and_after_an_interruption(
    workbook, tiny_config, monkeypatch
):
    """Dropout uses torch's global generator, which must not depend on workers or resuming."""

    def with_dropout(*arguments):
        backbone = create_backbone(*arguments)
        backbone.dropout = torch.nn.Dropout(0.5)
        backbone.register_forward_hook(lambda module, _, features: module.dropout(features))
        return backbone

    monkeypatch.setattr("thesis_lib.training.checkpoints.create_backbone", with_dropout)
    whole = final_weights(pretrain(tiny_config.updated(tag="whole")))
    beside = final_weights(pretrain(tiny_config.updated(tag="two", workers=2)))
    cut = train_with_an_interruption(tiny_config.updated(workers=2), monkeypatch)
    assert_same_bits(whole, beside)
    assert_same_bits(whole, final_weights(cut))


def test_another_seed_gives_another_model(workbook, tiny_config):
    first = pretrain(tiny_config.updated(epochs=1))
    second = pretrain(tiny_config.updated(epochs=1, seed=1))
    assert read_metrics(first)[0]["loss"] != read_metrics(second)[0]["loss"]


METHODS = ("supcon", "simclr", "cross-entropy")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_resumes_and_is_probed_and_tested(
    workbook, tiny_config, monkeypatch, method
):
    config = tiny_config.updated(method=method, seed=2)
    whole = pretrain(config)
    loss = [row["loss"] for row in read_metrics(whole)]
    assert np.isfinite(loss).all()
    assert method == "simclr" or min(loss[1:]) < loss[0]  # SimCLR needs more than four epochs
    again = train_with_an_interruption(config, monkeypatch)
    assert len(read_metrics(again)) == 4
    assert_same_bits(final_weights(whole), final_weights(again))
    table = probe_checkpoints(whole)
    assert table["val_accuracy"].max() > 0.5
    assert final_test(whole)["n"] == 9


def test_methods_differ_in_what_they_learn_from(workbook, tiny_config):
    first = {
        method: read_metrics(pretrain(tiny_config.updated(method=method, tag=method)))[0]["loss"]
        for method in METHODS
    }
    assert len(set(first.values())) == 3


def test_each_methods_loss_is_its_own():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 0, 2])
    outputs = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator), dim=1)
    views = outputs.view(4, 2, 5)
    supcon = method_loss(RunConfig(method="supcon", temperature=0.1), outputs, labels)
    assert supcon == SupConLoss(0.1, 0.07)(views, labels)
    simclr = method_loss(RunConfig(method="simclr", temperature=0.1), outputs, labels)
    assert simclr == SupConLoss(0.1, 0.07)(views)
    logits = outputs[:4]
    baseline = method_loss(RunConfig(method="cross-entropy"), logits, labels)
    chosen = torch.tensor([logits[i].softmax(0)[label] for i, label in enumerate(labels)])
    assert baseline.item() == pytest.approx(-chosen.log().mean().item())


def test_baseline_trains_backbone_and_classifier_together_on_one_view(
    workbook, tiny_config, monkeypatch
):
    shapes, coloured = [], []
    monkeypatch.setattr(
        "thesis_lib.training.engine.method_loss",
        lambda config, outputs, labels: (
            shapes.append((*outputs.shape, *labels.shape)) or method_loss(config, outputs, labels)
        ),
    )
    monkeypatch.setattr(transforms, "color_jitter", lambda *a: coloured.append(a))
    config = tiny_config.updated(method="cross-entropy", epochs=1, weight_decay=0)
    _, _, model = check_run(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = pretrain(config)
    after = checkpoints.load(run.last_checkpoint)["model"]
    assert shapes[0] == (8, 3, 8) and not coloured
    assert {name.split(".")[0] for name in after} == {"backbone", "head"}
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_baseline_takes_a_last_image_that_is_left_alone(workbook, tiny_config):
    """Batch normalisation cannot train on one image with feature maps of 1 x 1 px."""
    one = tiny_config.updated(method="cross-entropy", backbone="test_resnet", epochs=1)
    pretrain(one.updated(batch_size=41, small_images=False))  # of 42 images


def test_finished_run_is_not_trained_again(trained):
    before = trained.last_checkpoint.stat().st_mtime_ns, trained.provenance_file.read_text()
    pretrain(trained.config)
    assert before == (
        trained.last_checkpoint.stat().st_mtime_ns,
        trained.provenance_file.read_text(),
    )


def test_other_settings_on_the_same_run_are_refused(trained):
    with pytest.raises(InputError, match=r"learning_rate = 0.05 \(requested: 0.1\).*--tag"):
        pretrain(trained.config.updated(learning_rate=0.1))


def test_resume_on_other_files_is_refused(workbook, trained):
    next((workbook / "data" / "tiny" / "train").glob("*/*.png")).unlink()
    trained.metrics_file.write_text("epoch,loss,learning_rate,seconds\n1,1,1,1\n")
    with pytest.raises(InputError, match="data/tiny is not the data set that"):
        pretrain(trained.config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1000}, "batch_size 1000 is larger than the data set"),
        ({"backbone": "resnet5O"}, "nearest: .*resnet50"),
        ({"image_size": 16}, "image_size 16 is too small for 'lenet5'; 32 px works"),
        ({"data": "data/none"}, "there is no data folder data/none"),
        pytest.param(
            {"device": "cuda"},
            "torch finds no such device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    workbook, tiny_config, settings, message
):
    with pytest.raises(InputError, match=message):
        pretrain(tiny_config.updated(**settings))
    assert not (workbook / "runs").exists()


def test_unreadable_image_is_named_before_training(workbook, tiny_config):
    broken = next((workbook / "data" / "tiny" / "val").glob("*/*.png"))
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=f"cannot read the image .*{broken.name}"):
        pretrain(tiny_config)
    assert not (workbook / "runs" / "tiny" / "lenet5-bs8-seed42").exists()


def test_loss_that_is_not_finite_stops_the_run(workbook, tiny_config):
    with pytest.raises(InputError, match="lower learning_rate"):
        pretrain(tiny_config.updated(learning_rate=1e30, warmup_epochs=0))


def test_given_mean_and_std_are_used(workbook, tiny_config):
    run = pretrain(tiny_config.updated(epochs=1, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)))
    assert checkpoints.load(run.last_checkpoint)["mean"] == [0.1, 0.2, 0.3]


def test_plateau_is_the_first_checkpoint_with_little_fall_to_go():
    loss = 1 + 4 * np.exp(-np.arange(1, 1001) / 100)
    saved = list(range(50, 1001, 50))
    # Smoothing averages 51 epochs, and 26 at both ends.
    first, last = loss[:26].mean(), loss[-26:].mean()
    little = [e for e in saved[:-1] if loss[e - 26 : e + 25].mean() - last < 0.02 * (first - last)]
    assert find_plateau(loss, saved, 0.02) == little[0] == 450
    assert find_plateau(loss, saved, 0.2) < 450 < find_plateau(loss, saved, 0.002)


def test_no_plateau_where_the_loss_does_not_fall():
    assert find_plateau(np.linspace(1, 2, 100), [50, 100], 0.02) is None


def test_smoothing_is_a_centred_mean():
    loss = np.random.default_rng(0).random(100)
    assert smooth(loss)[50] == pytest.approx(loss[48:53].mean())
    assert smooth(loss[:10]) == pytest.approx(loss[:10])


def test_at_least_three_checkpoints_are_probed(trained):
    assert epochs_to_probe(trained)[-3:] == [2, 3, 4]
    trained.config = trained.config.updated(probe_from=4)
    assert epochs_to_probe(trained) == [2, 3, 4]
    trained.config = trained.config.updated(probe_from=1)
    assert epochs_to_probe(trained) == [1, 2, 3, 4]
    with pytest.raises(InputError, match=r"probe_from must be at most epochs \(4\), not 5"):
        trained.config.updated(probe_from=5)


def test_damaged_checkpoint_is_named(trained):
    path = checkpoints.checkpoint_path(trained, 4)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"epoch_0004\.pth is damaged or incomplete"):
        checkpoints.load_backbone(path)


def test_checkpoint_rebuilds_its_own_backbone(trained):
    backbone, facts = checkpoints.load_backbone(checkpoints.checkpoint_path(trained, 4))
    assert not backbone.training and facts["classes"][0] == "001_zero with blank"
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 84)


def test_run_is_pretrained_only_after_its_last_epoch(trained):
    assert is_done(trained, "pretrain")
    lines = trained.metrics_file.read_text().splitlines(keepends=True)
    trained.metrics_file.write_text("".join(lines[:-1]))
    assert not is_done(trained, "pretrain")


# --- precision, compile, cache


def test_provenance_records_precision_compile_and_cache(trained):
    entry = next(e for e in read_json(trained.provenance_file) if e["stage"] == "pretrain")
    assert (entry["precision"], entry["compile"], entry["cache"]) == ("float32", False, "memory")


def test_run_has_the_same_bits_without_the_cache(trained, tiny_config):
    other = pretrain(tiny_config.updated(tag="none", cache="none"))
    assert_same_bits(final_weights(trained), final_weights(other))


def test_bfloat16_trains_weights_of_float32_to_nearly_the_same_losses(trained, tiny_config):
    low = pretrain(tiny_config.updated(tag="low", precision="bfloat16"))
    weights = checkpoints.load(low.last_checkpoint)["model"]
    assert all(w.dtype == torch.float32 for w in weights.values() if w.is_floating_point())
    losses = [[row["loss"] for row in read_metrics(run)] for run in (trained, low)]
    assert losses[0] != losses[1]  # bfloat16 was really used
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(" " in tempfile.gettempdir(), reason="torch.compile splits paths at blanks")
def test_compiled_run_trains_and_resumes_under_the_same_names(
    trained, workbook, tiny_config, monkeypatch
):
    config = tiny_config.updated(tag="compiled", compile=True)
    again = train_with_an_interruption(config, monkeypatch)
    mine, theirs = (final_weights(run)["model"] for run in (again, trained))
    assert mine.keys() == theirs.keys()
    losses = [[row["loss"] for row in read_metrics(run)] for run in (trained, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_stage_is_interrupted_once_its_process_is_gone_waited_for_or_not(trained):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    noted = {"state": "running", "started": time.time(), "host": socket.gethostname()}

    def state(**facts):
        write_json(trained.status_file, {"probe": noted | {"pid": process.pid} | facts})
        return stage_states(trained)["probe"]["state"]

    assert state() == "running"
    assert state(started=time.time() - 3600) == "interrupted"  # another process had this id then
    process.kill()
    assert wait_until(lambda: state() == "interrupted", 5)  # a zombie
    process.wait()
    assert state() == "interrupted"
