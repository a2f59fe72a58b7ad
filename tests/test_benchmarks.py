"""The old way is an honest reference only if it does the same work."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import __main__ as table
from benchmarks import (
    cached_views,
    data_pass,
    evaluation,
    growth,
    old_way,
    pruning,
    timing,
    training,
)
from benchmarks.pictures import open_folder, write_organisms, write_pictures
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.statistics import measure
from thesis_lib.evaluation.pruning import kept_images
from thesis_lib.losses import SupConLoss


def test_old_loss_is_the_same_loss():
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(8, 2, 5, generator=generator, dtype=torch.float64), dim=2)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3])
    expected = old_way.masked_loss(features, labels).item()
    assert SupConLoss()(features, labels).item() == pytest.approx(expected, rel=1e-5)


def test_old_statistics_are_the_same_statistics(tmp_path):
    split = write_pictures(tmp_path, 8, side=40)
    dataset = DataSet(tmp_path, "x", [f"class {i}" for i in range(4)], {"train": split})
    mean, std = data_pass.two_passes([split.folder / file for file in split.files])
    measured = measure(dataset)
    assert measured.mean == pytest.approx(mean.tolist(), abs=1e-5)
    assert measured.std == pytest.approx(std.tolist(), abs=1e-5)


def test_old_chain_makes_views_of_the_same_shape(tmp_path):
    split = write_pictures(tmp_path, 8, side=40)
    chain = old_way.two_views_chain(16, training.MEAN, training.STD)
    dataset = old_way.TwoCrops([split.folder / f for f in split.files], split.labels, chain)
    (first, second), label = dataset[3]
    assert first.shape == second.shape == (3, 16, 16) and not torch.equal(first, second)
    assert label == split.labels[3]


def test_rounds_are_run_in_turns_and_the_first_is_not_counted():
    calls = []
    seconds = timing.in_turns(3, a=lambda: calls.append("a"), b=lambda: calls.append("b"))
    assert "".join(calls) == "abbaabba"
    assert [len(rounds) for rounds in seconds.values()] == [3, 3]
    assert timing.median_ratio([1, 2, 30], [1, 1, 10]) == 2


def test_a_goal_that_is_not_met_says_so():
    result = timing.Result(1, "x", "s", 1.0, 2.0, "y", 0.5, ">= 1", met=False)
    assert table.line(result).endswith("| >= 1 | NOT MET |")


def test_a_measured_goal_renews_its_own_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    cpu = torch.device("cpu")
    for number, ours in ((2, 1.0), (1, 2.0), (2, 3.0)):
        found = [timing.Result(number, f"goal {number}", "s", ours, 1.0, "y", ours, "<= 9", True)]
        table.write(number, found, cpu, rounds=1)
    (written,) = tmp_path.glob("*.md")
    rows = [row for row in written.read_text().splitlines() if row.startswith(("| 1", "| 2"))]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 1", "goal 1", "2 s"],
        ["| 2", "goal 2", "3 s"],
    ]


def test_made_up_predictions_have_the_published_sizes():
    true, predicted, classes = evaluation.made_up_test()
    assert len(true) == 7147 and len(classes) == 87
    assert 0.94 < (true == predicted).mean() < 0.96


def test_growth_writes_as_many_images_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "SIDE", 16)
    growth.write_many(tmp_path, 1000)
    files = list((tmp_path / "classes").glob("*/*.jpg"))
    assert len(files) == 1000 and len({file.parent for file in files}) == growth.CLASSES


def test_halves_share_no_image_and_all_classes(tmp_path):
    write_organisms(tmp_path / "train", classes=3, images=6, side=16)
    train, val = cached_views.halves(open_folder(tmp_path / "train"))
    assert not set(train.files) & set(val.files) and len(train) == len(val) == 9
    assert set(train.labels) == set(val.labels) == {0, 1, 2}


def test_the_older_way_of_pruning_keeps_the_same_images():
    vectors, labels = pruning.made_up_vectors(are_alike=True, width=64)
    own = np.flatnonzero(labels == 2)
    expected = kept_images(vectors[own], labels[own], [0.8, 0.9])
    assert 0 < expected[0].sum() < expected[1].sum() < len(own)
    for threshold, kept in zip((0.8, 0.9), expected, strict=True):
        assert (pruning.naive_loop(vectors[own], threshold) == kept).all()


def test_made_up_vectors_have_the_published_sizes():
    vectors, labels = pruning.made_up_vectors(are_alike=False, width=8)
    assert vectors.shape == (33_135, 8) and np.bincount(labels).max() == 5432
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_comparisons_are_those_of_kept_images_with_later_ones_of_their_class():
    labels = np.array([1, 0, 1, 1, 0])
    kept = np.array([[True, True, True, True, True], [True, True, False, True, False]])
    assert pruning.comparisons(kept, labels) == (3 + 1) + (2 + 1)


def test_bare_products_are_of_each_block_with_what_stays_and_with_itself(monkeypatch):
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", 2)
    shapes, multiply = [], torch.Tensor.__matmul__

    def note(first, second):
        shapes.append((len(first), second.shape[1]))
        return multiply(first, second)

    monkeypatch.setattr(torch.Tensor, "__matmul__", note)
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    stays = np.array([True, True, False, True, True, True, True])
    pruning.bare_products(np.eye(7, dtype=np.float32), labels, stays)()
    assert shapes == [(2, 0), (2, 2), (2, 1), (2, 2), (1, 3), (1, 1), (2, 0), (2, 2)]
