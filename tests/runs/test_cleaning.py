"""`thesis clean`: frees space, and never removes what a result or another probing needs."""

import pytest

from thesis_lib.cli.command_line import main
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.runs.cleaning import unneeded_files
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import epochs_to_probe, kept_epochs, run_plateau
from thesis_lib.runs.stages import OUTPUTS, is_done
from thesis_lib.system.locks import locked
from thesis_lib.training.pretraining import pretrain


def files_of(run):
    return {path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def finished(workbook, tiny_config):
    """A finished run whose table has the features of an early checkpoint, and leftovers."""
    run = pretrain(tiny_config.updated(epochs=9))
    probe_checkpoints(run)
    final_test(run)
    run = RunDirectory(run.config.updated(table_checkpoint=2))
    retrieve(run)
    (run.checkpoints / "last.pth.1.damaged").write_bytes(b"damaged")
    (run.heads / "head_0001.pth").write_bytes(b"of another plateau")
    (run.path / ".test.json.77.partial").write_bytes(b"{")
    return run


def test_only_what_nothing_needs_is_removed(finished, capsys):
    run, before = finished, files_of(finished)
    probed = set(epochs_to_probe(run))
    assert len(probed) < 8 and 2 not in probed  # else this test shows nothing
    assert main(["clean", "--data", "tiny", "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert files_of(run) == before

    sizes = {path: path.stat().st_size for path in before}
    assert main(["clean"]) == 0
    printed = capsys.readouterr().out.splitlines()
    removed = before - files_of(run)
    assert printed[:-1] == listed[:-1] and len(printed) - 1 == len(removed)
    freed = sum(sizes[path] for path in removed) / 2**20
    assert printed[-1] == f"freed {freed:,.1f} MiB: {len(removed)} files of 1 runs"
    assert listed[-1].startswith(f"would free {freed:,.1f} MiB")

    early = {f"epoch_{epoch:04d}.pth" for epoch in set(range(1, 10)) - probed - {2}}
    leftovers = {"last.pth.1.damaged", "head_0001.pth", ".test.json.77.partial", "previous.pth"}
    assert {path.name for path in removed} == early | leftovers
    assert set(kept_epochs(run)) == probed | {2}
    assert main(["clean"]) == 0
    assert capsys.readouterr().out.startswith("freed 0.0 MiB: 0 files")


def test_a_cleaned_run_stays_done_and_can_be_probed_again(finished):
    probed = epochs_to_probe(finished)
    main(["clean"])
    assert all(is_done(finished, stage) for stage in OUTPUTS)
    again = RunDirectory(finished.config.updated(head_epochs=3))
    assert probe_checkpoints(again)["checkpoint"].tolist() == probed
    final_test(again)
    retrieve(again)


def test_no_checkpoint_between_the_plateau_and_the_last_is_removed(finished):
    """Though only the last ones are probed: the run may be probed again from the plateau on."""
    run = RunDirectory(finished.config.updated(probe_from=9, plateau_share=0.2))
    plateau = run_plateau(run)
    assert plateau is not None and plateau < min(epochs_to_probe(run))
    probe_checkpoints(run)
    main(["clean"])
    assert set(kept_epochs(run)) == {2, *range(plateau, 10)}


def test_runs_in_use_or_unfinished_are_left_alone(workbook, tiny_config, finished, capsys):
    unfinished = pretrain(tiny_config.updated(tag="unfinished"))
    assert list(unneeded_files(unfinished)) == []
    before = files_of(finished)
    with locked(finished.path):
        assert main(["clean"]) == 0
    assert files_of(finished) == before
    assert "left alone: " in capsys.readouterr().out


def test_no_runs_are_named(workbook, finished, capsys):
    assert main(["clean", "--data", "tinny"]) == 2
    assert "there are no runs on 'tinny'; nearest: tiny" in capsys.readouterr().err


def test_without_runs_nothing_is_freed(workbook, capsys):
    assert main(["clean"]) == 0
    assert "0 files of 0 runs" in capsys.readouterr().out
