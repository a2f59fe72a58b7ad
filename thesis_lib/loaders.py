"""What the models are fed with: views of images, in batches whose order is reproducible."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thesis_lib import augment
from thesis_lib.config import InputError, RunConfig
from thesis_lib.data import DataSet, Split, read_image

CACHE_BYTES = 256 * 2**20  # of decoded images, for each loading process


class _Images:
    """Decoded images of a split; a small data set is decoded once, not once an epoch."""

    def __init__(self, split: Split) -> None:
        self.split, self.kept, self.room = split, {}, CACHE_BYTES

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.kept:
            return self.kept[index]
        pixels = augment.pixels_of(read_image(self.split.folder / self.split.files[index]))
        if pixels.nbytes <= self.room:
            self.kept[index] = pixels
            self.room -= pixels.nbytes
        return pixels


class RandomViews(Dataset):
    """The images of a split as random views, addressed by (epoch, image).

    An item is the views (views, size, size, 3) uint8, their colour changes (views, 10) float32,
    the label and the image's number.
    """

    def __init__(self, split: Split, size: int, seed: int, views: int = 2) -> None:
        self.images, self.labels = _Images(split), split.labels
        self.size, self.seed, self.views = size, seed, views

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int, int]:
        """The views of one image in one epoch."""
        epoch, index = key
        image = self.images[index]  # (h, w, 4)
        pixels = np.empty((self.views, self.size, self.size, 3), dtype=np.uint8)
        colours = np.empty((self.views, 10), dtype=np.float32)
        for view in range(self.views):
            random = augment.view_generator(self.seed, epoch, index, view)
            crop = augment.draw_crop(random, width=image.shape[1], height=image.shape[0])
            pixels[view] = augment.cut(image, crop, self.size)
            colours[view] = augment.draw_colour(random)
        return pixels, colours, int(self.labels[index]), index


class FeatureViews(Dataset):
    """The images of a split as the views that features are extracted from.

    An item is (views, size, size, 3) uint8: ``views`` random crops, or the central view alone
    where ``views`` is 0.
    """

    def __init__(self, split: Split, size: int, seed: int, views: int = 0) -> None:
        self.split, self.size, self.seed, self.views = split, size, seed, views

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        """The views of one image."""
        image = read_image(self.split.folder / self.split.files[index])
        if not self.views:
            return np.stack([augment.central_view(image, self.size)])
        randoms = (augment.view_generator(self.seed, 0, index, v) for v in range(self.views))
        crops = (augment.draw_crop(random, *image.size) for random in randoms)
        pixels = augment.pixels_of(image)
        return np.stack([augment.cut(pixels, crop, self.size) for crop in crops])


class EpochBatches:
    """Batches of (epoch, image) in an order that depends on (seed, epoch) alone.

    Every image comes once an epoch; the last batch is smaller where the batch size does not
    divide the number of images. A last image left alone is a batch of its own, or joins the
    batch before it where ``alone`` is False: batch normalisation cannot take a single view.
    """

    def __init__(self, images: int, batch_size: int, seed: int, alone: bool = True) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.joined = not alone and images > 1 and images % batch_size == 1
        self.epoch = 1

    def __len__(self) -> int:
        return -(-self.images // self.batch_size) - self.joined

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        keys = [(self.epoch, int(image)) for image in order]
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        for start, end in zip(starts, [*starts[1:], self.images], strict=True):
            yield keys[start:end]


class _Guarded(Dataset):
    """Passes an InputError on as an item, for torch would wrap it in a worker's traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _collate(items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, InputError)), None)
    return failed or torch.utils.data.default_collate(items)


class Loader:
    """A DataLoader over batches of keys whose workers live on from epoch to epoch.

    Raises:
        InputError: while iterating, for an image that cannot be read.
    """

    def __init__(self, dataset: Dataset, batches: Any, workers: int, pin_memory: bool) -> None:
        self.batches = batches
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


def worker_count(config: RunConfig, device: torch.device) -> int:
    """Processes that load images: as configured, else one a core (up to 8) beside a GPU.

    Where the CPU trains, the model needs the cores itself: none, then.
    """
    if config.workers is not None:
        return config.workers
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, 8)


def example_views(dataset: DataSet, config: RunConfig, images: int) -> dict[str, list]:
    """Some training images with the views that the first epoch takes of them.

    Returns:
        originals: (h, w, 3) uint8 arrays; views: for each view of the method a list of such
        arrays; names: the images' classes.
    """
    train = dataset.splits["train"]
    taken = RandomViews(train, config.image_size, config.seed, config.views)
    random = np.random.default_rng(config.seed)
    chosen = sorted(random.choice(len(train), min(images, len(train)), replace=False).tolist())
    shown: dict[str, list] = {"originals": [], "views": [[] for _ in range(config.views)]}
    for index in chosen:
        pixels, colours, _, _ = taken[(1, index)]
        views = augment.to_float(torch.from_numpy(pixels)[None])
        if config.method != "cross-entropy":
            views = augment.change_colour(views, torch.from_numpy(colours))
        for row, view in zip(shown["views"], views, strict=True):
            row.append((view * 255).round().byte().movedim(0, -1).numpy())
        shown["originals"].append(np.asarray(read_image(train.folder / train.files[index])))
    return shown | {"names": [dataset.classes[train.labels[index]] for index in chosen]}
