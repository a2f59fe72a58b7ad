"""A run's files: killed writers, changed bytes, full disks, and two processes on one run."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json, sweep_partial, write_json, write_text
from thesis_lib.system.locks import locked
from thesis_lib.training import checkpoints
from thesis_lib.training.pretraining import pretrain

FORK = multiprocessing.get_context("fork")


def content(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"seed": seed, "model": {"weight": torch.randn(200, 1000, generator=generator)}}


def save_for_ever(path: Path, save) -> None:
    for seed in range(10**6):
        save(path, content(seed % 5))


def save_in_place(path: Path, content: dict) -> None:
    """Overwrite the existing file, as plain torch.save does."""
    torch.save(content, path)


def killed_during_saves(path: Path, save, times: int) -> list[bool]:
    """Kill a saving process repeatedly; return whether the file could be loaded each time."""
    loadable, moments = [], random.Random(0)
    for _ in range(times):
        process = FORK.Process(target=save_for_ever, args=(path, save))
        process.start()
        time.sleep(moments.uniform(0.02, 0.2))
        process.kill()
        process.join()
        try:
            found = torch.load(path, weights_only=True)
            loadable.append(
                torch.equal(found["model"]["weight"], content(found["seed"])["model"]["weight"])
            )
        except (RuntimeError, OSError, EOFError):
            loadable.append(False)
    return loadable


def test_sigkill_during_a_save_leaves_a_checkpoint_that_loads(tmp_path, faults):
    path = tmp_path / "last.pth"
    checkpoints.save(path, content(0))
    loadable = killed_during_saves(path, checkpoints.save, 20)
    assert len(list(tmp_path.glob(".*.partial"))) > 0  # some kill came in the middle of a write
    sweep_partial(tmp_path, older_than=0)
    assert os.listdir(tmp_path) == ["last.pth"]
    faults("SIGKILL while a checkpoint is saved", 20, sum(loadable))


def test_control_saving_in_place_loses_checkpoints(tmp_path):
    torch.save(content(0), tmp_path / "last.pth")
    assert not all(killed_during_saves(tmp_path / "last.pth", save_in_place, 20))


def test_strays_of_a_killed_write_are_swept_at_the_next_start(workbook, tiny_config):
    run = RunDirectory(tiny_config)
    strays = [run.path / ".metrics.csv.1.partial", run.checkpoints / ".last.pth.1.partial"]
    for stray in strays:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_text("half")
    pretrain(tiny_config.updated(epochs=1, save_every=1))
    assert not any(stray.exists() for stray in strays)


def test_control_without_the_sweep_strays_stay(workbook, tiny_config, monkeypatch):
    stray = RunDirectory(tiny_config).checkpoints / ".last.pth.1.partial"
    stray.parent.mkdir(parents=True)
    stray.write_text("half")
    monkeypatch.setattr("thesis_lib.training.stage.sweep_partial", lambda *_, **__: [])
    pretrain(tiny_config.updated(epochs=1, save_every=1))
    assert stray.exists()


def test_partial_file_of_a_living_writer_is_not_swept(tmp_path):
    stray = tmp_path / ".tables.tex.1.partial"
    stray.write_text("half")
    assert sweep_partial(tmp_path) == []  # just written, so its writer may still be running
    os.utime(stray, (1, 1))
    assert sweep_partial(tmp_path) == [stray]


def damages(whole: bytes) -> dict[str, list[bytes]]:
    """Return many damaged versions of a file for each kind of damage, at random places."""
    moments = random.Random(1)
    flipped, cut, zeroed = [], [], []
    for _ in range(300):
        changed = bytearray(whole)
        bit = moments.randrange(8 * len(whole))
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    cut = [whole[: moments.randrange(len(whole))] for _ in range(100)]
    while len(zeroed) < 100:
        start = 4096 * moments.randrange(len(whole) // 4096)
        page = whole[start : start + 4096]
        if any(page):
            zeroed.append(whole[:start] + bytes(len(page)) + whole[start + 4096 :])
    return {"bit flips": flipped, "truncations": cut, "zeroed pages": zeroed}


def is_found(path: Path, load) -> bool:
    try:
        load(path)
    except (InputError, RuntimeError, OSError, EOFError):
        return True
    return False


@pytest.mark.parametrize("kind", ["bit flips", "truncations", "zeroed pages"])
@pytest.mark.parametrize("saved_by", ["us", "torch alone"])
def test_damage_to_a_checkpoint_is_found(tmp_path, faults, kind, saved_by):
    path = tmp_path / "epoch_0050.pth"
    (checkpoints.save if saved_by == "us" else save_in_place)(path, content(0))
    if saved_by == "torch alone":
        sound = checkpoints.load(path)  # relies on the checksums of the zip format
    found = 0
    for damaged in damages(path.read_bytes())[kind]:
        path.write_bytes(damaged)
        try:
            loaded = checkpoints.load(path)
        except checkpoints.DamagedError:
            found += 1
        else:  # the zip's padding has no checksum and no data
            assert saved_by == "torch alone"
            found += torch.equal(loaded["model"]["weight"], sound["model"]["weight"])
    times = 300 if kind == "bit flips" else 100
    assert found == times
    if saved_by == "us":
        faults(f"{kind} of a checkpoint, found on load", times, found)


def test_control_torch_loads_flipped_bits_without_a_word(tmp_path):
    path = tmp_path / "epoch_0050.pth"
    checkpoints.save(path, content(0))
    found = 0
    for damaged in damages(path.read_bytes())["bit flips"]:
        path.write_bytes(damaged)
        found += is_found(path, lambda path: torch.load(path, weights_only=True))
    assert found < 30


def flip_a_bit(path: Path) -> None:
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)


def test_newest_sound_checkpoint_is_used_and_the_user_is_told(
    workbook, tiny_config, monkeypatch, capsys, faults
):
    run = pretrain(tiny_config)
    whole = checkpoints.load(run.last_checkpoint)
    run.metrics_file.unlink()
    flip_a_bit(run.last_checkpoint)
    flip_a_bit(run.previous_checkpoint)
    os.utime(checkpoints.checkpoint_path(run, 1))  # a copied run can have any file times
    pretrain(tiny_config)
    out = capsys.readouterr().out
    assert out.count("is damaged or incomplete") == 2
    assert "resuming from runs/tiny/lenet5-bs8-seed42/checkpoints/epoch_0004.pth, epoch 5" in out
    assert len(list(run.checkpoints.glob("*.damaged"))) == 2
    run.metrics_file.unlink()
    flip_a_bit(run.last_checkpoint)
    flip_a_bit(checkpoints.checkpoint_path(run, 4))
    pretrain(tiny_config)
    assert "checkpoints/epoch_0003.pth, epoch 4" in capsys.readouterr().out
    final = checkpoints.load(run.last_checkpoint)
    same = [torch.equal(final["model"][k], v) for k, v in whole["model"].items()]
    faults("newest checkpoints damaged, the one before used", 4, 4 if all(same) else 0)


def test_control_torch_alone_would_go_on_with_flipped_bits(workbook, tiny_config, monkeypatch):
    whole = checkpoints.load(pretrain(tiny_config.updated(tag="whole")).last_checkpoint)
    run = pretrain(tiny_config.updated(epochs=2))
    config = read_json(run.config_file)
    write_json(run.config_file, config | {"epochs": 4})
    flip_a_bit(run.last_checkpoint)
    monkeypatch.setattr(checkpoints, "load", lambda path: torch.load(path, weights_only=True))
    final = checkpoints.load(pretrain(tiny_config.updated(force=True)).last_checkpoint)
    assert not all(torch.equal(final["model"][k], v) for k, v in whole["model"].items())


def test_run_without_a_sound_checkpoint_is_not_begun_anew_silently(workbook, tiny_config):
    run = pretrain(tiny_config)
    rows = run.metrics_file.read_text()
    for path in run.checkpoints.glob("*.pth"):
        flip_a_bit(path)
    run.metrics_file.write_text("\n".join(rows.splitlines()[:3]) + "\n")
    damaged = "all checkpoints of lenet5-bs8-seed42 are damaged; restore"
    with pytest.raises(InputError, match=damaged):
        pretrain(tiny_config)
    assert len(list(run.checkpoints.glob("*.pth"))) == 6
    assert len(run.metrics_file.read_text().splitlines()) == 3
    pretrain(tiny_config.updated(force=True))
    assert run.metrics_file.read_text().splitlines()[-1].startswith("4,")


def test_lack_of_memory_on_load_is_no_damage(workbook, tiny_config, monkeypatch):
    run = pretrain(tiny_config)
    run.metrics_file.unlink()

    def starve(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", starve)
    with pytest.raises(InputError, match="out of memory"):
        pretrain(tiny_config)
    assert not list(run.checkpoints.glob("*.damaged"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes the rights of root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def big(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"model": {"weight": torch.randn(6 * 2**18, generator=generator)}}  # 6 MiB


def test_full_disk_leaves_the_old_checkpoint_and_says_what_is_missing(small_disk, faults):
    path = small_disk / "last.pth"
    checkpoints.save(path, big(0))
    (small_disk / "other").write_bytes(bytes(6 * 2**20))
    with pytest.raises(
        InputError, match=r"disk is full: .*last\.pth needs 6,\d+,\d+ bytes, [\d,]+ "
    ):
        checkpoints.save(path, big(1))
    assert sorted(os.listdir(small_disk)) == ["last.pth", "other"]
    assert torch.equal(checkpoints.load(path)["model"]["weight"], big(0)["model"]["weight"])
    (small_disk / "other").unlink()
    checkpoints.save(path, big(1))
    assert torch.equal(checkpoints.load(path)["model"]["weight"], big(1)["model"]["weight"])
    faults("disk full while a checkpoint is saved", 1, 1)


def test_control_saving_in_place_on_a_full_disk_loses_the_old_one(small_disk):
    path = small_disk / "last.pth"
    torch.save(big(0), path)
    (small_disk / "other").write_bytes(bytes(9 * 2**20))
    with pytest.raises((RuntimeError, OSError)):
        torch.save({"model": torch.zeros(4 * 2**20)}, path)
    with pytest.raises((RuntimeError, OSError, EOFError)):
        torch.load(path, weights_only=True)


def test_run_goes_on_when_there_is_room_again(small_disk, workbook, tiny_config, faults):
    """The disk fills up during a training, when status, tables and checkpoints are written."""
    whole = checkpoints.load(pretrain(tiny_config.updated(tag="whole")).last_checkpoint)
    (workbook / "runs").rename(workbook / "elsewhere")
    (workbook / "runs").symlink_to(small_disk)
    filler, saved, save = small_disk / "filler", [], checkpoints.save

    def save_then_fill(path, content):
        save(path, content)
        saved.append(path)
        if len(saved) == 4:  # epoch 2 and last.pth after it
            with open(filler, "wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    os.write(file.fileno(), bytes(4096))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoints, "save", save_then_fill)
        with pytest.raises(InputError, match=r"disk is full: .* bytes are free"):
            pretrain(tiny_config)
    filler.unlink()
    final = checkpoints.load(pretrain(tiny_config).last_checkpoint)
    assert all(torch.equal(final["model"][k], v) for k, v in whole["model"].items())
    faults("disk full in a training, which goes on when there is room", 1, 1)


def test_space_for_the_checkpoints_to_come_is_checked_before_a_start(
    workbook, tiny_config, monkeypatch
):
    class Little:
        free = 10_000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Little)
    with pytest.raises(
        InputError, match=r"the 4 remaining checkpoints need [\d,]+ MiB .* only 0 MiB are free"
    ):
        pretrain(tiny_config)
    assert not RunDirectory(tiny_config).config_file.exists()
    pretrain(tiny_config.updated(force=True))


HOLDER = """
import sys, time, multiprocessing
from pathlib import Path
from thesis_lib.system.locks import locked
with locked(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run and has a child; and the child's pid."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    yield process, worker
    process.kill()
    process.wait()
    os.kill(worker, signal.SIGKILL)


def test_second_process_is_refused_and_told_who_holds_the_run(tmp_path, holder, faults):
    process, _ = holder
    with (
        pytest.raises(
            InputError, match=rf"in use by process {process.pid} on {os.uname().nodename}"
        ),
        locked(tmp_path / "run"),
    ):
        pass
    faults("a second process on one run is refused", 1, 1)


def test_control_without_the_lock_both_are_let_in(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("fcntl.lockf", lambda *_: None)
    with locked(tmp_path / "run"):
        pass


def test_lock_of_a_killed_owner_is_free_while_its_worker_lives(tmp_path, holder, faults):
    process, worker = holder
    process.kill()
    process.wait()
    os.kill(worker, 0)  # it is still running
    with locked(tmp_path / "run"):
        pass
    faults("the lock of a killed owner, its workers alive", 1, 1)


def test_control_flock_would_stay_with_the_worker(tmp_path):
    import fcntl

    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
    with open(tmp_path / "lock", "w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    worker.kill()
    worker.join()


def test_run_that_is_being_trained_cannot_be_trained_probed_or_tested(workbook, tiny_config):
    from thesis_lib.evaluation.probing import probe_checkpoints
    from thesis_lib.evaluation.testing import final_test

    run = pretrain(tiny_config)
    with locked(run.path), pytest.raises(InputError, match="in use by process"):
        probe_checkpoints(run)
    probe_checkpoints(run)
    with locked(run.path), pytest.raises(InputError, match="in use by process"):
        final_test(run)
    with locked(run.path), pytest.raises(InputError, match="in use by process"):
        pretrain(RunConfig.from_dict(run.config.to_dict() | {"force": True}))


def test_small_files_are_whole_after_kills(tmp_path, faults):
    def write(path: Path) -> None:
        for number in range(10**6):
            write_json(path / "a.json", [number] * 20_000)
            write_text(path / "b.csv", f"{number}\n" * 20_000)

    moments, whole = random.Random(3), 0
    for _ in range(10):
        process = FORK.Process(target=write, args=(tmp_path,))
        process.start()
        while not (tmp_path / "b.csv").is_file():
            time.sleep(0.01)
        time.sleep(moments.uniform(0.02, 0.2))
        process.kill()
        process.join()
        lines, numbers = (
            (tmp_path / "b.csv").read_text().splitlines(),
            read_json(tmp_path / "a.json"),
        )
        whole += all(len(found) == 20_000 and len(set(found)) == 1 for found in (lines, numbers))
    faults("SIGKILL while tables and JSON are written", 10, whole)


def test_spoilt_metrics_are_written_again_from_the_last_checkpoint(workbook, tiny_config):
    run = pretrain(tiny_config)
    whole = run.metrics_file.read_text()
    run.metrics_file.write_text(whole.replace("3,", "x,", 1))
    with pytest.raises(InputError, match=r"metrics\.csv has a cell that is not a number"):
        pretrain(tiny_config)
    run.metrics_file.unlink()
    pretrain(tiny_config)
    assert run.metrics_file.read_text() == whole
