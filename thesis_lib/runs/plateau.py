"""Find the plateau of a run's loss, and so the checkpoints that are worth probing."""

import re
from collections.abc import Sequence

import numpy as np

from thesis_lib.errors import InputError
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.paths import relative_to_root

SMOOTHING_SHARE = 20  # to find its plateau, the loss is averaged over 1/20 of the epochs
FEWEST_PROBED = 3


def kept_epochs(run: RunDirectory) -> list[int]:
    """Return the epochs whose kept checkpoints exist, ascending."""
    matches = (re.fullmatch(r"epoch_(\d+)\.pth", p.name) for p in run.checkpoints.glob("*.pth"))
    return sorted(int(match[1]) for match in matches if match)


def smooth(loss: Sequence[float]) -> np.ndarray:
    """Smooth the loss by a centred moving average over 1/20 of the epochs, fewer at the ends."""
    import pandas as pd  # imported late, so that `thesis status` answers at once

    half = len(loss) // SMOOTHING_SHARE // 2
    padded = pd.Series(np.asarray(loss, dtype=float))
    return padded.rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy()


def find_plateau(loss: Sequence[float], epochs: Sequence[int], share: float) -> int | None:
    """Find the first saved checkpoint at which the smoothed loss has nearly reached its end value.

    Args:
        loss: loss of epochs 1, 2, ...
        epochs: epochs of the saved checkpoints, ascending.
        share: the plateau starts where less than this fraction of the total decrease (from the
            first to the last smoothed value) remains.

    Returns:
        The checkpoint's epoch; None if the loss has not decreased.
    """
    smoothed = smooth(loss)
    fall = smoothed[0] - smoothed[-1]
    if fall <= 0:
        return None
    level = (e for e in epochs if smoothed[e - 1] - smoothed[-1] < share * fall)
    return next(level, None)


def run_plateau(run: RunDirectory) -> int | None:
    """Return the first kept checkpoint on a trained run's loss plateau; None if there is none."""
    loss = [row["loss"] for row in read_metrics(run)]
    is_known = len(loss) >= run.config.epochs and np.isfinite(loss).all()
    if not loss or not is_known:  # nothing was trained, or it was imported without losses
        return None
    return find_plateau(loss, kept_epochs(run), run.config.plateau_share)


def epochs_to_probe(run: RunDirectory) -> list[int]:
    """Return the checkpoints to probe: from the plateau (or ``probe_from``) to the last.

    At least the last three are probed. If the losses are unknown because the run was imported
    without them, all checkpoints are probed.

    Raises:
        InputError: if the run has no kept checkpoint.
    """
    kept, config = kept_epochs(run), run.config
    if not kept:
        raise InputError(
            f"{relative_to_root(run.checkpoints)} contains no checkpoint epoch_....pth"
        )
    known = np.isfinite([row["loss"] for row in read_metrics(run)]).any()
    first = run_plateau(run) or (kept[-1] if known else kept[0])
    if config.probe_from is not None:
        first = config.probe_from
    return kept[min(-FEWEST_PROBED, -sum(epoch >= first for epoch in kept)) :]
