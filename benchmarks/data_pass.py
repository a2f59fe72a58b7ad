"""Channel statistics against two passes of a DataLoader."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from benchmarks.pictures import write_pictures
from benchmarks.timing import Result, best, in_turns, median_ratio
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import measure


class _Pictures(Dataset):
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return to_tensor(image.convert("RGB"))


def two_passes(files: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean in a first pass, standard deviation in a second, one picture at a time."""
    pictures, pixels, total = DataLoader(_Pictures(files), batch_size=1), 0, torch.zeros(3)
    for picture in pictures:
        total += picture.sum((0, 2, 3))
        pixels += picture[0, 0].numel()
    mean, squares = total / pixels, torch.zeros(3)
    for picture in pictures:
        squares += (picture - mean.view(3, 1, 1)).square().sum((0, 2, 3))
    return mean, (squares / pixels).sqrt()


def statistics_pass(rounds: int, device: torch.device) -> Iterator[Result]:
    """Goal 8: one pass over counts of grey levels in threads."""
    with tempfile.TemporaryDirectory() as folder:
        split = write_pictures(Path(folder), 200)
        dataset = DataSet(Path(folder), "pictures", [f"class {i}" for i in range(4)], {})
        dataset.splits["train"] = split
        files = [split.folder / file for file in split.files]
        seconds = in_turns(rounds, ours=lambda: measure(dataset), old=lambda: two_passes(files))
    ratio = median_ratio(seconds["old"], seconds["ours"])
    yield Result(
        8,
        "channel statistics of 450 px JPEGs",
        "images/s",
        len(files) / best(seconds["ours"]),
        len(files) / best(seconds["old"]),
        "two passes of a DataLoader, batch size 1",
        ratio,
        ">= 4x",
        ratio >= 4,
        seconds,
    )
