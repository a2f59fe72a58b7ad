import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from statsmodels.stats.contingency_tables import mcnemar

from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation import retrieval
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.knn import LookupTable
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.pruning import THRESHOLDS, Queries, choose_threshold, pruning_curve
from thesis_lib.evaluation.retrieval import retrieve, stored_table
from thesis_lib.evaluation.statistics.comparison import compare_with_head
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.tables.retrieval import misleading
from thesis_lib.runs.artifacts import read_predictions, read_retrieval, read_retrieval_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import stage_states
from thesis_lib.runs.stages import is_done
from thesis_lib.training.pretraining import pretrain


@pytest.fixture
def without_val(workbook, tiny_config):
    """Train a run on data split by the cosine recipe, which has no val/."""
    split_dataset(workbook / "classes", workbook / "data" / "cosine", "cosine")
    return pretrain(tiny_config.updated(data="data/cosine"))


def with_settings(run, **settings):
    return RunDirectory(run.config.updated(**settings))


def features_of(run, epoch, split):
    """Return unit-length float64 features and labels of a split, without code of retrieval."""
    data_split = open_dataset(run.config.data).splits[split]
    features = FrozenBackbone.load(run, epoch).features(Images(data_split))[0]
    features = features.numpy().astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True), data_split.labels


def pruned_by_definition(vectors, labels, threshold):
    kept = []
    for i in range(len(labels)):
        alike = (vectors[i] @ vectors[j] > threshold for j in kept if labels[j] == labels[i])
        if threshold >= 1 or not any(alike):
            kept.append(i)
    return kept


def test_every_threshold_is_what_scikit_learn_makes_of_the_definition(probed):
    stored = stored_table(probed)
    epoch = json.loads(probed.selection_file.read_text())["checkpoint"]
    train, labels = features_of(probed, epoch, "train")
    val, true = features_of(probed, epoch, "val")
    curve = read_retrieval(probed).set_index("threshold")
    assert curve.index.tolist() == list(THRESHOLDS)
    for threshold in THRESHOLDS:
        kept = pruned_by_definition(train, labels, threshold)
        nearest = KNeighborsClassifier(1, algorithm="brute", metric="cosine")
        predicted = nearest.fit(train[kept], labels[kept]).predict(val)
        row = curve.loc[threshold]
        assert row["images"] == len(kept)
        assert row["accuracy"] == pytest.approx((predicted == true).mean())
        assert row["f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["index_mib"] == len(kept) * train.shape[1] * 4 / 2**20
        assert row["seconds_per_image"] > 0
        assert len(stored.at(threshold)) == len(kept)
    assert (curve["split"] == "val").all()
    assert len(stored.at(1.0)) == len(labels)


def test_the_table_is_made_and_chosen_without_the_test_images(probed, monkeypatch):
    looked_at = []
    extract = FrozenBackbone.features

    def noting(backbone, images):
        looked_at.append(images.split.files[0].split("/")[0])
        return extract(backbone, images)

    monkeypatch.setattr(FrozenBackbone, "features", noting)
    stored = stored_table(probed)
    assert looked_at == ["train", "val"]
    choice = json.loads(probed.table_choice_file.read_text())
    assert choice["threshold"] == stored.threshold and choice["chosen_on"] == "val"
    assert not probed.retrieval_test_file.exists()

    def choice_is_on_disk(backbone, images):
        assert json.loads(probed.table_choice_file.read_text())["threshold"] == choice["threshold"]
        return noting(backbone, images)

    monkeypatch.setattr(FrozenBackbone, "features", choice_is_on_disk)
    retrieve(probed)
    assert looked_at == ["train", "val", "test"]  # the table was not made again


def test_test_is_the_chosen_table_on_the_test_images(probed):
    result = retrieve(probed)
    train, labels = features_of(probed, result["checkpoint"], "train")
    test, true = features_of(probed, result["checkpoint"], "test")
    kept = pruned_by_definition(train, labels, result["threshold"])
    nearest = KNeighborsClassifier(1, algorithm="brute", metric="cosine")
    predicted = nearest.fit(train[kept], labels[kept]).predict(test)
    assert result["accuracy"] == pytest.approx((predicted == true).mean())
    assert result["images"] == len(kept) and result["n"] == len(true)
    predictions = read_retrieval_predictions(probed)
    classes = open_dataset(probed.config.data).classes
    assert predictions["predicted"].tolist() == [classes[label] for label in predicted]
    assert predictions["true"].tolist() == [classes[label] for label in true]
    cosines = (test @ train[kept].T).max(1)
    assert predictions["similarity"].to_numpy() == pytest.approx(cosines, abs=2e-6)
    tested = read_retrieval(probed).query("split == 'test'")
    assert tested["threshold"].tolist() == [result["threshold"]]  # once, at the chosen threshold


def test_what_is_done_is_read_and_what_it_depends_on_makes_it_anew(probed, monkeypatch):
    first = retrieve(probed)
    assert is_done(probed, "retrieve") and stage_states(probed)["retrieve"]["state"] == "done"

    def never(*_, **__):
        raise AssertionError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr(FrozenBackbone, "features", never)
        assert retrieve(probed) == first
        assert len(stored_table(probed).table) > 0

    voting = with_settings(probed, neighbours=3)
    assert not is_done(voting, "table") and not is_done(voting, "retrieve")
    second = retrieve(voting)
    assert second["neighbours"] == 3
    assert [entry["neighbours"] for entry in second["history"]] == [1]
    assert second["history"][0]["accuracy"] == first["accuracy"]
    assert not is_done(probed, "retrieve")  # the files now belong to three neighbours


def test_the_same_table_made_again_is_no_other_choice(probed):
    first = retrieve(probed)
    probed.table_file.unlink()
    assert not is_done(probed, "table")
    stored_table(probed)
    assert is_done(probed, "retrieve")
    second = retrieve(probed)
    assert second["history"] == [] and second["table"] == first["table"]


def test_whole_test_curve_comes_on_request_alone_and_changes_no_choice(probed):
    first = retrieve(probed)
    assert first["test_curve"] is False
    asked = with_settings(probed, test_curve=True)
    assert is_done(asked, "table") and not is_done(asked, "retrieve")
    second = retrieve(asked)
    assert second["test_curve"] is True and second["history"] == []
    assert second["threshold"] == first["threshold"] and second["accuracy"] == first["accuracy"]
    curve = read_retrieval(asked)
    tested = curve[curve["split"] == "test"].set_index("threshold")
    assert tested.index.tolist() == list(THRESHOLDS)
    assert tested.loc[first["threshold"], "accuracy"] == first["accuracy"]
    assert (curve["split"] == "val").sum() == len(THRESHOLDS)
    assert is_done(probed, "retrieve")  # the curve is not needed without test_curve


def test_without_val_each_training_image_asks_all_others(without_val):
    run = without_val
    stored = stored_table(run)
    choice = json.loads(run.table_choice_file.read_text())
    assert choice["chosen_on"] == "train" and choice["checkpoint"] == run.config.epochs
    train, labels = features_of(run, run.config.epochs, "train")
    curve = read_retrieval(run).set_index("threshold")
    for threshold in (0.8, 0.9, 0.97, 1.0):
        kept = np.array(pruned_by_definition(train, labels, threshold))
        right = []
        for i in range(len(labels)):
            others = kept[kept != i]
            right.append(labels[others[(train[others] @ train[i]).argmax()]] == labels[i])
        assert curve.loc[threshold, "accuracy"] == pytest.approx(np.mean(right))
        assert curve.loc[threshold, "images"] == len(kept)
    assert len(stored.known_similarity) == len(labels)
    assert retrieve(run)["n"] == len(open_dataset(run.config.data).splits["test"])
    assert compare_with_head(run) is None


def test_named_checkpoint_is_taken_and_one_that_is_not_kept_named(probed):
    assert stored_table(with_settings(probed, table_checkpoint=2)).checkpoint == 2
    with pytest.raises(InputError, match=r"no checkpoint of epoch 9; it has 1, 2, 3, 4"):
        stored_table(with_settings(probed, table_checkpoint=9))


def test_what_cannot_be_is_told_in_one_line(trained, workbook):
    with pytest.raises(InputError, match=r"has no selection\.json; run notebook 03"):
        stored_table(trained)
    probe_checkpoints(trained)
    with pytest.raises(InputError, match=r"neighbours must be at most the 42 training images"):
        stored_table(with_settings(trained, neighbours=1000))
    next((workbook / "data" / "tiny" / "val" / "003_δύο").iterdir()).unlink()
    with pytest.raises(InputError, match="is not the data set that"):
        stored_table(trained)


def test_table_that_was_cut_off_is_made_again(probed, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(retrieval, "write_json", killed)
        stored_table(probed)
    assert not is_done(probed, "table")
    assert stage_states(probed)["retrieve"]["state"] == "interrupted"
    assert stored_table(probed).threshold in THRESHOLDS


def test_head_and_table_are_held_against_each_other_image_by_image(probed):
    final_test(probed)
    retrieve(probed)
    pair = compare_with_head(probed)
    by_head, by_table = read_predictions(probed), read_retrieval_predictions(probed)
    head = (by_head["true"] == by_head["predicted"]).to_numpy()
    table = (by_table["true"] == by_table["predicted"]).to_numpy()
    counts = [[(head & table).sum(), (head & ~table).sum()]]
    counts += [[(~head & table).sum(), (~head & ~table).sum()]]
    assert pair.p == pytest.approx(mcnemar(counts, exact=True).pvalue)
    assert pair.difference == pytest.approx(table.mean() - head.mean())


def curve_of(*rows):
    return pd.DataFrame(rows, columns=["threshold", "images", "difference", "p"])


def test_smallest_table_that_is_not_shown_to_be_worse_is_chosen():
    full = (1.0, 100, 0.0, 1.0)
    assert choose_threshold(curve_of((0.8, 10, -0.2, 0.001), (0.9, 40, -0.003, 0.4), full)) == 0.9
    assert choose_threshold(curve_of((0.8, 10, -0.2, 0.001), (0.9, 40, -0.004, 0.04), full)) == 1.0
    assert choose_threshold(curve_of((0.8, 10, 0.2, 0.001), (0.9, 40, -0.01, 0.4), full)) == 0.8
    assert choose_threshold(curve_of((0.8, 10, -0.002, 0.4), (0.9, 10, -0.002, 0.4), full)) == 0.9


def test_what_measures_worse_by_half_a_point_is_not_taken_though_the_test_shows_nothing():
    full = (1.0, 100, 0.0, 1.0)
    assert choose_threshold(curve_of((0.8, 10, -0.012, 0.45), (0.9, 40, -0.005, 1), full)) == 0.9
    assert choose_threshold(curve_of((0.8, 10, -0.051, 0.45), (0.9, 40, -0.006, 1), full)) == 1.0


def test_differences_are_to_the_full_table_on_the_same_images():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = random.integers(0, 3, 60)
    table = LookupTable(vectors, labels, [f"{i}.png" for i in range(60)], ["a", "b", "c"])
    kept = np.zeros((2, 60), dtype=bool)
    kept[0, :12] = kept[1] = True
    true = labels[::2]
    queries = Queries("val", vectors[::2] + 0.01, true)
    curve, found = pruning_curve(table, kept, queries, 1, thresholds=(0.8, 1.0))
    right = np.array([one["predicted"] == true for one in found])
    assert curve["difference"].tolist() == [right[0].mean() - right[1].mean(), 0]
    assert curve.loc[0, "difference"] < 0
    counts = [[(right[1] & right[0]).sum(), (right[1] & ~right[0]).sum()]]
    counts += [[(~right[1] & right[0]).sum(), (~right[1] & ~right[0]).sum()]]
    assert curve.loc[0, "p"] == pytest.approx(mcnemar(counts, exact=True).pvalue)
    sizes = np.bincount(labels[:12])
    assert curve.loc[0, "imbalance_ratio"] == pytest.approx(sizes.max() / sizes.min())


def test_misleading_are_the_nearest_of_another_class_most_similar_first():
    predictions = pd.DataFrame(
        {
            "path": ["test/a/1.png", "test/a b/2.png", "test/a/3.png"],
            "true": ["a", "a b", "a"],
            "predicted": ["a", "a", "a b"],
            "similarity": [0.99, 0.7, 0.8],
            "nearest": ["train/a/9.png", "train/a/8.png", "train/a b/7.png"],
        }
    )
    found = misleading(predictions)
    assert found["path"].tolist() == ["test/a/3.png", "test/a b/2.png"]
    assert found["nearest_class"].tolist() == ["a b", "a"]
