"""The decoded images of a split, optionally cached in memory."""

import collections
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thesis_lib.config import RunConfig
from thesis_lib.data.datasets import DataSet, Split
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.errors import InputError
from thesis_lib.system import machine, processes
from thesis_lib.system.progress import track
from thesis_lib.system.threads import map_in_threads

AUTO_CACHE_BYTES = 256 * 2**20  # largest cache that `cache = auto` keeps in memory
FREE_SHARE = 0.9  # largest share of the free memory that a cache may take


class Images:
    """The images of a split as (h, w, 3) uint8 arrays, accessed by index.

    Args:
        split: the files of the split.
        sizes: (n, 2) width and height in px; needed only with a cache.
        cache: the bytes of all images, one image after the other; None to decode an image each
            time it is accessed. Loading workers get it through torch's shared memory.
    """

    def __init__(self, split: Split, sizes: Any = None, cache: Tensor | None = None) -> None:
        self.split, self.sizes, self.cache = split, sizes, cache
        self.starts: Any = None if sizes is None else np.cumsum([0, *sizes.prod(1) * 3])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.cache is None:
            return self.split.read(index)
        width, height = self.sizes[index]
        start, end = self.starts[index : index + 2]
        return self.cache.numpy()[start:end].reshape(height, width, 3)

    def fill(self) -> None:
        """Decode all images into the cache, using threads."""

        def copy(index: int) -> None:
            self[index][:] = self.split.read(index)

        num_threads = machine.num_cores(processes.local_world_size())
        copied = map_in_threads(copy, range(len(self)), num_threads)
        if self.starts[-1] > AUTO_CACHE_BYTES:
            copied = track(copied, len(self), "decoding", "image")
        collections.deque(copied, maxlen=0)  # raises the errors of the threads


def chosen_cache(config: RunConfig, size: int) -> str:
    """Return which cache to use for decoded images of ``size`` bytes: none or memory."""
    if config.cache == "auto":
        # Each process on this machine keeps its own copy.
        free = machine.free_memory() / processes.local_world_size()
        fits = size <= min(AUTO_CACHE_BYTES, FREE_SHARE * free)
        return "memory" if fits else "none"
    return config.cache


def open_images(
    dataset: DataSet, name: str, statistics: DataStatistics, config: RunConfig
) -> tuple[Images, str]:
    """Open the images of a split, cached as set by ``config.cache``.

    Args:
        dataset: the data set.
        name: name of the split.
        statistics: statistics of the data set, which include the image sizes.
        config: the run's settings; only ``cache`` is used.

    Returns:
        The images, and the cache in use: none or memory.

    Raises:
        InputError: if the cache does not fit in memory; the message says how much it needs.
    """
    split = dataset.splits[name]
    rows = statistics.images.set_index("file").loc[split.files]  # without skipped images
    sizes = rows[["width", "height"]].to_numpy()
    size = decoded_bytes(sizes)
    cache = chosen_cache(config, size)
    if cache == "none":
        return Images(split), cache
    _check_memory(size, name)
    return _filled(split, sizes), cache


def decoded_bytes(sizes: np.ndarray) -> int:
    """Return the total bytes of decoded images; sizes: (n, 2), width and height in px."""
    return int(sizes.prod(1).sum() * 3)


def _filled(split: Split, sizes: np.ndarray) -> Images:
    """Decode the images of a split into memory."""
    images = Images(split, sizes, torch.empty(decoded_bytes(sizes), dtype=torch.uint8))
    images.fill()
    return images


def _check_memory(size: int, name: str) -> None:
    free = machine.free_memory() / processes.local_world_size()
    where = "memory of each process" if processes.under_torchrun() else "memory"
    if size > AUTO_CACHE_BYTES:
        print(f"the decoded images of {name}/ take {size / 2**30:.1f} GiB in {where}", flush=True)
    if size > FREE_SHARE * free:
        raise InputError(
            f"cache = 'memory' needs {size / 2**30:.1f} GiB for {name}/, but {where} has "
            f"{free / 2**30:.1f} GiB free; set cache to none"
        )
