"""How fast the command answers."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import Result, best, in_turns
from thesis_lib.config import RunConfig
from thesis_lib.runs.artifacts import METRICS_COLUMNS
from thesis_lib.system.files import write_json, write_text

RUNS, EPOCHS = 50, 1000


def write_runs(root: Path) -> None:
    """Fifty trained runs, as far as ``thesis status`` looks at them."""
    values = ",".join("1.5" for _ in METRICS_COLUMNS[1:])
    rows = "".join(f"{epoch},{values}\n" for epoch in range(1, EPOCHS + 1))
    for seed in range(RUNS):
        config = RunConfig(data="data/x", seed=seed)
        run = root / "runs" / "x" / config.run_name
        write_json(run / "config.json", config.to_dict())
        write_json(run / "provenance.json", [{"data_fingerprint": "0123"}])
        state = {"started": 0, "host": "elsewhere", "pid": 1, "state": "done", "seconds": 60}
        write_json(run / "status.json", {"pretrain": state})
        write_text(run / "metrics.csv", ",".join(METRICS_COLUMNS) + "\n" + rows)


def start(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 9: whole commands, from the shell's side, against a bare interpreter."""
    command = [sys.executable, "-m", "thesis_lib"]
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder))

        def call(*words: str) -> None:
            subprocess.run(words, cwd=folder, check=True, capture_output=True)

        seconds = in_turns(
            rounds,
            help=lambda: call(*command, "--help"),
            status=lambda: call(*command, "status"),
            bare=lambda: call(sys.executable, "-c", "pass"),
        )
    for name, limit in (("help", 0.5), ("status", 1.0)):
        taken = best(seconds[name])
        what = {"help": "thesis --help", "status": f"thesis status on {RUNS} runs"}[name]
        other = best(seconds["bare"])
        goal = f"< {limit} s"
        yield Result(
            9, what, "s", taken, other, "bare python", taken / other, goal, taken < limit, seconds
        )
