"""What the models are fed with: views of images, in batches whose order is reproducible."""

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.transforms import JitterFactors
from thesis_lib.errors import InputError
from thesis_lib.system import distributed, processes
from thesis_lib.system.signals import NOTICES

_with_workers: "weakref.WeakSet[Loader]" = weakref.WeakSet()


class RandomViews(Dataset):
    """Images as random views, a batch at a time, addressed by (epoch, image) each.

    A batch is the views (n * views, size, size, 3) uint8, an image's views neighbours; their
    :class:`.transforms.JitterFactors`; the labels (n,); the images' indices (n,). Under torchrun
    each rank gets the views of its part of the batch (:func:`distributed.batch_slice`), and the
    labels and indices of the whole batch.
    """

    def __init__(self, images: Images, size: int, seed: int, views: int = 2) -> None:
        self.images, self.labels = images, torch.from_numpy(images.split.labels)
        self.size, self.seed, self.views = size, seed, views
        self.rank, self.ranks = distributed.rank(), distributed.world_size()

    def __getitem__(
        self, keys: list[tuple[int, int]]
    ) -> tuple[Tensor, JitterFactors, Tensor, Tensor]:
        """The views of a batch of images of one epoch."""
        (epoch, _), indices = keys[0], [index for _, index in keys]
        own = indices[distributed.batch_slice(len(indices), self.views, self.rank, self.ranks)]
        drawn = transforms.draw_random_numbers(self.seed, epoch, own, self.views)
        pixels = _random_crops([self.images[i] for i in own], drawn, self.size)
        indices = torch.tensor(indices)
        return pixels, transforms.draw_jitter(drawn), self.labels[indices], indices


class FeatureViews(Dataset):
    """Images as the views that features are extracted from, a batch of indices at a time.

    A batch is (n * max(views, 1), size, size, 3) uint8: ``views`` random crops of each image,
    or the central view alone where ``views`` is 0.
    """

    def __init__(self, images: Images, size: int, seed: int, views: int = 0) -> None:
        self.images, self.size, self.seed, self.views = images, size, seed, views

    def __getitem__(self, indices: list[int]) -> Tensor:
        """The views of a batch of images."""
        images = [self.images[i] for i in indices]
        if not self.views:
            views = [transforms.center_crop(image, self.size) for image in images]
            return torch.from_numpy(np.stack(views))
        drawn = transforms.draw_random_numbers(self.seed, 0, indices, self.views)
        return _random_crops(images, drawn, self.size)


def _random_crops(images: list[np.ndarray], drawn: np.ndarray, size: int) -> Tensor:
    """The crops that the rows of ``drawn`` stand for, as many in turn of each image."""
    images = [image for image in images for _ in range(len(drawn) // len(images))]
    crops = transforms.draw_crops(drawn, [(image.shape[1], image.shape[0]) for image in images])
    return transforms.crop_and_resize(images, crops, size)


class EpochBatches:
    """Batches of (epoch, image) in an order that depends on (seed, epoch) alone.

    ``epoch`` and ``start``, the first step to give, can be set before each pass.

    Every image comes once an epoch; the last batch is smaller where the batch size does not
    divide the number of images. A last image left alone is a batch of its own, or joins the
    batch before it where ``alone`` is False: batch normalisation cannot take a single view.
    """

    def __init__(self, images: int, batch_size: int, seed: int, alone: bool = True) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.joined = not alone and images > 1 and images % batch_size == 1
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return -(-self.images // self.batch_size) - self.joined

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        keys = [(self.epoch, int(image)) for image in order]
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        ends = [*starts[1:], self.images]
        for start, end in list(zip(starts, ends, strict=True))[self.start :]:
            yield keys[start:end]


class _Guarded(Dataset):
    """Passes an InputError on as a batch, for torch would wrap it in a worker's traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: list[Any]) -> Any:
        try:
            return self.dataset[keys]
        except InputError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader:
    """Batches for lists of keys, by workers that live on from epoch to epoch, or by this process.

    A context manager: its workers end with the block.

    Args:
        dataset: what it gives for a list of keys is a batch.
        batches: gives the lists of keys of an epoch.
        workers: loading processes; 0: none but this one.
        pin_memory: whether batches of workers go to a GPU.
        timeout: seconds without a batch after which workers count as hung.

    Raises:
        InputError: while iterating, for an image that cannot be read.
        RuntimeError: torch's, for a worker that was killed, has ended or hangs.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Any,
        workers: int,
        pin_memory: bool,
        timeout: float = RunConfig.worker_timeout,
    ) -> None:
        self.dataset, self.batches, self._loader = dataset, batches, None
        if workers:
            self._loader = DataLoader(
                _Guarded(dataset),
                sampler=batches,
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=workers,
                pin_memory=pin_memory,
                timeout=timeout,
                persistent_workers=True,
                worker_init_fn=_belong_to_the_parent,
                # Otherwise it draws from torch's own generator, and dropout would come out
                # otherwise than without workers.
                generator=torch.Generator(),
            )
            _with_workers.add(self)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None:  # torch's own way of doing so costs a twentieth of small images
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
        """Kill the workers, hung ones too: they hold nothing, and torch would wait for them."""
        iterator = getattr(self._loader, "_iterator", None)
        self._loader = None
        if iterator is None:
            return
        with _deaths_of_children_unheeded():
            for worker in iterator._workers:
                worker.kill()
            iterator._shutdown_workers()


def _close_all() -> None:
    for loader in list(_with_workers):
        loader.close()


# At the end multiprocessing would wait for ever for workers that leave SIGTERM to their parent.
Finalize(None, _close_all, exitpriority=10)


@contextlib.contextmanager
def _deaths_of_children_unheeded() -> Iterator[None]:
    """Keep torch's handler, which raises for a killed worker, out of the way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def _belong_to_the_parent(worker: int) -> None:
    # Where the parent is killed, torch's workers live on for seconds, and hold its connections to
    # other ranks, which then wait for it.
    processes.exit_with_parent(os.getppid(), seconds=0)
    # A cluster's notices and a terminal's Ctrl-C reach every process; the parent finishes its
    # step with these, and then ends them.
    for number in (*NOTICES, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def worker_count(config: RunConfig, device: torch.device) -> int:
    """Processes that load images: as configured, else one a core (up to 8) beside a GPU.

    Several ranks on a machine part its cores. Where the CPU trains, the model needs the cores
    itself: none, then.
    """
    if config.workers is not None:
        return config.workers
    if device.type == "cpu":
        return 0
    return min(processes.num_cores(processes.local_world_size()), 8)


def example_views(dataset: DataSet, config: RunConfig, images: int) -> dict[str, list]:
    """Some training images with the views that the first epoch takes of them.

    Returns:
        originals: (h, w, 3) uint8 arrays; views: for each view of the method a list of such
        arrays; names: the images' classes.
    """
    train = dataset.splits["train"]
    decoded = Images(train)
    taken = RandomViews(decoded, config.image_size, config.seed, config.views)
    random = np.random.default_rng(config.seed)
    chosen = sorted(random.choice(len(train), min(images, len(train)), replace=False).tolist())
    pixels, jitter, labels, _ = taken[[(1, index) for index in chosen]]
    views = transforms.to_float(pixels)
    if config.method != "cross-entropy":
        views = transforms.color_jitter(views, jitter)
    views = (views * 255).round().byte().movedim(1, -1).numpy()
    return {
        "originals": [decoded[index] for index in chosen],
        "views": [list(views[view :: config.views]) for view in range(config.views)],
        "names": [dataset.classes[label] for label in labels],
    }
