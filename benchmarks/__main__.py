"""Run the benchmarks and print their table: ``python -m benchmarks [NUMBER ...]``."""

import argparse
import contextlib
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import (
    cached_views,
    data_pass,
    evaluation,
    growth,
    prediction,
    probing,
    pruning,
    scaling,
    start,
    training,
)
from benchmarks.timing import Result
from thesis_lib.runs.provenance import provenance
from thesis_lib.system import machine
from thesis_lib.system.files import read_json, write_json, write_text

RESULTS = Path(__file__).parent / "results"
GOALS = {
    1: training.step_against_bare,
    2: training.step_against_old,
    3: training.views_of_a_core,
    4: probing.features_once,
    5: cached_views.cached_views,
    6: probing.many_heads,
    7: training.loss_share,
    8: data_pass.statistics_pass,
    9: start.start,
    10: evaluation.evaluation_time,
    11: growth.growth,
    12: pruning.pruning,
    13: prediction.flat_memory,
    14: scaling.second_rank,
}


def main() -> None:
    """Measure what is asked for, or all; renew its rows under ``results/``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("numbers", nargs="*", type=int, choices=[*GOALS, []], metavar="NUMBER")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for number in options.numbers or GOALS:
        with (
            open(os.devnull, "w") as nowhere,  # progress
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            found = list(GOALS[number](options.rounds, device))
        print("\n".join(map(line, found)), flush=True)
        write(number, found, device, options.rounds)


def line(result: Result) -> str:
    """A row of the Markdown table."""
    verdict = ("met" if result.met else "NOT MET") if result.goal else ""
    ours, other = (f"{value:,.4g} {result.unit}" for value in (result.ours, result.other))
    return (
        f"| {result.number} | {result.what} | {ours} | {other} ({result.other_name}) | "
        f"{result.ratio:.3g} | {result.goal} | {verdict} |"
    )


def write(number: int, found: list[Result], device: torch.device, rounds: int) -> None:
    """Put a goal's rows into the table and, with every round's seconds, into the JSON beside it."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    name = gpu or f"{platform.machine()} cpu {machine.num_cores()} cores"
    stem = RESULTS / name.lower().replace(" ", "-")
    file = stem.with_suffix(".json")
    measured = read_json(file) if file.is_file() else {}
    origin = {name: provenance()[name] for name in ("git_commit", "python", "versions")}
    rows = [asdict(result) for result in found]
    measured[str(number)] = {**origin, "rounds": rounds, "results": rows}
    write_json(file, dict(sorted(measured.items(), key=lambda item: int(item[0]))))
    versions = sorted({goal["versions"]["torch"] for goal in measured.values()})
    head = [
        f"# {name}",
        "",
        f"`make bench`: torch {', '.join(versions)}, {torch.get_num_threads()} threads. Best of "
        "some rounds in turns; ratios of the best for 1, 7, 9 and 10, medians of the rounds' "
        "ratios for 2, 3, 4, 6, 8 and 12. The JSON beside it has every round.",
        "",
        "| # | what | ours | the other | ratio | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    results = [Result(**row) for goal in read_json(file).values() for row in goal["results"]]
    write_text(stem.with_suffix(".md"), "\n".join([*head, *map(line, results)]) + "\n")


if __name__ == "__main__":
    main()
