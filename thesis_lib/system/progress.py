"""Show progress as a bar on a terminal or in an open notebook, or as lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from tqdm import tqdm

from thesis_lib.system import processes

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30


def is_watched() -> bool:
    """Return whether the output of this process goes to a terminal or an open notebook."""
    if not processes.is_main_process():
        return False
    # Jupyter's server sets JPY_SESSION_NAME for an open notebook; papermill does not.
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


def bar(**options: Any) -> tqdm:
    """Make a tqdm bar that is shown only on a terminal or in an open notebook."""
    # Notebooks show stderr on a red background.
    stream = sys.stderr if sys.stderr.isatty() else sys.stdout
    return tqdm(disable=not is_watched(), file=stream, **options)


def elapsed_words(seconds: float) -> str:
    """Format a duration as ``3 d 21 h 4 min``; below an hour, seconds are included."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h {minutes} min"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def track(items: Iterable[Item], total: int, what: str, unit: str) -> Iterator[Item]:
    """Yield the items while showing progress.

    Without a bar, a line is printed every half minute and at the end.

    Args:
        items: what to iterate over.
        total: number of items.
        what: label of the bar or line.
        unit: what one item is, in the singular.
    """
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
    """Progress of a training: loss, throughput and time left.

    Without a bar, one line is printed per epoch.

    Args:
        epochs: number of epochs of the whole training.
        done: number of epochs done before this start.
        num_images: number of images per epoch.
    """

    def __init__(self, epochs: int, done: int, num_images: int) -> None:
        self.epochs, self.done_before = epochs, done
        self.began = time.monotonic()
        total, initial = epochs * num_images, done * num_images
        self.bar = bar(total=total, initial=initial, unit="image", unit_scale=True)

    def __enter__(self) -> "EpochProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, num_images: int) -> None:
        """Advance the bar by a batch of ``num_images`` images."""
        self.bar.update(num_images)

    def epoch(self, epoch: int, loss: float, images_per_second: float) -> None:
        """Show that an epoch is done, with its mean loss; without a bar, print a line."""
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
