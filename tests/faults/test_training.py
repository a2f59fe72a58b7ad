"""Faults of a training: non-finite values, dead or hung workers, lack of memory, SIGTERM."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch

from thesis_lib.cli.command_line import main
from thesis_lib.data import transforms
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import EpochBatches, Loader, RandomViews
from thesis_lib.data.statistics import data_statistics
from thesis_lib.errors import InputError
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.runs.directory import RunDirectory, read_json
from thesis_lib.runs.provenance import stage_states
from thesis_lib.system import signals
from thesis_lib.system.signals import EXIT_RESUMABLE
from thesis_lib.training import checkpoints, engine
from thesis_lib.training.pretraining import pretrain


def spoil(monkeypatch, part: str, value: float, step: int) -> None:
    """Put NaN or infinity into one part of the training step with this number."""
    calls = []

    def is_due() -> bool:
        calls.append(None)
        return len(calls) == step

    if part == "a pixel":
        normalise = transforms.normalize

        def spoilt(images, mean, std):
            images = normalise(images, mean, std)
            if is_due():
                images[0, 0, 0, 0] = value
            return images

        monkeypatch.setattr(transforms, "normalize", spoilt)
    else:
        loss_of = engine.method_loss

        def spoilt_loss(config, outputs, labels):
            if not is_due():
                return loss_of(config, outputs, labels)
            if part == "the loss":
                return loss_of(config, outputs, labels) * value
            outputs.register_hook(lambda gradient: gradient * value)  # the loss itself stays finite
            return loss_of(config, outputs, labels)

        monkeypatch.setattr(engine, "method_loss", spoilt_loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["a pixel", "the loss", "a gradient"])
@pytest.mark.parametrize("look_every", [1, 50])
def test_value_that_is_not_finite_stops_before_the_optimizer_moves(
    workbook, tiny_config, monkeypatch, faults, part, value, look_every
):
    """A GPU is checked only every few steps; after the fault, fused SGD skips every update."""
    weights = {}
    whole_step = torch.optim.SGD.step

    def note_after(optimizer, *args):
        result = whole_step(optimizer, *args)
        for number, weight in enumerate(optimizer.param_groups[0]["params"]):
            weights.setdefault(number, []).append(weight.detach().clone())
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", note_after)
    monkeypatch.setitem(engine.LOOK_EVERY, "cpu", look_every)
    spoil(monkeypatch, part, value, step=9)  # step 3 of 6 in the second epoch
    with pytest.raises(InputError) as caught:
        pretrain(tiny_config)
    message = str(caught.value)
    assert f"{part} is not finite in epoch 2, step 3 of 6, with 'train/" in message
    run = RunDirectory(tiny_config)
    assert len(read_json(run.bad_batch_file)) == 8
    assert checkpoints.load(run.last_checkpoint)["position"]["epoch"] == 2  # epoch 1 is done
    assert len(weights[0]) == {1: 8, 50: 11}[look_every]  # 50: checked at the epoch's last step
    for of_weight in weights.values():
        assert all(torch.equal(of_weight[7], later) for later in of_weight[8:])
    faults(f"{value} in {part}, looked at every {look_every} steps", 1, 1)


def test_control_without_the_watch_the_weights_are_spoilt(workbook, tiny_config, monkeypatch):
    monkeypatch.setattr(engine._Watch, "note", lambda self, *parts: None)
    spoil(monkeypatch, "a gradient", float("nan"), step=9)
    run = pretrain(tiny_config)
    weights = checkpoints.load(run.last_checkpoint)["model"]
    assert any(value.isnan().any() for value in weights.values() if value.is_floating_point())


def test_output_of_the_network_that_is_not_finite_is_named(workbook, tiny_config, monkeypatch):
    """With a logit of minus infinity for another class, the cross-entropy stays finite."""
    config = tiny_config.updated(method="cross-entropy")
    loss_of = engine.method_loss

    def spoilt(config, outputs, labels):
        outputs.data[torch.arange(len(labels)), (labels + 1) % 3] = -torch.inf
        return loss_of(config, outputs, labels)

    monkeypatch.setattr(engine, "method_loss", spoilt)
    with pytest.raises(InputError, match=r"an output of the network is not finite in epoch 1"):
        pretrain(config)


def test_features_that_are_not_finite_are_not_probed(workbook, tiny_config, monkeypatch):
    run = pretrain(tiny_config)
    normalise = transforms.normalize

    def spoilt(images, mean, std):
        images = normalise(images, mean, std)
        images[1] = torch.nan
        return images

    monkeypatch.setattr(transforms, "normalize", spoilt)
    with pytest.raises(InputError, match=r"features are not finite for 'train/.*\.png'"):
        probe_checkpoints(run)


def in_worker(monkeypatch, fault) -> None:
    """Make a loading worker fail at its fifth batch, but never this process."""
    parent, get, calls = os.getpid(), RandomViews.__getitem__, []

    def faulty(self, keys):
        calls.append(None)
        if os.getpid() != parent and len(calls) == 5:
            fault()
        return get(self, keys)

    monkeypatch.setattr(RandomViews, "__getitem__", faulty)


WORKER_FAULTS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "ends with 0": lambda: os._exit(0),
    "ends with 1": lambda: os._exit(1),
    "hangs": lambda: time.sleep(600),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
TIMEOUT = 3.0


def children() -> set[psutil.Process]:
    """The processes that this one has started; earlier tests may have left a resource tracker."""
    return set(psutil.Process().children())


@pytest.mark.parametrize("kind", WORKER_FAULTS)
def test_faulty_loading_worker_ends_the_run_which_goes_on(
    workbook, tiny_config, monkeypatch, faults, kind
):
    whole = checkpoints.load(pretrain(tiny_config.updated(tag="whole")).last_checkpoint)
    before = children()
    config = tiny_config.updated(workers=2, worker_timeout=TIMEOUT)
    with monkeypatch.context() as patched:
        in_worker(patched, WORKER_FAULTS[kind])
        began = time.monotonic()
        with pytest.raises(InputError, match="a worker that loads images was killed, stopped, or"):
            pretrain(config)
        assert time.monotonic() - began < TIMEOUT + 10
    assert children() <= before
    assert stage_states(RunDirectory(config))["pretrain"]["state"] == "failed"
    final = checkpoints.load(pretrain(config).last_checkpoint)
    assert all(torch.equal(final["model"][k], v) for k, v in whole["model"].items())
    faults(f"a loading worker {kind}", 1, 1)


def test_control_a_hung_worker_is_waited_for_without_the_timeout(
    workbook, tiny_config, monkeypatch
):
    """By default, torch waits forever."""
    in_worker(monkeypatch, WORKER_FAULTS["hangs"])
    timed_out = []
    config = tiny_config.updated(workers=2, worker_timeout=3600)

    def give_up(*_):
        timed_out.append(True)
        raise TimeoutError

    previous = signal.signal(signal.SIGUSR1, give_up)
    timer = threading.Timer(4 * TIMEOUT, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(TimeoutError):
            pretrain(config)
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, previous)
    assert timed_out


def test_lack_of_memory_is_told_with_the_batch_size(workbook, tiny_config, monkeypatch, faults):
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def starve(*_, error=error):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(engine, "method_loss", starve)
            with pytest.raises(
                InputError, match=r"out of memory with batch_size 8, which is never reduced"
            ):
                pretrain(tiny_config)
    assert read_json(RunDirectory(tiny_config).config_file)["batch_size"] == 8
    faults("out of memory", 3, 3)


def test_control_without_plain_words_memory_and_workers_are_tracebacks(
    workbook, tiny_config, monkeypatch
):
    unexplained = contextlib.nullcontext()
    name = "thesis_lib.training.stage.translate_torch_errors"
    monkeypatch.setattr(name, lambda *_: unexplained)
    in_worker(monkeypatch, WORKER_FAULTS["killed"])
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        pretrain(tiny_config.updated(workers=2, worker_timeout=TIMEOUT))


def test_error_of_the_code_in_a_worker_is_not_called_a_killed_worker(
    workbook, tiny_config, monkeypatch
):
    def broken():
        raise RuntimeError("shapes differ")

    in_worker(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        pretrain(tiny_config.updated(workers=2))


@pytest.mark.parametrize(("mib", "what"), [(512, "batch_size 40"), (60, "backbone resnet50")])
def test_memory_that_is_really_short_is_one_line(workbook, mib, what):
    """The limit is set by the system, so torch's own allocator fails: in a step, or before it."""
    data_statistics(open_dataset("data/tiny"))  # measured before memory becomes short
    code = (
        "import resource, sys, torch\n"
        "from thesis_lib.cli.command_line import main\n"
        "from thesis_lib.reporting.tables import runs as tables\n"
        "from thesis_lib.training import pretraining\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {mib} * 2**20,) * 2)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "pretrain", "--data", "data/tiny", "--batch-size", "40"]
    command += ["--backbone", "resnet50", "--image-size", "224", "--epochs", "1", "--cache", "none"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"thesis: error: out of memory with {what}")
    assert "Traceback" not in run.stderr


def training_process(
    workbook, *options: str, program: tuple[str, str] = ("-m", "thesis_lib")
) -> subprocess.Popen:
    """Start `thesis pretrain` with many epochs; return its process once it is training."""
    command = [sys.executable, *program, "pretrain", "--data", "data/tiny"]
    command += ["--backbone", "lenet5", "--batch-size", "8", "--image-size", "32"]
    command += ["--epochs", "2000", "--save-every", "2000", "--rolling-minutes", "60", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            return process
    raise AssertionError("it did not start to train")


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, EXIT_RESUMABLE), (signal.SIGINT, 130)]
)
def test_signal_ends_a_training_after_a_save(workbook, faults, number, status, workers):
    """The signal goes to the whole process group, as clusters and terminals send it."""
    process = training_process(workbook, "--workers", workers)
    began = time.monotonic()
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 30
    assert process.returncode == status
    assert out.splitlines()[-1].startswith("thesis: ") and "Traceback" not in out
    last = next((workbook / "runs").rglob("last.pth"))
    assert checkpoints.load(last)["position"]["epoch"] >= 4
    run = RunDirectory.open(last.parent.parent)
    assert stage_states(run)["pretrain"]["state"] == "interrupted"
    faults(f"{number.name} to a training with {workers} workers", 1, 1)


def test_control_without_deferral_sigterm_saves_nothing(workbook):
    unprotected = (
        "import contextlib, sys\nfrom thesis_lib.training import pretraining as pretrain\n"
        "from thesis_lib.system.signals import Deferral\n"
        "from thesis_lib.cli.command_line import main\n"
        "pretrain.deferred_signals = lambda: contextlib.nullcontext(Deferral())\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = training_process(workbook, program=("-c", unprotected))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == EXIT_RESUMABLE
    assert not list((workbook / "runs").rglob("*.pth"))


def test_step_that_takes_too_long_is_left(workbook, tiny_config, monkeypatch):
    """Machines are shut down after 30 seconds, whether the run has saved or not."""
    monkeypatch.setattr(signals, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(engine, "method_loss", lambda *_: time.sleep(60))
    arguments = ["pretrain", "--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]
    timer = threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    assert main([*arguments, "--image-size", "32", "--epochs", "2"]) == EXIT_RESUMABLE
    assert time.monotonic() - began < 20


def test_second_interrupt_is_obeyed_at_once():
    with pytest.raises(KeyboardInterrupt), signals.deferred_signals() as deferral:
        signal.raise_signal(signal.SIGINT)
        assert deferral.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def test_workers_end_with_their_loader_also_when_they_ignore_sigterm(workbook, tiny_config):
    from thesis_lib.data.cache import Images
    from thesis_lib.data.datasets import open_dataset

    images, before = Images(open_dataset("data/tiny").splits["train"]), children()
    with Loader(
        RandomViews(images, Frame(32, "crop"), 1), EpochBatches(len(images), 8, 1), 2, False
    ) as loader:
        next(iter(loader))
        assert len(children() - before) >= 2
    assert children() <= before
