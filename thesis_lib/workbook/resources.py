"""Resources that the jobs of a grid request from Slurm, as parameters for submitit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thesis_lib.errors import InputError
from thesis_lib.workbook.slurm_queue import RUN

SECONDS_OF_NOTICE = 120  # Slurm sends SIGUSR2 this long before the time limit; training then saves
# Lines of a job's script, before and after srun. Without the trap, a signal would kill bash before
# srun has waited for everything to be saved. In the first seconds of a job, a signal kills the
# process (status 128 + 12 for SIGUSR2, 128 + 15 for SIGTERM), and the script requeues the job.
BEFORE = ["trap : TERM USR2"]
AFTER = [
    "status=$?",
    "if [ $status -eq 140 ] || [ $status -eq 143 ]; then",
    "    scontrol show job $SLURM_JOB_ID | grep -q JobState=RUNNING &&",
    "        scontrol requeue $SLURM_JOB_ID",
    "fi",
    "exit $status",
]
# Options of sbatch that the jobs depend on and set themselves; others can be passed on.
OURS = (
    *("array", "chdir", "dependency", "error", "job-name", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "requeue", "signal"),
)
# Options of sbatch that `thesis run` has an option for.
OPTIONS = {
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    "mem": "--mem",
    "partition": "--partition",
    "time": "--time",
}


@dataclass(frozen=True)
class Resources:
    """Resources that each job requests from Slurm; None means the cluster's default.

    Args:
        partition: name of the partition.
        gpus: GPUs per run; the jobs of notebooks 01 and 06 request none.
        cpus: cores per job.
        time: time limit of a job, such as 08:00:00 or 2-00:00:00. A run that takes longer
            continues in another job of the same length, any number of times.
        mem: memory per job, such as 32G.
        light_partition: partition of the jobs of 01 and 06; by default the same as ``partition``.
        sbatch: further options of sbatch, NAME=VALUE or NAME.

    Raises:
        InputError: if Slurm would not accept a value, or the jobs set this option themselves.
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
            raise InputError(f"--mem must be a size such as 32G or 500M, not {self.mem!r}")
        if self.time is not None and time_limit(self.time) < 1:
            raise InputError(f"--time must be above zero, not {self.time!r}")
        for name in self.further():
            if not name:
                raise InputError("--sbatch needs NAME=VALUE, such as account=plankton")
            if name in OURS:
                raise InputError(
                    f"--sbatch {name}: the jobs set this option themselves; leave it out"
                )
            if name in OPTIONS:
                raise InputError(f"--sbatch {name}: use the option {OPTIONS[name]} instead")

    def further(self) -> dict[str, Any]:
        """Return the ``sbatch`` options as names and values; the value is True for a name alone."""
        pairs = (text.lstrip("-").partition("=") for text in self.sbatch)
        return {n.replace("_", "-"): value if equals else True for n, equals, value in pairs}

    def parameters(self, kind: str, name: str, after: Sequence[str]) -> dict[str, Any]:
        """Return the parameters of submitit's SlurmExecutor for one job.

        Args:
            kind: DATA_STATS, RUN or THESIS_TABLES.
            name: name of the job.
            after: ids of the jobs that must have ended, successfully or not, before it starts.
        """
        notice = SECONDS_OF_NOTICE
        limit = None if self.time is None else time_limit(self.time)
        if limit is not None:  # a sixth at most, as Slurm may send the signal half a minute early
            notice = min(notice, 60 * limit // 6)
        requested = {
            "job_name": name,
            "partition": self.partition if kind == RUN else self.light_partition or self.partition,
            "gpus_per_node": self.gpus if kind == RUN else None,
            "cpus_per_task": self.cpus,
            "time": limit,
            "mem": self.mem,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
        }
        # Not all versions of srun take these two options over from sbatch.
        srun = ["--open-mode=append", *([f"--cpus-per-task={self.cpus}"] if self.cpus else [])]
        return requested | {
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
    """Parse a time limit in Slurm's format.

    Args:
        text: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Returns:
        Minutes, rounded up.

    Raises:
        InputError: if the text has another format.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise InputError(f"--time must be a limit such as 08:00:00 or 2-00:00:00, not {text!r}")
    days, *fields = (int(field) if field else 0 for field in match.groups())
    num_fields = sum(field is not None for field in match.groups()[1:])
    if match[1] is None and num_fields < 3:  # M or M:S
        fields = [0, *fields[:2]]
    hours, minutes, seconds = fields
    return -(-(((days * 24 + hours) * 60 + minutes) * 60 + seconds) // 60)
