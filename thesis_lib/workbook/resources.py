"""What the jobs of a grid ask of a Slurm cluster, as submitit takes it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thesis_lib.errors import InputError
from thesis_lib.workbook.slurm_queue import RUN

SECONDS_OF_NOTICE = 120  # before the time limit: SIGUSR2, which a training saves on
# Lines of a job's script: without the trap, bash would not wait for srun, which waits until all is
# saved. A signal in a job's first seconds, which nobody hears yet, kills it: status 128 + 12 or 15.
BEFORE = ["trap : TERM USR2"]
AFTER = [
    "status=$?",
    "if [ $status -eq 140 ] || [ $status -eq 143 ]; then",
    "    scontrol show job $SLURM_JOB_ID | grep -q JobState=RUNNING &&",
    "        scontrol requeue $SLURM_JOB_ID",
    "fi",
    "exit $status",
]
# sbatch's settings that jobs stand or fall by; others can be given as they are.
OURS = (
    *("array", "chdir", "dependency", "error", "job-name", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "requeue", "signal"),
)
# Those that have an option here.
OPTIONS = {
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    "mem": "--mem",
    "partition": "--partition",
    "time": "--time",
}


@dataclass(frozen=True)
class Resources:
    """What each run asks of Slurm; None leaves it to the cluster.

    Args:
        partition: its name.
        gpus, cpus: of a run; the jobs of 01 and 06 ask for no GPU.
        time: limit, such as 08:00:00 or 2-00:00:00; a run may take any number of such slots.
        mem: memory, such as 32G.
        light_partition: of the jobs of 01 and 06; by default the same one.
        sbatch: further settings of sbatch, NAME=VALUE or NAME.

    Raises:
        InputError: for a value that Slurm would not take, or that jobs stand or fall by.
    """

    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    time: str | None = None
    mem: str | None = None
    light_partition: str | None = None
    sbatch: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("gpus", "cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, not {value}")
        if self.mem is not None and not re.fullmatch(r"\d+[KMGT]?B?", self.mem, re.IGNORECASE):
            raise InputError(f"--mem must be such as 32G or 500M, not {self.mem!r}")
        if self.time is not None and time_limit(self.time) < 1:
            raise InputError(f"--time must be more than nothing, not {self.time!r}")
        for name in self.further():
            if not name:
                raise InputError("--sbatch takes NAME=VALUE, such as account=plankton")
            if name in OURS:
                raise InputError(f"--sbatch {name}: jobs set this themselves; leave it out")
            if name in OPTIONS:
                raise InputError(f"--sbatch {name}: give it as {OPTIONS[name]}")

    def further(self) -> dict[str, Any]:
        """``sbatch`` as names and values; True for a name alone."""
        pairs = (text.lstrip("-").partition("=") for text in self.sbatch)
        return {n.replace("_", "-"): value if equals else True for n, equals, value in pairs}

    def parameters(self, kind: str, name: str, after: Sequence[str]) -> dict[str, Any]:
        """What submitit's SlurmExecutor is given for one job.

        Args:
            kind: DATA_STATS, RUN or THESIS_TABLES.
            name: the job's.
            after: ids of the jobs whose end it waits for, however they end.
        """
        notice = SECONDS_OF_NOTICE
        limit = None if self.time is None else time_limit(self.time)
        if limit is not None:  # Slurm may send it half a minute too early
            notice = min(notice, 60 * limit // 6)
        asked = {
            "job_name": name,
            "partition": self.partition if kind == RUN else self.light_partition or self.partition,
            "gpus_per_node": self.gpus if kind == RUN else None,
            "cpus_per_task": self.cpus,
            "time": limit,
            "mem": self.mem,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
        }
        # srun takes neither from sbatch in all versions.
        srun = ["--open-mode=append", *([f"--cpus-per-task={self.cpus}"] if self.cpus else [])]
        return asked | {
            "ntasks_per_node": 1,
            "wckey": None,
            "stderr_to_stdout": True,
            "srun_args": srun,
            "setup": BEFORE,
            "teardown": AFTER,
            "additional_parameters": {
                "requeue": True,
                "signal": f"USR2@{notice}",
                **self.further(),
            },
        }


def time_limit(text: str) -> int:
    """Minutes of a time limit as Slurm writes it, rounded up.

    Args:
        text: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        InputError: for another text.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise InputError(f"--time must be such as 08:00:00 or 2-00:00:00, not {text!r}")
    days, *parts = (int(part) if part else 0 for part in match.groups())
    given = sum(part is not None for part in match.groups()[1:])
    if match[1] is None and given < 3:  # minutes come first
        parts = [0, *parts[:2]]
    hours, minutes, seconds = parts
    return -(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60)
