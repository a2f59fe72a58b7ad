"""The head's accuracy against the number of labelled images per class."""

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from thesis_lib.config import RunConfig
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.forests import train_head
from thesis_lib.evaluation.learning_curve import DRAWS, draw_images, measure_learning_curve
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.heads import create_head
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.results import results_of_run
from thesis_lib.runs.artifacts import read_learning_curve

CONFIG = RunConfig(**TINY).updated(head_epochs=20, head_learning_rates=(0.05,))


def features(counts, seed=0):
    """Normally distributed features of classes that overlap."""
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    centers = np.random.default_rng(9).normal(size=(len(counts), 16))
    drawn = 0.7 * centers[labels] + random.normal(size=(len(labels), 16))
    return Labelled(drawn.astype(np.float32), labels)


def test_more_images_of_each_class_give_better_heads_and_the_last_row_has_all():
    train, val = features([300, 250, 12, 290]), features([50, 50, 4, 50], seed=1)
    curve = measure_learning_curve(train, val, 4, CONFIG)
    assert curve["images_per_class"].tolist() == [10, 20, 50, 100, 200, 300]
    assert curve["images"].tolist() == [40, 72, 162, 312, 612, 852]  # no class has more than it has
    assert curve["draws"].tolist() == [DRAWS] * 5 + [1]
    assert curve["accuracy"].iloc[-1] > curve["accuracy"].iloc[0] + 0.03
    for name in ("accuracy", "f1"):
        assert (curve[f"{name}_low"] < curve[name]).all()
        assert (curve[name] < curve[f"{name}_high"]).all()
    again = measure_learning_curve(train, val, 4, CONFIG)
    assert again.equals(curve)


@pytest.mark.parametrize("head", ["linear", "forest"])
def test_the_last_row_is_the_head_on_all_images(head):
    config = CONFIG.updated(head=head, head_batch_size=8)
    train, val = features([30, 20, 15]), features([20, 20, 20], seed=1)
    last = measure_learning_curve(train, val, 3, config).iloc[-1]
    tensors = [Labelled(*map(torch.from_numpy, data)) for data in (train, val)]
    weights, _ = train_head(
        Labelled(tensors[0].features[None], tensors[0].labels), tensors[1], 3, config
    )
    with torch.inference_mode():
        predicted = create_head(weights)(tensors[1].features).argmax(1)
    assert last["accuracy"] == pytest.approx((predicted == tensors[1].labels).float().mean().item())


def test_larger_choices_contain_the_smaller_ones():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 7, 20]))
    few, more = list(draw_images(labels, 5, 42)), list(draw_images(labels, 10, 42))
    assert len(few) == DRAWS and not np.array_equal(few[0], few[1])
    for one, other in zip(few, more, strict=True):
        assert np.bincount(labels[one]).tolist() == [5, 5, 5]
        assert np.bincount(labels[other]).tolist() == [10, 7, 10]
        assert np.isin(one, other).all()
    (everything,) = draw_images(labels, 50, 42)
    assert everything.tolist() == list(range(77))


def test_a_run_shows_its_learning_curve(probed):
    final_test(probed)
    results = results_of_run(probed, "retrieve")
    assert read_learning_curve(probed).empty and draw("learning_curve", results) is None
    retrieve(probed)
    results = results_of_run(probed, "retrieve")
    table = write_table("learning_curve", results)
    assert table["images"].iloc[-1] == len(results.dataset.splits["train"])
    assert draw("learning_curve", results) is not None
    assert "accuracy changed by" in results.learning_sentence or len(table) == 1
