"""Extract features with a frozen backbone: for linear heads, look-up tables and predictions."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import Split
from thesis_lib.data.framing import frame_of
from thesis_lib.data.loaders import FeatureViews, open_loader
from thesis_lib.errors import InputError, first_few
from thesis_lib.methods import REGIONS
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device

VIEWS_PER_BATCH = 128


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone whose weights no longer change, with the normalisation it was trained with.

    Args:
        model: maps (n, 3, h, w) to (n, d).
        mean, std: channel statistics used to normalise the images, (3,).
        config: image size, fit, seed, device and number of workers.
    """

    model: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    config: RunConfig

    def __post_init__(self) -> None:
        self.model.to(self.device, memory_format=torch.channels_last).eval()

    @classmethod
    def load(cls, run: RunDirectory, epoch: int) -> "FrozenBackbone":
        """Load the backbone of one of a run's checkpoints.

        Raises:
            InputError: if the checkpoint is missing or damaged, or does not fit the backbone.
        """
        # Imported here, because timm takes seconds to load, and tables and figures need no model.
        from thesis_lib.training.checkpoints import checkpoint_path, load_backbone

        model, facts = load_backbone(checkpoint_path(run, epoch))
        return cls(model, facts["mean"], facts["std"], run.config)

    @property
    def device(self) -> torch.device:
        """Return the device to compute on."""
        return choose_device(self.config)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute the features of views: (n, size, size, 3) uint8 -> (n, d) on the device.

        Region properties (n, d) are features already.
        """
        if pixels.is_floating_point():
            return pixels.to(self.device)
        views = transforms.to_float(pixels.to(self.device, non_blocking=True))
        return self.model(transforms.normalize(views, self.mean, self.std))

    def features(self, images: Images, views: int = 0) -> Tensor:
        """Extract the features of all images of a split.

        The batches are dealt out to the ranks. The batches, and therefore the features, are the
        same for any number of ranks.

        Args:
            images: images of the split.
            views: number of random crops of each image (seeded, the same in every call); 0 for
                the evaluation view.

        Returns:
            (max(views, 1), n, d) float32 on the CPU of rank 0; an empty tensor on other ranks.

        Raises:
            InputError: if features are not finite. The message names the images.
        """
        dataset = FeatureViews(images, frame_of(self.config), self.config.seed, views)
        per_batch = max(1, VIEWS_PER_BATCH // max(views, 1))
        batches = list(BatchSampler(range(len(images)), per_batch, drop_last=False))
        compute = functools.partial(self._of_batches, dataset)
        extracted, done = torch.empty(0), 0  # allocated when the first batch shows d
        for features in distributed.gather_batches(compute, batches):
            if not done:
                extracted = torch.empty(max(views, 1), len(images), features.shape[-1])
            extracted[:, done : done + features.shape[1]] = features
            done += features.shape[1]
        if distributed.rank():
            return extracted
        finite = extracted.sum((0, 2)).isfinite()
        if not finite.all():
            files = [images.split.files[i] for i in (~finite).nonzero().flatten().tolist()]
            raise InputError(
                f"the backbone's features are not finite for {first_few(files)}; "
                "check these images, or choose another checkpoint with --probe-from"
            )
        return extracted

    def _of_batches(self, dataset: FeatureViews, batches: list[list[int]]) -> Iterator[Tensor]:
        """Yield the features (max(views, 1), k, d) of each of these batches, on the CPU."""
        with open_loader(dataset, batches, self.config, self.device, VIEWS_PER_BATCH) as loader:
            for pixels in loader:  # (k * views, size, size, 3) uint8
                features = self(pixels).unflatten(0, (-1, max(dataset.num_views, 1)))
                yield features.transpose(0, 1).cpu()


def report_empty(backbone: FrozenBackbone, split: str, features: Tensor) -> int:
    """Print in how many images no organism was found, if region properties look for one.

    Args:
        backbone: what the features (views, n, d) come from.
        split: "training" or "test", for the message.
        features: all 0 for an image in which no organism was found.

    Returns:
        The number of these images.
    """
    if backbone.config.method != REGIONS or distributed.rank():
        return 0
    empty = int((features[0] == 0).all(1).sum())
    if empty:
        print(
            f"no organism was found in {empty:,} of {features.shape[1]:,} {split} images; they "
            "are classified by how frequent each class is among the training images",
            flush=True,
        )
    return empty


class Labelled(NamedTuple):
    """Features of some images, and the integer class labels of the images."""

    features: Any
    labels: Any


def labels_of(split: Split) -> Tensor:
    """Return the class labels of a split's images, (n,) integers."""
    return torch.from_numpy(np.asarray(split.labels))
