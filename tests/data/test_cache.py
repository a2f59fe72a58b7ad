"""Decoded images are the same from files and from memory; a cache that is too large is refused."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from thesis_lib.config import RunConfig
from thesis_lib.data import datasets
from thesis_lib.data.cache import chosen_cache, open_images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.data.images import read_pixels
from thesis_lib.data.loaders import EpochBatches, Loader, RandomViews
from thesis_lib.data.statistics import data_statistics
from thesis_lib.errors import InputError


@pytest.fixture
def dataset(workbook):
    """data/tiny with images of several sizes, some in grey and some in colour."""
    random = np.random.default_rng(0)
    for number, file in enumerate(sorted((workbook / "data" / "tiny").glob("*/*/*"))):
        shape = (9 + number % 4, 12 - number % 3, 3)[: 2 + number % 2]
        file.unlink()  # a hard link
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(file)
    return open_dataset("data/tiny")


def opened(dataset, cache: str, split: str = "train"):
    config = RunConfig(data="data/tiny", cache=cache)
    return open_images(dataset, split, data_statistics(dataset), config)


@pytest.mark.parametrize("cache", ["none", "memory", "auto"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_are_those_of_the_files(dataset, cache, split):
    images, used = opened(dataset, cache, split)
    assert used == ("memory" if cache == "auto" else cache)
    files = dataset.splits[split].files
    assert len(images) == len(files)
    for number, file in enumerate(files):
        assert np.array_equal(images[number], read_pixels(dataset.root / file))


def test_cached_images_are_not_decoded_again(dataset, monkeypatch):
    images, _ = opened(dataset, "memory")
    monkeypatch.setattr(datasets, "read_pixels", None)
    assert images[3].shape[2] == 3


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_batches_are_the_same_whatever_the_cache_and_the_workers(dataset, cache):
    found = []
    for images, workers in ((opened(dataset, "none")[0], 0), (opened(dataset, cache)[0], 2)):
        batches = EpochBatches(len(images), 8, seed=1)
        loader = Loader(
            RandomViews(images, Frame(16, "crop"), seed=1), batches, workers, pin_memory=False
        )
        found.append([pixels for pixels, *_ in loader])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_cache_that_does_not_fit_is_refused_with_its_size(dataset, monkeypatch):
    class Little:
        available = free = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(InputError, match=r"cache = 'memory' needs 0\.0 GiB for train/"):
        opened(dataset, "memory")


def test_spawned_workers_get_the_cache_without_its_bytes(dataset):
    """macOS and Python 3.14 start workers in this way."""
    images, _ = opened(dataset, "memory")
    pickled = bytes(ForkingPickler.dumps(images))
    bytes_of_pixels = images.cache.numpy().tobytes()
    assert bytes_of_pixels[:200] not in pickled
    loaded = ForkingPickler.loads(pickled)
    assert all(np.array_equal(loaded[i], images[i]) for i in range(len(images)))


def test_auto_decodes_anew_where_memory_is_short(monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    assert chosen_cache(RunConfig(), 2**20) == "none"


def test_auto_keeps_small_data_sets_in_memory_and_decodes_large_ones():
    assert chosen_cache(RunConfig(), 2**20) == "memory"
    assert chosen_cache(RunConfig(), 20 * 2**30) == "none"
    assert chosen_cache(RunConfig(cache="memory"), 20 * 2**30) == "memory"
