"""What a run will cost: near what it costs, without a trace in the run itself."""

import shutil

import pytest
import torch

from thesis_lib.data.datasets import open_dataset
from thesis_lib.training import estimates
from thesis_lib.training.estimates import estimate
from thesis_lib.training.pretraining import create_model


def estimated(config):
    return estimate(config, open_dataset(config.data))


def test_the_disk_space_is_that_of_the_checkpoints(trained, tiny_config):
    found = estimated(tiny_config)
    there = sum(path.stat().st_size for path in trained.checkpoints.iterdir())
    assert found.disk == pytest.approx(there, rel=0.2)


@pytest.fixture
def half_a_second(monkeypatch):
    """Everything that is timed takes half a second."""

    def seconds(work, warm=False):
        work()
        return 0.5

    monkeypatch.setattr(estimates, "_seconds", seconds)


def test_the_time_is_that_of_steps_and_views_times_images_and_epochs(
    workbook, tiny_config, half_a_second
):
    config = tiny_config.updated(batch_size=16, epochs=7, head_views=0)
    found = estimated(config)  # 42 training, 9 validation and 9 test images
    assert found.seconds == 7 * 42 * (0.5 / 2 + 0.5 / 2)  # a step and the views of two images
    a_view = 0.5 / 2 + 0.5 / 2
    assert found.feature_seconds == pytest.approx((3 * (42 + 9) + 60 + 9) * a_view)
    crops = estimated(config.updated(head_views=5)).feature_seconds - found.feature_seconds
    assert crops == pytest.approx(3 * 42 * (0.5 / 2 + 5 * 0.5 / 2))
    short = estimated(config.updated(batch_size=4))  # a whole batch can be timed
    assert short.seconds == 7 * 42 * (0.5 / 4 + 0.5 / 2)
    assert estimated(config.updated(workers=2)).seconds == 7 * 42 * 0.5 / 2  # loaded meanwhile
    assert estimated(config.updated(devices=2)).seconds == found.seconds / 2


def test_only_the_epochs_that_are_left_count(trained, tiny_config, half_a_second):
    assert estimated(tiny_config).seconds == 0  # trained to its last epoch
    longer = trained.path.with_name(f"{trained.path.name}-longer")
    shutil.copytree(trained.path, longer)
    config = tiny_config.updated(epochs=6, tag="longer", batch_size=8)
    assert estimated(config).seconds == estimated(config.updated(tag="new")).seconds * 2 / 6


def test_a_process_of_its_own_estimates_the_same(workbook, tiny_config):
    dataset = open_dataset(tiny_config.data)
    apart = estimates.estimate_apart(tiny_config, dataset)
    assert apart.disk == estimated(tiny_config).disk and apart.seconds > 0


def test_the_memory_is_that_of_weights_and_activations(workbook, tiny_config):
    config = tiny_config.updated(backbone="resnet18", image_size=64, batch_size=32)
    small, large = (estimated(config.updated(batch_size=n)).memory for n in (8, 32))
    weights = 4 * sum(p.numel() for p in create_model(config, 3).parameters())
    assert 3 * weights < small < large
    # Of 64 x 64 px with the small-image stem, layer 1 keeps 8 maps of 64 channels, 1 MiB each.
    per_view = (large - small) / 24 / 2 / 2**20
    assert 8 < per_view < 3 * 8


@pytest.mark.parametrize(
    ("method", "an_image"), [("frozen", 0.5 / 2 + 0.5 / 2), ("regions", 0.5 / 2)]
)
def test_runs_without_training_take_the_time_of_their_features(
    workbook, tiny_config, half_a_second, method, an_image
):
    found = estimated(tiny_config.updated(method=method, head_views=0))
    assert found.seconds == found.memory == 0
    assert found.feature_seconds == pytest.approx((42 + 9 + 60 + 9) * an_image)
    assert "training" not in str(found) and "for features" in str(found)


def test_an_estimate_changes_no_random_number(workbook, tiny_config):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    estimated(tiny_config)
    assert torch.equal(torch.rand(3), expected)


def test_more_than_a_day_on_a_cpu_names_the_cheaper_way(workbook, tiny_config, monkeypatch):
    assert "more than a day" not in str(estimated(tiny_config))
    monkeypatch.setattr(estimates, "DAY", 1)
    long = str(estimated(tiny_config.updated(epochs=10**6)))
    assert "more than a day" in long and "--method frozen --weights timm" in long
