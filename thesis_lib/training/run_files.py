"""Write what a training leaves in its run folder: checkpoints, metrics and TensorBoard logs."""

import time
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from thesis_lib.data.loaders import example_views
from thesis_lib.runs.artifacts import METRICS_COLUMNS
from thesis_lib.system import distributed
from thesis_lib.system.files import write_csv
from thesis_lib.training import checkpoints, resume
from thesis_lib.training.stage import Stage
from thesis_lib.training.state import Position, TrainState


class RunFiles:
    """The files that a training writes, as a context manager; only rank 0 writes them.

    Args:
        stage: the stage, with its run and data set.
        state: the state of the training, which the training loop changes.
    """

    def __init__(self, stage: Stage, state: TrainState) -> None:
        self.stage, self.state, self.run = stage, state, stage.run
        self.scheduled = set(checkpoints.scheduled_epochs(self.run.config))
        # The position saved in last.pth; a damaged last.pth has been renamed and is not there.
        self.saved = state.position if self.run.last_checkpoint.is_file() else Position()
        self.saved_at = time.monotonic()
        self.log: Any = None

    def __enter__(self) -> "RunFiles":
        if distributed.rank() == 0:
            self.log = SummaryWriter(self.run.tensorboard, purge_step=self.state.position.epoch)
            if self.state.rows:  # a kill may have come between saving a checkpoint and its row
                write_csv(self.run.metrics_file, pd.DataFrame(self.state.rows))
            else:
                self.run.metrics_file.unlink(missing_ok=True)  # of a training that --force replaces
                self._log_views()
        return self

    def __exit__(self, *_: object) -> None:
        if self.log is not None:
            self.log.close()

    def _log_views(self) -> None:
        examples = example_views(self.stage.dataset, self.run.config, num_images=8)["views"]
        if not examples:
            return
        rows = [np.concatenate(list(views), axis=1) for views in examples]  # side by side
        self.log.add_image("views", np.concatenate(rows), 1, dataformats="HWC")

    def write(self, is_whole: bool) -> None:
        """Save what is due: after a whole epoch its checkpoint, metrics and logs.

        Args:
            is_whole: whether the training has reached the end of an epoch.
        """
        if distributed.rank():
            return
        row = self.state.rows[-1] if is_whole else {}
        keep = row.get("epoch") in self.scheduled
        if keep:
            path = checkpoints.checkpoint_path(self.run, row["epoch"])
            checkpoints.save(path, resume.checkpoint_content(self.stage, self.state))
        waited = time.monotonic() - self.saved_at >= 60 * self.run.config.rolling_minutes
        if keep or waited:
            self._save_rolling()
        if row:
            for name in ("loss", "learning_rate", "images_per_second"):
                self.log.add_scalar(name, row[name], row["epoch"])
            write_csv(self.run.metrics_file, pd.DataFrame(self.state.rows))

    def write_untrained(self) -> None:
        """Save a backbone that is not trained as the checkpoint of epoch 0."""
        if distributed.rank():
            return
        content = resume.checkpoint_content(self.stage, self.state)
        checkpoints.save(checkpoints.checkpoint_path(self.run, 0), content)
        write_csv(self.run.metrics_file, pd.DataFrame(columns=METRICS_COLUMNS))
        self.run.restarts_file.unlink(missing_ok=True)

    def save_last(self) -> None:
        """Save the state at the end of the training, unless it is saved already."""
        if distributed.rank() == 0 and self.state.position != self.saved:
            self._save_rolling()

    def _save_rolling(self) -> None:
        resume.save_rolling(self.run, resume.checkpoint_content(self.stage, self.state))
        self.saved, self.saved_at = self.state.position, time.monotonic()
