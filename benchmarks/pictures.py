"""The pictures that the benchmarks run on: made-up dark-field ones, and scikit-learn's digits."""

from pathlib import Path

import numpy as np
from PIL import Image

from thesis_lib.data.datasets import DataSet, Split
from thesis_lib.data.demo import write_digits
from thesis_lib.data.images import class_folders, image_files


def write_pictures(folder: Path, pictures: int, side: int = 450, classes: int = 4) -> Split:
    """Write JPEGs of ``side`` px as train/<class>/<number>.jpg."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    files, labels = [], []
    for number in range(pictures):
        label = number % classes
        path = folder / "train" / f"class {label}" / f"{number:06d}.jpg"
        files.append(path.relative_to(folder).as_posix())
        labels.append(label)
        picture = rng.normal(8, 3, (side, side, 3))
        for _ in range(12):
            centre, radius = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.01, 0.15) * side
            blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * radius**2))
            picture += blob[..., None] * rng.uniform(0, 90, 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    order = np.argsort(files)
    return Split(folder, [files[i] for i in order], np.array(labels)[order])


def write_organisms(folder: Path, classes: int, images: int, side: int = 32) -> None:
    """Write made-up organisms as class folders of PNG.

    A class is a constellation of eight blobs with colours; an image shows it turned, moved,
    resized, with every blob displaced, under noise.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side - 0.5
    for label in range(classes):
        blobs = rng.uniform(-0.3, 0.3, (8, 2))
        radii, colours = rng.uniform(0.03, 0.12, 8), rng.uniform(20, 120, (8, 3))
        path = folder / f"organism {label:02d}"
        path.mkdir(parents=True)
        for number in range(images):
            angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.2)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            placed = scale * (blobs + rng.normal(0, 0.04, (8, 2))) @ turn + rng.normal(0, 0.05, 2)
            distance = (x[..., None] - placed[:, 0]) ** 2 + (y[..., None] - placed[:, 1]) ** 2
            picture = np.exp(-distance / (2 * (scale * radii) ** 2)) @ colours
            picture += rng.normal(10, 12, picture.shape)
            image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            image.save(path / f"{number:05d}.png")


def open_folder(folder: Path, images: int | None = None) -> Split:
    """Class folders as a split, with the first ``images`` of each class."""
    files, labels = [], []
    for label, name in enumerate(class_folders(folder)):
        found = image_files(name)[:images]
        files += [f"{folder.name}/{name.name}/{file}" for file in found]
        labels += [label] * len(found)
    return Split(folder.parent, files, np.array(labels))


def digits(folder: Path, images: int) -> Split:
    """Some of scikit-learn's digits as a training split."""
    write_digits(folder / "train")
    return open_folder(folder / "train", images // 10)


def as_dataset(**splits: Split) -> DataSet:
    """Splits of one folder as a data set."""
    split = next(iter(splits.values()))
    classes = [str(label) for label in np.unique(split.labels)]
    return DataSet(split.folder, "benchmark", classes, splits)
