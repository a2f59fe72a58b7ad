import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from thesis_lib.config import RunConfig
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.ood import (
    SCORES,
    class_folds,
    detection_metrics,
    measure_ood,
    ood_table,
)


def clusters(n, num_classes, spread, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(num_classes, 16))
    labels = random.integers(0, num_classes, n)
    features = centres[labels] + spread * random.normal(size=(n, 16))
    return features.astype(np.float32), labels


def measured(num_classes, spread=0.3, **settings):
    (train, labels), (val, true) = (
        clusters(400, num_classes, spread, 1),
        clusters(200, num_classes, spread, 2),
    )
    config = RunConfig(head_epochs=20, **settings)
    names = [f"class {i}" for i in range(num_classes)]
    kept = np.ones(len(labels), dtype=bool)
    return measure_ood(Labelled(train, labels), kept, Labelled(val, true), names, config)


@pytest.mark.parametrize(("num_classes", "folds"), [(2, 0), (3, 3), (4, 4), (5, 5), (87, 5)])
def test_each_class_is_left_out_once_and_two_are_always_left(num_classes, folds):
    left_out = list(class_folds(num_classes, 42))
    assert len(left_out) == folds
    if folds:
        assert sorted(np.concatenate(left_out).tolist()) == list(range(num_classes))
        assert all(num_classes - len(fold) >= 2 for fold in left_out)


def test_detection_counts_what_a_loop_counts():
    random = np.random.default_rng(3)
    is_ood = random.random(300) < 0.3
    score = random.normal(size=300).round(1) - is_ood  # with ties
    found = detection_metrics(score, is_ood)
    assert found["auroc"] == roc_auc_score(is_ood, -score)
    rates = [((score <= t)[is_ood].mean(), (score <= t)[~is_ood].mean()) for t in np.unique(score)]
    assert found["fpr"] == min(fpr for tpr, fpr in rates if tpr >= 0.95)
    assert found["tpr"] == max(tpr for tpr, fpr in rates if fpr <= 0.05)


def test_clusters_apart_are_found_and_one_cloud_is_a_coin():
    apart, cloud = measured(6), measured(6, spread=30)
    assert apart[apart["score"] == "similarity"]["auroc"].mean() > 0.95
    for name in SCORES:
        assert apart[apart["score"] == name]["auroc"].mean() > 0.75
        assert 0.35 < cloud[cloud["score"] == name]["auroc"].mean() < 0.65
    assert apart.groupby("fold")["left_out"].nunique().tolist() == [1] * 5
    row = apart.iloc[0]
    assert row["known_images"] + row["ood_images"] == 200


def test_similarity_is_to_what_the_pruned_table_holds_of_the_known_classes():
    (train, labels), (val, true) = clusters(60, 3, 0.3, 1), clusters(40, 3, 0.3, 2)
    kept = np.arange(60) % 2 == 0
    names = ["a", "b", "c"]
    rows = measure_ood(
        Labelled(train, labels), kept, Labelled(val, true), names, RunConfig(head_epochs=2)
    )
    unit, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, val))
    for fold in rows[rows["score"] == "similarity"].to_dict("records"):
        left_out = names.index(fold["left_out"])
        nearest = (queries @ unit[kept & (labels != left_out)].T).max(1)
        assert fold["auroc"] == pytest.approx(roc_auc_score(true == left_out, -nearest))


def test_probabilities_that_round_to_one_keep_their_order():
    """Logits are in the hundreds, as with a head on features that are not normalised."""
    (train, labels), (val, true) = clusters(300, 4, 0.5, 1), clusters(100, 4, 0.5, 2)
    kept, names = np.ones(300, dtype=bool), list("abcd")
    config = RunConfig(head_epochs=20)
    plain, large = (
        measure_ood(
            Labelled(scale * train, labels), kept, Labelled(scale * val, true), names, config
        )
        for scale in (1, 1000)
    )
    for rows in (plain, large):
        assert (rows[rows["score"] == "max softmax"]["fpr"] < 1).all()


def test_table_gives_mean_and_range_in_percent():
    table = ood_table(measured(4))
    assert table["score"].tolist() == list(SCORES)
    rows = measured(4)
    auroc = 100 * rows[rows["score"] == "energy"]["auroc"]
    expected = f"{auroc.mean():.2f} ({auroc.min():.2f} to {auroc.max():.2f})"
    assert table.set_index("score").loc["energy", "AUROC"] == expected
    assert ood_table(measured(2)).empty
