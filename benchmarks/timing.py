"""Two things timed in one process, in turns, so that a noisy machine troubles both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One line of the table: ``ratio`` is what the goal speaks of, ``met`` whether it holds.

    ``seconds``: what was timed -> its rounds.
    """

    number: int
    what: str
    unit: str
    ours: float
    other: float
    other_name: str
    ratio: float
    goal: str
    met: bool
    seconds: dict[str, list[float]] = field(default_factory=dict)


def in_turns(rounds: int, **timed: Callable[[], object]) -> dict[str, list[float]]:
    """Run each function once a round, in an order that turns; seconds of each round.

    A first round, which is not counted, warms caches up.
    """
    names = list(timed)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            timed[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def best(seconds: list[float]) -> float:
    """The fastest round: what the machine can do when nothing disturbs it."""
    return min(seconds)


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of one time by the other of the same round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
