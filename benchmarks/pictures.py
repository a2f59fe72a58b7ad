"""Made-up dark-field pictures as JPEGs, with the side of DYB-PlanktonNet's images."""

from pathlib import Path

import numpy as np
from PIL import Image

from thesis_lib.data import Split


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
