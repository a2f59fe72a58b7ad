"""Where the loss levels off, and which checkpoints are probed from there on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thesis_lib.config import InputError
from thesis_lib.runs.directory import RunDirectory, relative_to_root
from thesis_lib.runs.stages import read_metrics
from thesis_lib.training.checkpoints import kept_epochs

SMOOTHING_SHARE = 20  # the loss is averaged over a twentieth of the epochs to find its plateau
FEWEST_PROBED = 3


def smooth(loss: Sequence[float]) -> np.ndarray:
    """Centred moving average over a twentieth of the epochs, shorter towards both ends."""
    half = len(loss) // SMOOTHING_SHARE // 2
    padded = pd.Series(np.asarray(loss, dtype=float))
    return padded.rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy()


def find_plateau(loss: Sequence[float], epochs: Sequence[int], share: float) -> int | None:
    """The first saved checkpoint after which the smoothed loss has little of its fall to go.

    Args:
        loss: of epochs 1, 2, ...
        epochs: of the saved checkpoints, ascending.
        share: of the total fall (first to last smoothed value) that counts as little.

    Returns:
        The checkpoint's epoch; None where the loss has not fallen at all.
    """
    smoothed = smooth(loss)
    fall = smoothed[0] - smoothed[-1]
    if fall <= 0:
        return None
    level = (e for e in epochs if smoothed[e - 1] - smoothed[-1] < share * fall)
    return next(level, None)


def run_plateau(run: RunDirectory) -> int | None:
    """The plateau of a trained run, among the checkpoints that it keeps; None for none found."""
    loss = [row["loss"] for row in read_metrics(run)]
    if len(loss) < run.config.epochs or not np.isfinite(loss).all():  # imported without losses
        return None
    return find_plateau(loss, kept_epochs(run), run.config.plateau_share)


def epochs_to_probe(run: RunDirectory) -> list[int]:
    """Checkpoints from the plateau (or ``probe_from``) to the last; never fewer than three.

    All of them where no loss is known, since the run was imported without.

    Raises:
        InputError: where the run keeps no checkpoint.
    """
    kept, config = kept_epochs(run), run.config
    if not kept:
        raise InputError(f"{relative_to_root(run.checkpoints)} holds no checkpoint epoch_....pth")
    known = np.isfinite([row["loss"] for row in read_metrics(run)]).any()
    first = run_plateau(run) or (kept[-1] if known else kept[0])
    if config.probe_from is not None:
        first = config.probe_from
    return kept[min(-FEWEST_PROBED, -sum(epoch >= first for epoch in kept)) :]
