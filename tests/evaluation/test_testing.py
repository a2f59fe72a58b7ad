import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from thesis_lib.errors import InputError
from thesis_lib.evaluation import testing as module
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.statistics.metrics import METRICS
from thesis_lib.evaluation.testing import embed, final_test
from thesis_lib.runs.artifacts import read_embedding, read_predictions


def test_artefacts_of_the_test(probed):
    result = final_test(probed)
    predictions = read_predictions(probed)
    assert list(predictions)[:4] == ["path", "true", "predicted", "confidence"]
    classes = list(predictions)[4:]
    assert classes == ["001_zero with blank", "002_one.dot", "003_δύο"]
    assert len(predictions) == result["n"] == 9
    assert predictions[classes].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    assert predictions["confidence"].tolist() == predictions[classes].max(axis=1).tolist()
    assert [path.split("/")[1] for path in predictions["path"]] == predictions["true"].tolist()
    stored = json.loads(probed.test_file.read_text())
    assert stored == result
    for name in METRICS:
        low, high = stored[f"{name}_interval"]
        assert 0 <= low <= stored[name] <= high <= 1


def test_metrics_are_scikit_learns(probed):
    result, table = final_test(probed), read_predictions(probed)
    true, predicted = table["true"], table["predicted"]
    macro = {"average": "macro", "labels": list(table)[4:], "zero_division": 0}
    assert result["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert result["precision"] == pytest.approx(precision_score(true, predicted, **macro))
    assert result["recall"] == pytest.approx(recall_score(true, predicted, **macro))
    assert result["f1"] == pytest.approx(f1_score(true, predicted, **macro))


def test_class_without_a_test_image_counts_and_is_named(workbook, trained):
    # Probing and test must use the same classes, although one has no test image.
    result_before = probe_checkpoints(trained)
    assert len(result_before)
    for image in (workbook / "data" / "tiny" / "test" / "002_one.dot").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="data/tiny is not the data set that"):
        final_test(trained)


def test_finished_test_is_not_repeated(probed, monkeypatch):
    first = final_test(probed)
    monkeypatch.setattr(FrozenBackbone, "features", None)
    assert final_test(probed) == first


def test_another_selection_tests_anew(probed):
    final_test(probed)
    selection = json.loads(probed.selection_file.read_text())
    probed.selection_file.write_text(json.dumps(selection | {"note": "changed"}))
    before = probed.predictions_file.stat().st_mtime_ns
    final_test(probed)
    assert probed.predictions_file.stat().st_mtime_ns > before


def test_nothing_selected_is_refused(trained):
    with pytest.raises(InputError, match=r"no selection\.json; run notebook 03"):
        final_test(trained)
    assert not trained.predictions_file.exists()


def test_embedding_keeps_clusters_together(probed):
    random = np.random.default_rng(0)
    features = np.concatenate([random.normal(i * 10, 1, (30, 20)) for i in range(3)])
    points = embed(features.astype(np.float32) + 1, seed=42)
    centres = [points[30 * i : 30 * i + 30].mean(0) for i in range(3)]
    spread = max(points[30 * i : 30 * i + 30].std() for i in range(3))
    assert points.shape == (90, 2) and np.isfinite(points).all()
    assert np.linalg.norm(centres[0] - centres[1]) > 0 and spread > 0
    final_test(probed)
    assert list(read_embedding(probed)) == ["x", "y", "true", "predicted"]


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_few_images_are_laid_out_too(n):
    points = embed(np.random.default_rng(0).random((n, 5)).astype(np.float32), seed=0)
    assert points.shape == (n, 2) and np.isfinite(points).all()


def test_predictions_with_numbers_as_classes_stay_text(tmp_path, probed):
    table = pd.DataFrame({"path": ["a"], "true": ["007"], "predicted": ["NA"], "confidence": [1.0]})
    table.to_csv(probed.predictions_file, index=False)
    row = read_predictions(probed).iloc[0]
    assert (row["true"], row["predicted"]) == ("007", "NA")


def test_of_many_images_some_are_laid_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_EMBEDDED", 5)
    predictions = pd.DataFrame({"true": list("abcdefgh"), "predicted": list("bbcdefgh")})
    table = module.embedding_table(np.eye(8, dtype=np.float32), predictions, seed=1)
    assert len(table) == 5 and table["true"].is_monotonic_increasing and table["true"].is_unique
    monkeypatch.setattr(module, "MOST_EMBEDDED", 8)
    table = module.embedding_table(np.eye(8, dtype=np.float32), predictions, seed=1)
    pd.testing.assert_frame_equal(table[["true", "predicted"]], predictions)
