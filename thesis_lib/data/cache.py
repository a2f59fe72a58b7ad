"""The decoded images of a split: each time anew, or once, in memory or in a file on disk."""

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
from thesis_lib.data import datasets
from thesis_lib.data.datasets import DataSet, Split
from thesis_lib.data.images import read_pixels
from thesis_lib.data.statistics import DataStatistics
from thesis_lib.errors import InputError
from thesis_lib.system import processes
from thesis_lib.system.files import atomic_path
from thesis_lib.system.paths import data_runs_folder, relative_to_root
from thesis_lib.system.progress import track

AUTO_CACHE_BYTES = 256 * 2**20  # what `cache = auto` keeps in memory
FREE_SHARE = 0.9  # of the memory or disk that is free: what a cache may take


class Images:
    """The images of a split as (h, w, 3) uint8 arrays, by their number.

    Args:
        split: its files.
        sizes: (n, 2) width and height, px; with a cache alone.
        cache: every image's bytes, one image after the other; None to decode at each call.
        file: what ``cache`` is mapped from, where it is.
    """

    def __init__(
        self,
        split: Split,
        sizes: np.ndarray | None = None,
        cache: Tensor | None = None,
        file: Path | None = None,
    ) -> None:
        self.split, self.sizes, self.cache, self.file = split, sizes, cache, file
        self.starts = None if sizes is None else np.cumsum([0, *sizes.prod(1) * 3])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.cache is None:
            return read_pixels(self.split.folder / self.split.files[index])
        width, height = self.sizes[index]
        start, end = self.starts[index : index + 2]
        return self.cache.numpy()[start:end].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        # Loading processes that are not forked (macOS, Python 3.14) get the file's name, not
        # its bytes; a cache in memory goes to them through torch's shared memory.
        return self.__dict__ | {"cache": None if self.file else self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.cache = _mapped(self.file, int(self.starts[-1]))

    @property
    def source(self) -> "Source":
        """What another process needs to open these images."""
        return Source(self.split, self.sizes, self.file, self.cache is not None)

    def fill(self) -> None:
        """Decode every image into the cache, in threads."""

        def copy(index: int) -> None:
            self[index][:] = read_pixels(self.split.folder / self.split.files[index])

        with ThreadPoolExecutor(processes.num_cores(processes.local_world_size())) as pool:
            copied = pool.map(copy, range(len(self)))
            if len(self.cache) > AUTO_CACHE_BYTES and processes.is_main_process():
                copied = track(copied, len(self), "decoding", "image")
            collections.deque(copied, maxlen=0)  # a thread's error is raised here


@dataclass(frozen=True)
class Source:
    """Where the images of a split come from: their files, or a cache on disk or in memory."""

    split: Split
    sizes: np.ndarray | None
    file: Path | None
    cached: bool

    def open(self) -> Images:
        """Open the images in this process; a cache in memory is filled once."""
        if not self.cached:
            return Images(self.split)
        size = decoded_bytes(self.sizes)
        if self.file is not None:
            if not self.file.is_file() or self.file.stat().st_size != size:
                raise InputError(
                    f"{socket.gethostname()} does not see the decoded images in {self.file}; put "
                    "runs/ on a disk that all machines share, or use cache none"
                )
            return Images(self.split, self.sizes, _mapped(self.file, size), self.file)
        key = (self.split.folder, *self.split.files)
        if key not in _in_memory:
            _in_memory[key] = _filled(self.split, self.sizes)
        return _in_memory[key]


_in_memory: dict[tuple, Images] = {}  # of this process, by folder and files


def chosen_cache(config: RunConfig, size: int) -> str:
    """Which cache to use for decoded images of ``size`` bytes: none, memory or disk."""
    if config.cache == "auto":
        free = (
            psutil.virtual_memory().available / processes.local_world_size()
        )  # each keeps its own
        fits = size <= min(AUTO_CACHE_BYTES, FREE_SHARE * free)
        return "memory" if fits else "none"
    return config.cache


def open_images(
    dataset: DataSet, name: str, statistics: DataStatistics, config: RunConfig
) -> tuple[Images, str]:
    """The images of a split as ``config.cache`` asks, filled where it is a cache.

    The file of a cache on disk is ``runs/<data>/decoded/<split>-<stamp>.bytes``, and serves
    every run on the data set; another stamp belongs to files of other times, and to other code.

    Args:
        dataset: its files.
        name: of the split.
        statistics: the sizes of its images.
        config: cache.

    Returns:
        The images, and the cache in use: none, memory or disk.

    Raises:
        InputError: where memory or disk has not the space, saying how much it takes.
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
    """Bytes of decoded images whose sizes are (n, 2), width and height in px."""
    return int(sizes.prod(1).sum() * 3)


def _filled(split: Split, sizes: np.ndarray) -> Images:
    """The images of a split, decoded into memory."""
    images = Images(split, sizes, torch.empty(decoded_bytes(sizes), dtype=torch.uint8))
    images.fill()
    return images


def _stamp(dataset: DataSet, split: Split) -> str:
    """Hash of what decoded images depend on: files, their times, and what decodes them."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    for file in split.files:
        digest.update(f"{file}\0{(split.folder / file).stat().st_mtime_ns}\0".encode())
    digest.update(Path(datasets.__file__).read_bytes())
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
            f"cache = {cache!r} takes {size / 2**30:.1f} GiB for {name}/, and {where} has "
            f"{free / 2**30:.1f} GiB free; use cache none"
            + (" or disk" if cache == "memory" else "")
        )


def _create(file: Path, size: int) -> None:
    with open(file, "wb") as empty:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # A file with holes would kill the process that writes to it once the disk is full.
            os.posix_fallocate(empty.fileno(), 0, size)
        empty.truncate(size)


def _mapped(file: Path, size: int) -> Tensor:
    # A private mapping larger than memory would be refused.
    return torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
