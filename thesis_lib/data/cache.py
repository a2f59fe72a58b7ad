"""The decoded images of a split, optionally cached in memory or in a file on disk."""

import collections
import hashlib
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from thesis_lib.config import RunConfig
from thesis_lib.data import images
from thesis_lib.data.datasets import DataSet, Split
from thesis_lib.data.images import read_pixels
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.files import atomic_path
from thesis_lib.system.paths import data_runs_folder, relative_to_root
from thesis_lib.system.progress import track

AUTO_CACHE_BYTES = 256 * 2**20  # largest cache that `cache = auto` keeps in memory
FREE_SHARE = 0.9  # largest share of the free memory or disk space that a cache may take


class Images:
    """The images of a split as (h, w, 3) uint8 arrays, accessed by index.

    Args:
        split: the files of the split.
        sizes: (n, 2) width and height in px; needed only with a cache.
        cache: the bytes of all images, one image after the other; None to decode an image each
            time it is accessed.
        file: the file that ``cache`` is memory-mapped from, if there is one.
    """

    def __init__(
        self,
        split: Split,
        sizes: Any = None,
        cache: Tensor | None = None,
        file: Path | None = None,
    ) -> None:
        self.split, self.sizes, self.cache, self.file = split, sizes, cache, file
        self.starts: Any = None if sizes is None else np.cumsum([0, *sizes.prod(1) * 3])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.cache is None:
            return read_pixels(self.split.folder / self.split.files[index])
        width, height = self.sizes[index]
        start, end = self.starts[index : index + 2]
        return self.cache.numpy()[start:end].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are not forked (macOS, Python 3.14) get the name of the file, not its bytes.
        # They get a cache in memory through torch's shared memory.
        return self.__dict__ | {"cache": None if self.file else self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.cache = _mapped(self.file, int(self.starts[-1]))

    @property
    def source(self) -> "Source":
        """Return what another process needs to open these images."""
        return Source(self.split, self.sizes, self.file, self.cache is not None)

    def fill(self) -> None:
        """Decode all images into the cache, using threads."""

        def copy(index: int) -> None:
            self[index][:] = read_pixels(self.split.folder / self.split.files[index])

        with ThreadPoolExecutor(processes.num_cores(processes.local_world_size())) as pool:
            copied = pool.map(copy, range(len(self)))
            if self.starts[-1] > AUTO_CACHE_BYTES and processes.is_main_process():
                copied = track(copied, len(self), "decoding", "image")
            collections.deque(copied, maxlen=0)  # raises the errors of the threads


@dataclass(frozen=True)
class Source:
    """Where to read the images of a split from: their files, or a cache on disk or in memory."""

    split: Split
    sizes: Any  # (n, 2) width and height in px; None without a cache
    file: Path | None
    cached: bool

    def open(self) -> Images:
        """Open the images in this process; a cache in memory is filled only once.

        Raises:
            InputError: if the cache file is missing or has the wrong size.
        """
        if not self.cached:
            return Images(self.split)
        size = decoded_bytes(self.sizes)
        if self.file is not None:
            if not self.file.is_file() or self.file.stat().st_size != size:
                raise InputError(
                    f"{socket.gethostname()} cannot find the decoded images in {self.file}; put "
                    "runs/ on a disk that all machines share, or set cache to none"
                )
            return Images(self.split, self.sizes, _mapped(self.file, size), self.file)
        key = (self.split.folder, *self.split.files)
        if key not in _in_memory:
            _in_memory[key] = _filled(self.split, self.sizes)
        return _in_memory[key]


_in_memory: dict[tuple, Images] = {}  # caches of this process: (folder, *files) -> images


def chosen_cache(config: RunConfig, size: int) -> str:
    """Return which cache to use for decoded images of ``size`` bytes: none, memory or disk."""
    if config.cache == "auto":
        # Each process on this machine keeps its own copy.
        free = psutil.virtual_memory().available / processes.local_world_size()
        fits = size <= min(AUTO_CACHE_BYTES, FREE_SHARE * free)
        return "memory" if fits else "none"
    return config.cache


def open_images(
    dataset: DataSet, name: str, statistics: DataStatistics, config: RunConfig
) -> tuple[Images, str]:
    """Open the images of a split, cached as set by ``config.cache``.

    A cache on disk is the file ``runs/<data>/decoded/<split>-<stamp>.bytes``, which all runs on
    the data set share. The stamp changes if image files are modified or the decoding code changes.

    Args:
        dataset: the data set.
        name: name of the split.
        statistics: statistics of the data set, which include the image sizes.
        config: the run's settings; only ``cache`` is used.

    Returns:
        The images, and the cache in use: none, memory or disk.

    Raises:
        InputError: if the cache does not fit in memory or on the disk; the message says how much
            space it needs.
    """
    split = dataset.splits[name]
    rows = statistics.images.set_index("file").loc[split.files]  # without skipped images
    sizes = rows[["width", "height"]].to_numpy()
    size = decoded_bytes(sizes)
    cache = chosen_cache(config, size)
    if cache == "none":
        return Images(split), cache
    file = data_runs_folder(dataset.name) / "decoded" / f"{name}-{_stamp(dataset, split)}.bytes"
    there = cache == "disk" and file.is_file() and file.stat().st_size == size
    if not there:
        _check_space(cache, size, name, file)
    if cache == "memory":
        return _filled(split, sizes), cache
    if not there:
        with atomic_path(file) as partial:
            _create(partial, size)
            Images(split, sizes, _mapped(partial, size)).fill()
    return Images(split, sizes, _mapped(file, size), file), cache


def decoded_bytes(sizes: np.ndarray) -> int:
    """Return the total bytes of decoded images; sizes: (n, 2), width and height in px."""
    return int(sizes.prod(1).sum() * 3)


def _filled(split: Split, sizes: np.ndarray) -> Images:
    """Decode the images of a split into memory."""
    images = Images(split, sizes, torch.empty(decoded_bytes(sizes), dtype=torch.uint8))
    images.fill()
    return images


def _stamp(dataset: DataSet, split: Split) -> str:
    """Hash everything that decoded images depend on: the files, their times, the decoding code."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    for file in split.files:
        digest.update(f"{file}\0{(split.folder / file).stat().st_mtime_ns}\0".encode())
    digest.update(Path(images.__file__).read_bytes())
    digest.update(f"{metadata.version('pillow')} {metadata.version('torchvision')}".encode())
    return digest.hexdigest()[:16]


def _check_space(cache: str, size: int, name: str, file: Path) -> None:
    if cache == "memory":
        free, where = psutil.virtual_memory().available / processes.local_world_size(), "memory"
        where += " of each process" if processes.under_torchrun() else ""
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        free, where = shutil.disk_usage(file.parent).free, relative_to_root(file.parent)
    if size > AUTO_CACHE_BYTES:
        print(f"the decoded images of {name}/ take {size / 2**30:.1f} GiB in {where}", flush=True)
    if size > FREE_SHARE * free:
        raise InputError(
            f"cache = {cache!r} needs {size / 2**30:.1f} GiB for {name}/, but {where} has "
            f"{free / 2**30:.1f} GiB free; set cache to none"
            + (" or disk" if cache == "memory" else "")
        )


def _create(file: Path, size: int) -> None:
    with open(file, "wb") as empty:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # Reserve the space now: writing to a sparse mapped file on a full disk kills the
            # process.
            os.posix_fallocate(empty.fileno(), 0, size)
        empty.truncate(size)


def _mapped(file: Path, size: int) -> Tensor:
    # Shared, because the system would refuse a private mapping larger than the memory.
    return torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
