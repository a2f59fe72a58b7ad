"""Random forests as heads: scikit-learn's predictions, chosen on validation; a run with them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.forests import _rounded_down, train_forest
from thesis_lib.evaluation.linear_heads import best_row
from thesis_lib.evaluation.probing import probe_checkpoints
from thesis_lib.evaluation.retrieval import retrieve
from thesis_lib.evaluation.testing import final_test
from thesis_lib.heads import ForestHead
from thesis_lib.prediction.export import export_run
from thesis_lib.prediction.finished_model import load_run_model
from thesis_lib.prediction.predictions import predict_images
from thesis_lib.reporting.figure_files import draw
from thesis_lib.reporting.results import results_of_run
from thesis_lib.runs.artifacts import read_predictions, read_probe
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import read_json
from thesis_lib.training.checkpoints import load
from thesis_lib.training.pretraining import pretrain


@pytest.fixture(scope="module")
def digits():
    """Train (1, 600, 64) and validation (400, 64) features of digits."""
    bunch = load_digits()
    features = torch.from_numpy(bunch.data[:1000].astype(np.float32))
    labels = torch.from_numpy(bunch.target[:1000])
    return Labelled(features[None, :600], labels[:600]), Labelled(features[600:], labels[600:])


@pytest.mark.parametrize("method", ["regions", "frozen"])
def test_the_trees_vote_as_in_scikit_learn(digits, method):
    train, val = digits
    config = RunConfig(method=method, seed=7)
    weights, rows = train_forest(train, val, 10, config)
    chosen = best_row(rows)
    inputs = train.features[0].numpy(), val.features.numpy()
    if method == "frozen":
        pca = PCA(50, random_state=7).fit(inputs[0])
        inputs = tuple((x - weights["center"].numpy()) @ weights["axes"].numpy() for x in inputs)
        assert inputs[1] == pytest.approx(pca.transform(val.features.numpy()), abs=1e-3)
    forest = RandomForestClassifier(
        chosen["head_epoch"], max_features=chosen["max_features"], random_state=7, oob_score=True
    ).fit(inputs[0], train.labels.numpy())
    shares = forest.predict_proba(inputs[1])
    prior = np.bincount(train.labels.numpy()) / 600
    expected = (chosen["head_epoch"] * shares + prior) / (chosen["head_epoch"] + 1)
    found = ForestHead(weights)(val.features).exp().numpy()
    assert found == pytest.approx(expected, abs=1e-5)
    right = (found.argmax(1) == val.labels.numpy()).mean()
    assert chosen["val_accuracy"] == pytest.approx(right) and right > 0.85
    out_of_bag = forest.oob_decision_function_.clip(min=0.5 / chosen["head_epoch"])
    own = out_of_bag[np.arange(600), train.labels.numpy()]
    assert chosen["train_loss"] == pytest.approx(-np.log(own).mean(), abs=0.02)
    assert chosen["train_loss"] == pytest.approx(
        log_loss(train.labels.numpy(), out_of_bag / out_of_bag.sum(1, keepdims=True)), rel=0.1
    )


def test_thresholds_in_float32_decide_as_in_float64():
    random = np.random.default_rng(0)
    values = random.random(1000).astype(np.float32)
    thresholds = np.concatenate([values[:500].astype(np.float64), random.random(500)])
    thresholds = np.concatenate([thresholds, (values[:500] + np.float64(1e-9))])
    single = _rounded_down(thresholds)
    assert single.dtype == np.float32
    expected = values[:, None].astype(np.float64) <= thresholds
    assert (expected == (values[:, None] <= single)).all()


def test_without_any_organism_there_is_nothing_to_learn_from(digits):
    train, val = digits
    nothing = Labelled(torch.zeros_like(train.features), train.labels)
    with pytest.raises(InputError, match="no organism was found in any training image"):
        train_forest(nothing, val, 10, RunConfig(method="regions"))


def test_the_forest_is_chosen_on_validation(digits):
    train, val = digits
    _, rows = train_forest(train, val, 10, RunConfig(method="regions"))
    found = [(row["max_features"], row["head_epoch"]) for row in rows]
    assert found == [(share, trees) for share in ("sqrt", 0.3) for trees in (100, 200, 300)]
    assert len({row["val_accuracy"] for row in rows}) > 1


def test_what_shows_no_organism_is_classified_by_prevalence(digits):
    train, val = digits
    some = train.labels != 3
    labels = torch.where(train.labels == 4, 5, train.labels)[some]  # 5 is the largest class
    features = train.features[:, some].clone()
    features[0, :20] = 0  # left out of the training, but not of the shares
    weights, _ = train_forest(Labelled(features, labels), val, 10, RunConfig(method="regions"))
    logits = ForestHead(weights)(torch.zeros(2, 64))
    assert logits.argmax(1).tolist() == [5, 5]
    prior = np.bincount(labels.numpy(), minlength=10) / len(labels)
    assert logits.exp()[0].numpy() == pytest.approx(prior)
    assert logits.exp()[0, 3] == 0  # no training image of this class


@pytest.fixture
def measured(workbook):
    """A run on region properties, tested; one training and one test image are blank."""
    for split in ("train", "test"):
        file = sorted((workbook / "data" / "tiny" / split).rglob("*.png"))[0]
        Image.new("RGB", (8, 8), "white").save(file)
    run = pretrain(RunConfig(data="data/tiny", method="regions", workers=0))
    probe_checkpoints(run)
    final_test(run)
    return run


def test_a_run_on_region_properties_goes_through_all_stages(measured):
    run = measured
    assert run.path.name == "regions-bs32-seed42"
    assert load(run.checkpoints / "epoch_0000.pth")["model"] == {}
    test = read_json(run.test_file)
    assert test["images_without_organism"] == 1
    predictions = read_predictions(run)
    blank = predictions.iloc[0]
    assert read_probe(run)["head_learning_rate"].isna().all()
    assert blank["confidence"] == pytest.approx(1 / 3, abs=0.02)  # three classes of one size
    assert read_json(run.selection_file)["head_learning_rate"] is None
    assert retrieve(run)["accuracy"] > 1 / 3
    model = load_run_model(run)
    new = list(predict_images(model, [f"data/tiny/{p}" for p in predictions["path"]]))
    assert [p.classes[0] for p in new[1:]] == predictions["predicted"].tolist()[1:]
    assert all(p.similarity is not None for p in new[1:])


def test_images_without_an_organism_are_counted_aloud(workbook, capsys):
    file = sorted((workbook / "data" / "tiny" / "train").rglob("*.png"))[0]
    Image.new("RGB", (8, 8), "white").save(file)
    run = pretrain(RunConfig(data="data/tiny", method="regions", workers=0))
    probe_checkpoints(run)
    assert "no organism was found in 1 of 42 training images" in capsys.readouterr().out


def test_a_run_with_a_forest_cannot_be_exported(measured, tmp_path):
    with pytest.raises(InputError, match="random forest as its head, which cannot be exported"):
        export_run(measured, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_forest_on_the_features_of_a_backbone(workbook, tiny_config):
    config = tiny_config.updated(method="frozen", head="forest", head_views=16)
    run = pretrain(config)
    probe_checkpoints(run)
    test = final_test(run)
    assert test["accuracy"] > 0.8
    head = load(run.head_file)["weights"]
    assert head["axes"].shape == (84, 42)
    assert set(test["floors"]) == {"most frequent class", "random by prevalence"}


def test_training_goes_on_from_the_backbone_of_a_run_with_a_forest(workbook, tiny_config, capsys):
    frozen = pretrain(tiny_config.updated(method="frozen", head="forest"))
    probe_checkpoints(frozen)
    settings = {"method": "cross-entropy", "weights": str(frozen.path), "epochs": 1}
    pretrain(tiny_config.updated(**settings))
    assert "without its random forest, which cannot be trained on" in capsys.readouterr().out


def test_head_curves_of_an_earlier_linear_head_do_not_stay(workbook, tiny_config):
    run = pretrain(tiny_config.updated(method="frozen"))
    probe_checkpoints(run)
    results = results_of_run(run, "probe")
    assert draw("head_curves", results) is not None
    assert (results.folder / "head_curves.pdf").is_file()
    again = RunDirectory(run.config.updated(head="forest"))
    probe_checkpoints(again)
    assert draw("head_curves", results_of_run(again, "probe")) is None
    assert not list(results.folder.glob("head_curves.*"))


def test_regions_are_one_run_for_all_backbones_and_batch_sizes():
    configs = [
        RunConfig(backbone=name, batch_size=size, method="regions", weights="timm")
        for name in ("resnet18", "lenet5")
        for size in (16, 64)
    ]
    assert {config.run_name for config in configs} == {"regions-bs32-seed42"}
    assert all(config.head == "forest" and not config.weights for config in configs)


@pytest.mark.parametrize("method", ["frozen", "regions"])
def test_settings_of_training_make_no_other_run_without_training(method):
    own = {"temperature": 0.5, "epochs": 7, "learning_rate": 3.0, "projection_dim": 9}
    assert RunConfig(method=method, **own) == RunConfig(method=method)
    used = {"crop_bottom": 31, "on_bad_image": "skip"}
    assert RunConfig(method=method, **used).differences(RunConfig(method=method)).keys() == set(
        used
    )
    views = RunConfig(method=method, head_views=0, image_size=96)
    same = views == RunConfig(method=method)
    assert same == (method == "regions")
    with pytest.raises(InputError, match="learning_rate must be a number, not 'fast'"):
        RunConfig(method=method, learning_rate="fast")
