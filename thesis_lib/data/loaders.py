"""Load views of images in batches, in a reproducible order."""

import contextlib
import signal
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.framing import Frame
from thesis_lib.data.organisms import organism_alone
from thesis_lib.data.transforms import JitterFactors
from thesis_lib.data.workers import Guarded, init_worker, worker_count
from thesis_lib.errors import InputError
from thesis_lib.methods import REGIONS
from thesis_lib.system import distributed

_with_workers: "weakref.WeakSet[Loader]" = weakref.WeakSet()


class RandomViews(Dataset):
    """Random views of images for training, loaded one batch at a time.

    A batch is requested by a list of (epoch, draw) keys, see :class:`EpochBatches`. It is a tuple
    of the views, (n * num_views, size, size, 3) uint8, with the views of an image next to each
    other; their :class:`.transforms.JitterFactors`; the labels (n,); and the indices of the images
    (n,). Under torchrun, each rank gets the views of its share of the batch
    (:func:`distributed.batch_slice`), but the labels and indices of the whole batch.

    Args:
        images: the images of a split.
        frame: size of the views, and how images become square.
        seed: the run's random seed.
        num_views: number of views per image.
    """

    def __init__(self, images: Images, frame: Frame, seed: int, num_views: int = 2) -> None:
        self.images, self.labels = images, torch.from_numpy(images.split.labels)
        self.frame, self.seed, self.num_views = frame, seed, num_views
        self.rank, self.world_size = distributed.rank(), distributed.world_size()

    def __getitem__(
        self, keys: list[tuple[int, int]]
    ) -> tuple[Tensor, JitterFactors, Tensor, Tensor]:
        """Return the views of a batch of images, all in the same epoch."""
        (epoch, _), draws = keys[0], [draw for _, draw in keys]
        own = draws[distributed.batch_slice(len(draws), self.num_views, self.rank, self.world_size)]
        drawn = transforms.draw_random_numbers(self.seed, epoch, own, self.num_views)
        num_images = len(self.images)
        pixels = self.frame.random_views([self.images[draw % num_images] for draw in own], drawn)
        indices = torch.tensor(draws) % num_images
        return pixels, transforms.draw_jitter(drawn), self.labels[indices], indices


class FeatureViews(Dataset):
    """Views of images for feature extraction, loaded one batch of indices at a time.

    A batch is (n * max(num_views, 1), size, size, 3) uint8: ``num_views`` random crops of each
    image, or its evaluation view if ``num_views`` is 0.

    Args:
        images: the images of a split.
        frame: makes the views: a Frame, or a RegionFrame, whose views are numbers (n, d).
        seed: the run's random seed.
        num_views: number of random crops per image, or 0 for the evaluation view.
    """

    def __init__(self, images: Images, frame: Any, seed: int, num_views: int = 0) -> None:
        self.images, self.frame, self.seed, self.num_views = images, frame, seed, num_views

    def __getitem__(self, indices: list[int]) -> Tensor:
        """Return the views of a batch of images."""
        images = [self.images[i] for i in indices]
        if not self.num_views:
            views = [self.frame.evaluation_view(image) for image in images]
            return torch.from_numpy(np.stack(views))
        drawn = transforms.draw_random_numbers(self.seed, 0, indices, self.num_views)
        return self.frame.random_views(images, drawn)


class EpochBatches:
    """Batches of (epoch, draw) keys in an order that depends only on (seed, epoch).

    A draw is the index of an image, plus the number of images for each time that the image was
    drawn before in the same epoch, so that it gets other views. Set ``epoch`` and ``start`` (the
    first step to return, counted from 0) before each pass.

    Every image occurs once per epoch; with ``shares`` (n,), as many images are drawn with
    replacement, each with its share of the draws. The last batch is smaller if the number of images
    is not a multiple of the batch size. If a single image is left over, it forms a batch of its
    own, or is added to the previous batch if ``alone`` is False: batch normalisation needs more
    than one view.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        alone: bool = True,
        shares: np.ndarray | None = None,
    ) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.shares = shares
        self.joined = not alone and num_images > 1 and num_images % batch_size == 1
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size) - self.joined

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.default_rng((self.seed, self.epoch))
        if self.shares is None:
            draws = random.permutation(self.num_images)
        else:
            drawn = pd.Series(random.choice(self.num_images, self.num_images, p=self.shares))
            draws = (drawn + self.num_images * drawn.groupby(drawn).cumcount()).to_numpy()
        keys = [(self.epoch, int(draw)) for draw in draws]
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        ends = [*starts[1:], self.num_images]
        for start, end in list(zip(starts, ends, strict=True))[self.start :]:
            yield keys[start:end]


def _identity(batch: Any) -> Any:
    return batch


class Loader:
    """Load batches in worker processes that persist between epochs, or in this process.

    Use it as a context manager: the workers are stopped at the end of the block.

    Args:
        dataset: returns a batch for a list of keys.
        batches: yields the lists of keys of an epoch.
        num_workers: number of worker processes; 0 loads the batches in this process.
        pin_memory: whether workers' batches are put in pinned memory, to be copied to a GPU.
        timeout: seconds to wait for a batch before the workers count as hung.

    Raises:
        InputError: while iterating, if an image cannot be read.
        RuntimeError: raised by torch while iterating, if a worker was killed, exited or hangs.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Any,
        num_workers: int,
        pin_memory: bool,
        timeout: float = RunConfig.worker_timeout,
    ) -> None:
        self.dataset, self.batches, self._loader = dataset, batches, None
        if num_workers:
            self._loader = DataLoader(
                Guarded(dataset),
                sampler=batches,
                batch_size=None,
                collate_fn=_identity,
                num_workers=num_workers,
                pin_memory=pin_memory,
                timeout=timeout,
                persistent_workers=True,
                worker_init_fn=init_worker,
                # Without its own generator, DataLoader would draw from torch's global one, and
                # dropout would differ from a run without workers.
                generator=torch.Generator(),
            )
            _with_workers.add(self)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None:  # DataLoader(num_workers=0) would be 5 % slower on small images
            yield from map(self.dataset.__getitem__, self.batches)
            return
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, which have nothing to save; torch would wait for hung ones."""
        iterator = getattr(self._loader, "_iterator", None)
        self._loader = None
        if iterator is None:
            return
        with _default_sigchld():
            for worker in iterator._workers:
                worker.kill()
            iterator._shutdown_workers()


def open_loader(
    dataset: Dataset, batches: Any, config: RunConfig, device: torch.device, views_per_batch: int
) -> Loader:
    """Create a loader with as many workers as settings, device and shared memory allow.

    Args:
        dataset: returns a batch for a list of keys.
        batches: yields the lists of keys of an epoch.
        config: image size, and the settings of the workers.
        device: the device that the batches are for.
        views_per_batch: the number of views in a batch, at most.
    """
    batch_bytes = views_per_batch * 3 * config.image_size**2
    workers = worker_count(config, device, batch_bytes)
    return Loader(dataset, batches, workers, device.type == "cuda", config.worker_timeout)


def _close_all() -> None:
    for loader in list(_with_workers):
        loader.close()


# Workers ignore SIGTERM, so at exit multiprocessing would wait for them forever.
Finalize(None, _close_all, exitpriority=10)


@contextlib.contextmanager
def _default_sigchld() -> Iterator[None]:
    """Disable torch's SIGCHLD handler, which raises an error if a worker is killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def example_views(dataset: DataSet, config: RunConfig, num_images: int) -> dict[str, list]:
    """Draw random training images, and make the views of them that the first epoch uses.

    Returns:
        originals: list of (h, w, 3) uint8 arrays; views: for each view of the method, a list of
        such arrays; evaluation: the evaluation views, a list; names: the class name of each
        image. For region properties, there are no views, and the evaluation views are the
        organisms that are measured.
    """
    train = dataset.splits["train"]
    decoded, frame = Images(train), Frame.of(config)
    taken = RandomViews(decoded, frame, config.seed, config.views)
    random = np.random.default_rng(config.seed)
    chosen = sorted(random.choice(len(train), min(num_images, len(train)), replace=False).tolist())
    originals = [decoded[index] for index in chosen]
    names = [dataset.classes[train.labels[index]] for index in chosen]
    if config.method == REGIONS:
        alone = [organism_alone(image) for image in originals]
        return {"originals": originals, "views": [], "evaluation": alone, "names": names}
    pixels, jitter, _, _ = taken[[(1, index) for index in chosen]]
    views = transforms.to_float(pixels)
    if config.views > 1:
        views = transforms.color_jitter(views, jitter)
    views = (views * 255).round().byte().movedim(1, -1).numpy()
    return {
        "originals": originals,
        "views": [list(views[view :: config.views]) for view in range(config.views)],
        "evaluation": [frame.evaluation_view(image) for image in originals],
        "names": names,
    }
