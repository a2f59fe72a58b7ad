"""Batches contain every image once per epoch; the number of workers does not change the views."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import thesis_lib.data.workers as workers
from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.data.images import read_pixels
from thesis_lib.data.loaders import (
    EpochBatches,
    FeatureViews,
    Loader,
    RandomViews,
    example_views,
)
from thesis_lib.data.transforms import draw_jitter
from thesis_lib.data.workers import worker_count
from thesis_lib.errors import InputError

torch.set_num_threads(1)
FRAME = Frame(16, "crop")


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "d" / "train" / name / f"{i}.png")
    return open_dataset(str(tmp_path / "d"))


def epochs_of(batches: EpochBatches, epochs: int) -> list[list[list[tuple[int, int]]]]:
    found = []
    for epoch in range(1, epochs + 1):
        batches.epoch = epoch
        found.append(list(batches))
    return found


@pytest.mark.parametrize(("images", "size"), [(12, 4), (13, 4), (3, 3), (7, 100), (100, 2)])
def test_every_image_comes_once_an_epoch(images, size):
    batches = EpochBatches(images, size, seed=0)
    for epoch, found in enumerate(epochs_of(batches, 3), start=1):
        assert len(found) == len(batches) == int(np.ceil(images / size))
        assert all(len(batch) == size for batch in found[:-1])
        keys = [key for batch in found for key in batch]
        assert {e for e, _ in keys} == {epoch}
        assert sorted(image for _, image in keys) == list(range(images))


def test_order_differs_between_epochs_and_seeds_but_is_reproducible():
    one, other = (epochs_of(EpochBatches(50, 8, seed=1), 4) for _ in range(2))
    assert one == other
    orders = [tuple(image for batch in epoch for _, image in batch) for epoch in one]
    assert len(set(orders)) == 4 and tuple(range(50)) not in orders
    assert epochs_of(EpochBatches(50, 8, seed=2), 1) != one[:1]


def test_order_of_an_epoch_does_not_depend_on_those_before():
    batches = EpochBatches(50, 8, seed=1)
    batches.epoch = 3
    assert list(batches) == epochs_of(EpochBatches(50, 8, seed=1), 3)[2]


def colours_of(drawn: np.ndarray) -> list:
    return [field.tolist() if torch.is_tensor(field) else field for field in draw_jitter(drawn)]


def test_views_are_the_crops_and_colours_that_their_numbers_stand_for(dataset):
    train = dataset.splits["train"]
    views = RandomViews(Images(train), FRAME, seed=5, num_views=3)
    pixels, colours, labels, indices = views[[(7, 6), (7, 2)]]
    assert pixels.shape == (6, 16, 16, 3) and pixels.dtype == torch.uint8
    assert labels.tolist() == [1, 0] and indices.tolist() == [6, 2]
    drawn = transforms.draw_random_numbers(5, 7, [6, 2], 3)
    images = [read_pixels(dataset.root / train.files[number]) for number in (6, 6, 6, 2, 2, 2)]
    crops = transforms.draw_crops(drawn, [(image.shape[1], image.shape[0]) for image in images])
    assert torch.equal(pixels, transforms.crop_and_resize(images, crops, 16))
    found = [field.tolist() if torch.is_tensor(field) else field for field in colours]
    assert found == colours_of(drawn)


def batches_with(dataset, workers: int, epochs: int = 2) -> list[list[torch.Tensor]]:
    views = RandomViews(Images(dataset.splits["train"]), FRAME, seed=3)
    batches = EpochBatches(12, 5, seed=3)
    loader = Loader(views, batches, workers, pin_memory=False)
    assert len(loader) == 3
    found = []
    for epoch in range(1, epochs + 1):
        batches.epoch = epoch
        found += list(loader)
    return found


def test_batches_are_the_same_for_any_number_of_workers(dataset):
    alone, helped = batches_with(dataset, 0), batches_with(dataset, 2)
    assert len(alone) == len(helped) == 6
    for (pixels, colours, *rest), (others, other_colours, *others_rest) in zip(
        alone, helped, strict=True
    ):
        pairs = zip((pixels, *rest), (others, *others_rest), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert str(colours) == str(other_colours)
    pixels, colours, labels, index = alone[0]
    assert pixels.shape == (10, 16, 16, 3) and pixels.dtype == torch.uint8
    assert colours.share.shape == (4, 10) and colours.share.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(labels, torch.from_numpy(dataset.splits["train"].labels)[index])
    # the second epoch has different views of the same images
    assert sorted(torch.cat([b[3] for b in alone[:3]]).tolist()) == list(range(12))
    assert not torch.equal(alone[0][0], alone[3][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_one_clear_line(dataset, workers):
    bad = dataset.root / "train" / "b" / "1.png"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        batches_with(dataset, workers)
    message = str(caught.value)
    assert str(bad) in message and "\n" not in message and "Traceback" not in message


def test_a_mistake_in_the_program_is_not_hidden():
    class Broken(torch.utils.data.Dataset):
        def __getitem__(self, key):
            raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError, match="a mistake"):
        list(Loader(Broken(), [[1, 2]], 0, pin_memory=False))


def test_feature_views_are_the_central_view_or_random_crops(dataset):
    train = dataset.splits["train"]
    images = Images(train)
    central = FeatureViews(images, FRAME, seed=3)
    random = FeatureViews(images, FRAME, seed=3, num_views=4)
    pictures = [read_pixels(dataset.root / train.files[number]) for number in (5, 1)]
    expected = np.stack([transforms.center_crop(picture, 16) for picture in pictures])
    assert np.array_equal(central[[5, 1]], expected)
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures for _ in range(4)]
    crops = transforms.draw_crops(transforms.draw_random_numbers(3, 0, [5, 1], 4), sizes)
    cut = transforms.crop_and_resize([picture for picture in pictures for _ in range(4)], crops, 16)
    assert torch.equal(random[[5, 1]], cut)


def test_worker_count_is_as_configured_else_from_the_cores(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert all(worker_count(RunConfig(workers=3), device, 1) == 3 for device in (cpu, cuda))
    assert worker_count(RunConfig(workers=0), cuda, 1) == 0
    assert worker_count(RunConfig(), cpu, 1) == 0
    for cores, expected in ((2, 2), (64, 8)):
        monkeypatch.setattr("joblib.cpu_count", lambda n=cores: n)
        assert worker_count(RunConfig(), cuda, 1) == expected


def test_fewer_workers_load_where_shared_memory_is_small(monkeypatch, tmp_path, capsys):
    """Docker gives a container 64 MB of it."""
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    disk = SimpleNamespace(free=64 * 2**20)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda folder: disk)
    config, cpu = RunConfig(workers=4), torch.device("cpu")
    assert worker_count(config, cpu, 8 * 2**20) == 4
    assert capsys.readouterr().out == ""
    assert worker_count(config, cpu, 10 * 2**20) == 3
    told = capsys.readouterr().out
    assert told.startswith("3 loading workers instead of 4") and "--shm-size" in told
    assert worker_count(config, cpu, 40 * 2**20) == 0  # the batches are loaded in this process
    assert worker_count(RunConfig(workers=0), cpu, 40 * 2**20) == 0


def test_full_shared_memory_is_told_at_once(dataset, monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # forked workers inherit it
    views = RandomViews(Images(dataset.splits["train"]), FRAME, 0)
    loader = Loader(views, EpochBatches(len(views.images), 4, 0), 1, False, timeout=60)
    began = time.monotonic()
    with loader, pytest.raises(InputError, match=r"/dev/shm is full .*--shm-size"):
        list(loader)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("method", ["supcon", "simclr", "cross-entropy"])
def test_example_views_are_those_of_the_first_epoch(dataset, method):
    config = RunConfig(image_size=16, seed=9, method=method, fit="crop")
    shown = example_views(dataset, config, 5)
    assert len(shown["views"]) == config.views == (1 if method == "cross-entropy" else 2)
    train = dataset.splits["train"]
    originals = [read_pixels(dataset.root / file) for file in train.files]
    for original, name, *views in zip(
        shown["originals"], shown["names"], *shown["views"], strict=True
    ):
        index = next(i for i, o in enumerate(originals) if np.array_equal(o, original))
        assert dataset.classes[train.labels[index]] == name
        pixels, colours, *_ = RandomViews(Images(train), FRAME, 9, config.views)[[(1, index)]]
        expected = transforms.to_float(pixels)
        if method != "cross-entropy":  # SupContrast's baseline only crops and flips
            expected = transforms.color_jitter(expected, colours)
        for view, wanted in zip(views, expected * 255, strict=True):
            assert view.dtype == np.uint8
            assert np.abs(view - wanted.movedim(0, -1).numpy()).max() <= 0.5
    for original, view in zip(shown["originals"], shown["evaluation"], strict=True):
        assert np.array_equal(view, transforms.center_crop(original, 16))
    assert len(example_views(dataset, config, 100)["names"]) == 12


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 2, [3]), (2, 2, [2])],
)
def test_last_image_left_alone_may_join_the_batch_before_it(images, batch_size, sizes):
    batches = EpochBatches(images, batch_size, seed=1, alone=False)
    assert [len(batch) for batch in batches] == sizes and len(batches) == len(sizes)
    assert sorted(index for batch in batches for _, index in batch) == list(range(images))
