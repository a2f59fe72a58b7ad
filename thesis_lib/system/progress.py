"""Progress: a bar where somebody watches, else lines that suit a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30


def is_watched() -> bool:
    """Whether output goes to a terminal or to a notebook that somebody has open."""
    # Jupyter's server names the session of an open notebook; papermill has no such server.
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


def bar(**options: Any) -> tqdm:
    """A tqdm bar that shows only where it is watched."""
    # A notebook prints what goes to stderr on red.
    stream = sys.stderr if sys.stderr.isatty() else sys.stdout
    return tqdm(disable=not is_watched(), file=stream, **options)


def track(items: Iterable[Item], total: int, what: str, unit: str) -> Iterator[Item]:
    """Pass items on under a bar; unwatched, print a line every half minute and at the end."""
    began = shown = time.monotonic()
    with bar(total=total, desc=what, unit=unit) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.update()
            now = time.monotonic()
            if not is_watched() and (done == total or now - shown > SECONDS_BETWEEN_LINES):
                shown = now
                left = timedelta(seconds=round((now - began) / done * (total - done)))
                print(f"{what}: {done:,} of {total:,} {unit}s, {left} left", flush=True)


class EpochProgress:
    """Progress of a training: loss, throughput and time left; unwatched, one line an epoch."""

    def __init__(self, epochs: int, done: int, images: int) -> None:
        """Begin after ``done`` of ``epochs`` epochs of ``images`` images each."""
        self.epochs, self.done_before = epochs, done
        self.began = time.monotonic()
        self.bar = bar(total=epochs * images, initial=done * images, unit="image", unit_scale=True)

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, images: int) -> None:
        """Note that a batch is done."""
        self.bar.update(images)

    def epoch(self, epoch: int, loss: float, images_per_second: float) -> None:
        """Note that an epoch is done."""
        self.bar.set_description(f"epoch {epoch} loss {loss:.4f}")
        if is_watched():
            return
        per_epoch = (time.monotonic() - self.began) / (epoch - self.done_before)
        left = timedelta(seconds=round(per_epoch * (self.epochs - epoch)))
        print(
            f"epoch {epoch}/{self.epochs}  loss {loss:.4f}  "
            f"{images_per_second:.0f} images/s  {left} left",
            flush=True,
        )
