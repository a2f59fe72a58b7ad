"""Remove the files of finished runs that nothing needs any more, to free disk space.

Kept are all files that a figure, a table, ``thesis verify``, ``predict`` or another probing from
the same checkpoint on reads.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thesis_lib.errors import InputError
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.plateau import epochs_to_probe, kept_epochs, run_plateau
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json
from thesis_lib.system.locks import locked
from thesis_lib.system.paths import relative_to_root


@dataclass(frozen=True)
class Unneeded:
    """A file that nothing needs: its path, its size in bytes, and why it is not needed."""

    path: Path
    size: int
    why: str


def unneeded_files(run: RunDirectory) -> Iterator[Unneeded]:
    """Find the files of a finished run that nothing needs; of an unfinished run, none.

    A run is finished if its checkpoints were probed with its current settings. Of its
    checkpoints, those from the loss plateau on are kept, and from ``probe_from`` on if that is
    earlier.
    """
    if not is_done(run, "probe"):
        return
    probed, chosen = set(read_json(run.selection_file)["probed"]), _chosen_epochs(run)
    first = min(*epochs_to_probe(run), *probed, run_plateau(run) or run.config.epochs)
    for epoch in kept_epochs(run):
        if epoch < first and epoch not in chosen:
            yield _unneeded(run.checkpoints / f"epoch_{epoch:04d}.pth", "before the loss plateau")
    if run.last_checkpoint.is_file() and run.previous_checkpoint.is_file():
        yield _unneeded(run.previous_checkpoint, "a copy in case training was interrupted")
    for path in sorted(run.checkpoints.glob("*.damaged")):
        yield _unneeded(path, "damaged")
    for path in sorted(run.heads.glob("head_*.pth")):
        match = re.fullmatch(r"head_(\d+)\.pth", path.name)
        if match and int(match[1]) not in probed:
            yield _unneeded(path, "a head of a checkpoint that is no longer probed")
    for path in sorted(run.path.rglob(".*.partial")):
        if path.is_file():
            yield _unneeded(path, "half-written by a process that was killed")


def _chosen_epochs(run: RunDirectory) -> set[int]:
    """Return the checkpoints of the selected head and of the look-up table."""
    files = (run.selection_file, run.table_choice_file, run.retrieval_test_file, run.test_file)
    chosen = {read_json(file)["checkpoint"] for file in files if file.is_file()}
    return {epoch for epoch in (*chosen, run.config.table_checkpoint) if epoch is not None}


def _unneeded(path: Path, why: str) -> Unneeded:
    return Unneeded(path, path.stat().st_size, why)


def free_space(runs: list[RunDirectory], dry_run: bool) -> list[str]:
    """Remove what the runs no longer need; return lines that list each file and the total.

    A run that another process is using is left alone.

    Args:
        runs: the runs.
        dry_run: only list the files.
    """
    lines, count, total = [], 0, 0
    for run in runs:
        try:
            with locked(run.path):
                for file in unneeded_files(run):
                    lines.append(f"{relative_to_root(file.path)}  {_mib(file.size)}  {file.why}")
                    count, total = count + 1, total + file.size
                    if not dry_run:
                        file.path.unlink()
        except InputError as error:
            lines.append(f"left alone: {error}")
    verb = "would free" if dry_run else "freed"
    return [*lines, f"{verb} {_mib(total)}: {count:,} files of {len(runs):,} runs"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
