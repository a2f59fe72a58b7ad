"""Start a one-node Slurm in a folder, without systemd, to test jobs on a real cluster."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SBIN = "/usr/sbin"
# linuxproc finds a step's processes by their parents, so signals also reach kernels and loading
# workers. So does proctrack/cgroup, but a container may not allow it.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def can_start() -> bool:
    """Return whether Slurm and munge are installed and this process may start them."""
    path = f"{os.environ['PATH']}:{SBIN}"
    return os.geteuid() == 0 and all(shutil.which(name, path=path) for name in NEEDED)


@contextlib.contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Slurm with this machine as its only node, with two CPUs, for the block.

    Args:
        folder: empty folder for its state, keys and logs.

    Yields:
        The environment variables with which Slurm's commands find it.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    config = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    config.write_text(CONFIG.format(folder=folder, host=host, **ports))
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file")]
    munge += [f"--key-file={key}", f"--log-file={folder}/munge.log", f"--seed-file={folder}/seed"]
    found = {"SLURM_CONF": str(config)}
    commands = (
        [f"{SBIN}/munged", "--foreground", "--force", "--num-threads=1", *munge],
        [f"{SBIN}/slurmctld", "-D", "-c", "-f", str(config)],
        [f"{SBIN}/slurmd", "-D", "-f", str(config)],
    )
    started: list[subprocess.Popen] = []
    environment = {name: value for name, value in os.environ.items() if name[:6] != "SLURM_"}
    try:
        with open(folder / "daemons.txt", "w") as log:
            for command in commands:
                started.append(
                    subprocess.Popen(command, env=environment | found, stdout=log, stderr=log)
                )
                time.sleep(0.5)
        _wait_until_idle(environment | found, folder)
        yield found
    finally:
        _cancel_all(environment | found)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _kill_left(str(config))


def _kill_left(config: str) -> None:
    """Kill leftover processes of jobs, such as a step that waits for stopped daemons."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("SLURM_CONF") == config:
                process.kill()


def _cancel_all(environment: dict[str, str], seconds: float = 40) -> None:
    """Cancel all jobs, which would otherwise keep running after the daemons."""
    subprocess.run(["scancel", f"--user={os.getuid()}"], env=environment, timeout=20)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = subprocess.run(
            ["squeue", "--noheader"], env=environment, capture_output=True, text=True, timeout=20
        )
        if not answer.stdout.strip():
            return
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until_idle(environment: dict[str, str], folder: Path, seconds: float = 30) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        if answer.stdout.strip() == "idle":
            return
        time.sleep(0.3)
    logs = "".join(file.read_text()[-3000:] for file in sorted(folder.glob("*.log")))
    raise RuntimeError(f"Slurm did not start: {answer.stdout}{answer.stderr}\n{logs}")
