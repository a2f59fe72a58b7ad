"""Run the benchmarks and print their table: ``python -m benchmarks [NUMBER ...]``."""

import argparse
import contextlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import data_pass, probing, start, training
from benchmarks.timing import Result
from thesis_lib.stages import provenance

RESULTS = Path(__file__).parent / "results"
GOALS = {
    1: training.step_against_bare,
    2: training.step_against_old,
    3: training.views_of_a_core,
    4: probing.features_once,
    6: probing.many_heads,
    7: training.loss_share,
    8: data_pass.statistics_pass,
    9: start.start,
}


def main() -> None:
    """Measure what is asked for; write ``results/<device>.md`` and ``.json`` when it was all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("numbers", nargs="*", type=int, choices=[*GOALS, []], metavar="NUMBER")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: list[Result] = []
    for number, measure in GOALS.items():
        if options.numbers and number not in options.numbers:
            continue
        with contextlib.redirect_stderr(open(os.devnull, "w")):  # progress bars
            found = list(measure(options.rounds, device))
        results += found
        print("\n".join(map(line, found)), flush=True)
    if not options.numbers:
        write(results, device, options.rounds)


def line(result: Result) -> str:
    """A row of the Markdown table."""
    verdict = "met" if result.met else "NOT MET"
    ours, other = (f"{value:,.4g} {result.unit}" for value in (result.ours, result.other))
    return (
        f"| {result.number} | {result.what} | {ours} | {other} ({result.other_name}) | "
        f"{result.ratio:.3g} | {result.goal} | {verdict} |"
    )


def write(results: list[Result], device: torch.device, rounds: int) -> None:
    """The table and, beside it, every round's seconds as JSON."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    name = gpu or f"{platform.machine()} cpu {cores} cores"
    stem = RESULTS / name.lower().replace(" ", "-")
    stem.parent.mkdir(exist_ok=True)
    head = [
        f"# {name}",
        "",
        f"`make bench`: torch {torch.__version__}, {torch.get_num_threads()} threads; best of "
        f"{rounds} rounds in turns, ratios of medians for 2, 3, 4, 6 and 8.",
        "",
        "| # | what | ours | the other | ratio | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    stem.with_suffix(".md").write_text("\n".join([*head, *map(line, results)]) + "\n")
    origin = {name: provenance()[name] for name in ("git_commit", "python", "versions")}
    content = origin | {"results": [asdict(result) for result in results]}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {stem}.md and .json")


if __name__ == "__main__":
    main()
