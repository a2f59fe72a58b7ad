"""Thresholds of confidence, what they reject, and accuracy against coverage."""

import io
from importlib.resources import files as package_files

import numpy as np
import pandas as pd
import pytest

from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.statistics.intervals import wilson_interval
from thesis_lib.evaluation.statistics.rejection import (
    FEWEST,
    MOST_POINTS,
    Thresholds,
    area,
    choose_thresholds,
    coverage_curve,
    rejection_by_class,
    rejection_metrics,
    thinned,
    validation_confidences,
)
from thesis_lib.evaluation.testing import final_test
from thesis_lib.reporting.catalogue.tables import write_table
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.results import results_of_run
from thesis_lib.reporting.tables.rejection import coverage_on_test
from thesis_lib.reporting.verification import verify
from thesis_lib.runs.artifacts import read_confidences
from thesis_lib.system.files import read_json, write_csv
from thesis_lib.training import checkpoints


def classified(sizes, accuracy, seed):
    """Make up classified images of classes of some sizes, with calibrated confidence."""
    random = np.random.default_rng(seed)
    true = np.repeat(np.arange(len(sizes)), sizes)
    skill = np.clip(random.normal(accuracy, 0.05, len(sizes)), 0.5, 0.99)[true]
    confidence = random.beta(8 * skill, 8 * (1 - skill))  # calibrated: right with this probability
    right = random.random(len(true)) < confidence
    other = (true + random.integers(1, 4, len(true))) % len(sizes)
    names = np.array([f"class {i:02}" for i in range(len(sizes))])
    predicted = names[np.where(right, true, other)]
    return pd.DataFrame({"true": names[true], "predicted": predicted, "confidence": confidence})


def test_threshold_is_the_lowest_with_the_wanted_precision():
    """Against a loop over all thresholds, with many equal confidences."""
    for seed in range(20):
        val = classified([40, 30, 5], 0.7, seed)
        val["confidence"] = val["confidence"].round(1)
        for wanted in (0.5, 0.8, 0.9, 0.99):
            reached = [
                limit
                for limit in sorted(val["confidence"].unique())
                if (kept := val[val["confidence"] >= limit]) is not None
                and (kept["true"] == kept["predicted"]).mean() >= wanted
            ]
            found = choose_thresholds(val, wanted)
            lowest = reached[0] if reached else np.inf
            assert found.overall == (0 if lowest == val["confidence"].min() else lowest)


def test_classes_with_few_images_have_the_threshold_of_all():
    val = classified([200, 200, 0, 0, 25], 0.9, 0)
    found = choose_thresholds(val, 0.9)
    counts = val["predicted"].value_counts()
    assert counts.min() < FEWEST <= counts.nlargest(2).iloc[-1]
    for name, number in counts.items():
        of_class = val[val["predicted"] == name]
        own = choose_thresholds(of_class, 0.9).overall
        assert found.of_class(name) == (own if number >= FEWEST else found.overall)
    assert found.of_class("never predicted") == found.overall
    accepted = found.accepts(val["predicted"], val["confidence"])
    kept = val[accepted]
    for name in counts.index[counts >= FEWEST]:
        of_class = kept[kept["predicted"] == name]
        assert (of_class["true"] == name).mean() >= 0.9


def test_metrics_by_hand():
    test = pd.DataFrame(
        {
            "true": ["a", "a", "a", "a", "b", "b"],
            "predicted": ["a", "a", "b", "a", "b", "a"],
            "confidence": [0.9, 0.8, 0.7, 0.3, 0.6, 0.5],
        }
    )
    thresholds = Thresholds(0.55, {"b": 0.65})
    accepted = thresholds.accepts(test["predicted"], test["confidence"])
    assert accepted.tolist() == [True, True, True, False, False, False]
    found = rejection_metrics(test, accepted)
    assert found["coverage"] == 0.5 and found["precision"] == pytest.approx(2 / 3)
    assert (found["precision_low"], found["precision_high"]) == wilson_interval(2, 3)
    assert found["recall_before"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["recall_after"] == pytest.approx((2 / 4 + 0) / 2)

    a, b = rejection_by_class(test, thresholds).to_dict("records")
    assert (a["class"], a["threshold"], b["threshold"]) == ("a", 0.55, 0.65)
    assert (a["coverage"], a["precision_before"], a["precision"]) == (2 / 4, 3 / 4, 1)
    assert (a["recall_before"], a["recall_after"]) == (3 / 4, 2 / 4)
    assert (b["coverage"], b["precision_before"], b["precision"]) == (1 / 2, 1 / 2, 0)
    assert (b["recall_before"], b["recall_after"]) == (1 / 2, 0)

    nothing = rejection_metrics(test, np.zeros(6, dtype=bool))
    assert nothing["coverage"] == 0 and np.isnan(nothing["precision"])
    assert nothing["recall_after"] == 0


def test_curve_and_areas_against_loops():
    """AURC as in Geifman and El-Yaniv (2017): the mean risk over all coverages."""
    random = np.random.default_rng(0)
    confidence, right = random.random(50), random.random(50) < 0.7
    curve = coverage_curve(confidence, right)
    order = sorted(range(50), key=lambda i: -confidence[i])
    risks = [sum(not right[i] for i in order[:k]) / k for k in range(1, 51)]
    np.testing.assert_allclose(1 - curve["accuracy"], risks)
    assert area(curve) == pytest.approx(1 - np.mean(risks))
    best = coverage_curve(right.astype(float), right)  # as confident as it is right
    np.testing.assert_allclose(curve["oracle"], best["accuracy"])
    assert area(curve, "oracle") == pytest.approx(area(best))
    assert curve["coverage"].iloc[-1] == 1 and curve["accuracy"].iloc[-1] == right.mean()
    long = coverage_curve(random.random(7_147), random.random(7_147) < 0.9)
    few = thinned(long)
    assert len(few) == MOST_POINTS and few.iloc[-1].equals(long.iloc[-1])
    assert len(thinned(curve)) == 50


def test_precision_on_test_is_about_as_wanted():
    """Simulated with the class sizes of DYB-PlanktonNet: the thresholds are not biased much.

    With one threshold, the mean precision on test is within half a point of what was wanted. With
    one for each class, it can be higher, where classes keep all their images, or up to a point
    lower, as each is chosen on fewer images.
    """
    file = package_files("thesis_lib.reporting").joinpath("published/dyb_class_counts.csv")
    counts = pd.read_csv(io.StringIO(file.read_text()))
    val_sizes, test_sizes = counts["val"].to_numpy(), counts["test"].to_numpy()
    for wanted in (0.9, 0.95, 0.99):
        overall, by_class = [], []
        for seed in range(40):
            val = classified(val_sizes, 0.85, seed)
            test = classified(test_sizes, 0.85, seed + 1000)
            chosen = choose_thresholds(val, wanted)
            for thresholds, into in ((Thresholds(chosen.overall, {}), overall), (chosen, by_class)):
                accepted = thresholds.accepts(test["predicted"], test["confidence"])
                into.append(rejection_metrics(test, accepted)["precision"])
        assert abs(np.mean(overall) - wanted) < 0.005, (wanted, np.mean(overall))
        assert -0.01 < np.mean(by_class) - wanted < 0.02, (wanted, np.mean(by_class))


@pytest.fixture
def tested(probed):
    final_test(probed)
    return probed


def test_a_run_shows_what_rejection_does(tested):
    """The tables agree with test.json, are verified, and are empty for a run without the file."""
    results = results_of_run(tested, "test")
    table = write_table("rejection", results)
    test = read_confidences(tested).query("split == 'test'")
    assert len(test) == read_json(tested.test_file)["n"] and len(table) == 6
    right = (test["true"] == test["predicted"]).mean()
    curve = coverage_on_test(results.confidences)
    assert curve["accuracy"].iloc[-1] == pytest.approx(right)
    for row in table[table["threshold"].str.contains("[0-9]")].itertuples():
        kept = test[test["confidence"].round(3) >= float(row.threshold)]
        assert float(row.kept) == pytest.approx(100 * len(kept) / len(test), abs=0.01)
    by_class = write_table("rejection_by_class", results)
    assert set(by_class["class"]) == set(test["true"])
    assert draw("rejection", results) is not None
    reported = verify(results.folder)
    assert not [fault for fault in reported.differ if "rejection" in fault]
    changed = read_confidences(tested).assign(confidence=0.5)
    kept = tested.confidences_file.read_bytes()
    write_csv(tested.confidences_file, changed)
    assert [fault for fault in verify(results.folder).differ if "rejection" in fault]
    tested.confidences_file.unlink()
    results = results_of_run(tested, "test")
    assert draw("rejection", results) is None and write_table("rejection", results).empty
    assert write_table("rejection_by_class", results).empty
    tested.confidences_file.write_bytes(kept)


def test_a_head_of_an_earlier_version_is_trained_again_when_probing(probed):
    """It lacks the confidences, which thresholds are chosen from."""
    head = checkpoints.load(probed.head_file)
    assert len(validation_confidences(head)) == len(head["val_right"])
    for file in (*probed.heads.glob("*.pth"), probed.head_file):
        earlier = checkpoints.load(file)
        del earlier["val_confidence"]
        checkpoints.save(file, earlier)
    assert validation_confidences(checkpoints.load(probed.head_file)).empty
    final_test(probed)
    assert set(read_confidences(probed)["split"]) == {"test"}
    assert write_table("rejection", results_of_run(probed, "test")).empty
    assert draw("rejection", results_of_run(probed, "test")) is not None
    probed.selection_file.unlink()
    probe_checkpoints(probed)
    assert len(validation_confidences(checkpoints.load(probed.head_file))) > 0
