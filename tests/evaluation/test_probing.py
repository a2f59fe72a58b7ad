import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torchvision.transforms.functional import normalize, to_tensor

from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.images import read_pixels
from thesis_lib.data.transforms import center_crop, crop_and_resize, draw_crops, draw_random_numbers
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone, Labelled, labels_of
from thesis_lib.evaluation.linear_heads import best_row, train_heads
from thesis_lib.evaluation.probing import best_checkpoint, probe_checkpoints
from thesis_lib.models import create_backbone
from thesis_lib.runs.artifacts import read_best_curves, read_curves
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.training import checkpoints


def clusters(n, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    centres = np.random.default_rng(0).normal(size=(4, 8)) * 1.2
    features = centres[labels] + random.normal(size=(n, 8))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def test_head_is_as_good_as_logistic_regression():
    (train, train_labels), (val, val_labels) = clusters(2000, 1), clusters(2000, 2)
    _, curve = train_heads(
        Labelled(train[None], train_labels), Labelled(val, val_labels), 4, RunConfig()
    )
    reference = LogisticRegression(max_iter=1000).fit(train, train_labels)
    assert curve[-1]["val_accuracy"] == pytest.approx(reference.score(val, val_labels), abs=0.01)


def test_returned_weights_are_those_of_the_best_head_epoch():
    (train, train_labels), (val, val_labels) = clusters(300, 1), clusters(300, 2)
    weights, curve = train_heads(
        Labelled(train[None], train_labels), Labelled(val, val_labels), 4, RunConfig()
    )
    logits = val @ weights["weight"].T + weights["bias"]
    accuracy = (logits.argmax(1) == val_labels).float().mean().item()
    assert accuracy == pytest.approx(max(row["val_accuracy"] for row in curve))


def test_head_learns_from_the_views_in_turn():
    (train, labels), (val, val_labels) = clusters(300, 1), clusters(300, 2)
    views = torch.stack((train, torch.zeros_like(train)))
    _, curve = train_heads(
        Labelled(views, labels), Labelled(val, val_labels), 4, RunConfig(head_epochs=4)
    )
    assert (
        curve[1]["train_loss"] > 1.2 > curve[2]["train_loss"]
    )  # nothing to learn from zeros: log(4)


RATES = (0.025, 0.25, 2.5)


def test_heads_trained_together_are_those_trained_alone():
    (train, train_labels), (val, val_labels) = clusters(300, 1), clusters(300, 2)
    data = (Labelled(train[None], train_labels), Labelled(val, val_labels), 4)
    _, together = train_heads(*data, RunConfig(head_learning_rates=RATES, head_epochs=70))
    for rate in RATES:
        _, alone = train_heads(*data, RunConfig(head_learning_rates=(rate,), head_epochs=70))
        mine = [row for row in together if row["head_learning_rate"] == rate]
        assert [row["head_epoch"] for row in mine] == list(range(1, 71))
        for one, other in zip(mine, alone, strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
            assert one["val_accuracy"] == pytest.approx(other["val_accuracy"], abs=0.004)


def test_head_is_trained_as_a_plain_loop_would():
    """Train a head with torch.optim.SGD: momentum 0.9, no weight decay, the recipe's schedule."""
    (train, labels), (val, val_labels) = clusters(600, 1), clusters(100, 2)
    config = RunConfig(head_epochs=92)
    weights, curve = train_heads(
        Labelled(train[None], labels), Labelled(val, val_labels), 4, config
    )
    torch.manual_seed(config.seed)
    head = torch.nn.Linear(8, 4)
    momenta = [torch.zeros_like(p) for p in head.parameters()]
    for epoch in range(1, 93):
        rate = 0.25 * 0.2 ** ((epoch > 60) + (epoch > 75) + (epoch > 90))
        order = np.random.default_rng((config.seed, epoch)).permutation(600)
        for start in range(0, 600, 256):
            batch = order[start : start + 256]
            loss = torch.nn.functional.cross_entropy(head(train[batch]), labels[batch])
            gradients = torch.autograd.grad(loss, list(head.parameters()))
            with torch.no_grad():
                for p, m, g in zip(head.parameters(), momenta, gradients, strict=True):
                    m.mul_(0.9).add_(g)
                    p.sub_(rate * m)
        if epoch == max(curve, key=lambda row: row["val_accuracy"])["head_epoch"]:
            best = {name: value.detach().clone() for name, value in head.state_dict().items()}
    for name, value in best.items():
        assert torch.allclose(value, weights[name], atol=1e-5)


def test_of_several_learning_rates_the_best_on_validation_is_kept(trained):
    run = RunDirectory.find(
        data="data/tiny", backbone="lenet5", batch_size=8, head_learning_rates=[1e-6, 0.25]
    )
    table = probe_checkpoints(run)
    assert (table["head_learning_rate"] == 0.25).all()  # the other rate is too low for 10 epochs
    curves = read_curves(run)
    assert len(curves) == 2 * 10 * len(table)
    assert set(read_best_curves(run)["head_learning_rate"]) == {0.25}
    assert len(read_best_curves(run)) == 10 * len(table)
    assert json.loads(run.selection_file.read_text())["head_learning_rate"] == 0.25
    assert json.loads(run.config_file.read_text())["head_learning_rates"] == [1e-6, 0.25]


def test_learning_rate_that_diverges_harms_no_other_and_is_never_chosen():
    (train, labels), (val, val_labels) = clusters(300, 1), clusters(300, 2)
    data = (Labelled(train[None] * 1e3, labels), Labelled(val * 1e3, val_labels), 4)
    config = RunConfig(head_learning_rates=(1e38, 1e-6), head_epochs=5)
    weights, rows = train_heads(*data, config)
    assert not np.isfinite(rows[-2]["train_loss"]) and np.isfinite(rows[-1]["train_loss"])
    assert best_row(rows)["head_learning_rate"] == 1e-6
    assert all(torch.isfinite(value).all() for value in weights.values())
    with pytest.raises(InputError, match=r"not finite with head_learning_rates \[1e\+38\]"):
        train_heads(*data, config.updated(head_learning_rates=(1e38,)))


def test_artefacts_of_a_probing(trained):
    table = probe_checkpoints(trained)
    assert table["checkpoint"].tolist() == [row["checkpoint"] for row in read(trained.probe_file)]
    assert {"checkpoint", "head_epoch", "val_accuracy"} <= set(table.columns)
    curves = pd.read_csv(trained.probe_curves_file)
    assert list(curves) == [
        *("checkpoint", "head_epoch", "train_loss", "val_accuracy", "head_learning_rate"),
    ]
    assert len(curves) == len(table) * trained.config.head_epochs
    best = curves.groupby("checkpoint")["val_accuracy"].max()
    assert best.tolist() == table["val_accuracy"].tolist()
    selection = json.loads(trained.selection_file.read_text())
    assert selection["val_accuracy"] == table["val_accuracy"].max()
    head = checkpoints.load(trained.head_file)
    assert head["checkpoint"] == selection["checkpoint"]
    assert head["head_epoch"] == selection["head_epoch"]


def read(path):
    return pd.read_csv(path).to_dict("records")


def test_validation_accuracy_is_that_of_the_stored_head(trained):
    probe_checkpoints(trained)
    selection = json.loads(trained.selection_file.read_text())
    val = open_dataset("data/tiny").splits["val"]
    features = FrozenBackbone.load(trained, selection["checkpoint"]).features(Images(val))[0]
    weights = checkpoints.load(trained.head_file)["weights"]
    predicted = (features @ weights["weight"].T + weights["bias"]).argmax(1)
    accuracy = (predicted == labels_of(val)).float().mean().item()
    assert accuracy == pytest.approx(selection["val_accuracy"])


def test_selection_does_not_need_the_test_images(workbook, trained):
    test = workbook / "data" / "tiny" / "test"
    for image in test.glob("*/*"):  # reading a test image would fail
        image.write_bytes(b"x" * image.stat().st_size)
    probe_checkpoints(trained)
    assert trained.selection_file.is_file()


def test_features_are_extracted_once_a_checkpoint_and_split(trained, monkeypatch):
    calls = []

    extract = FrozenBackbone.features

    def counting(*arguments):
        calls.append(arguments)
        return extract(*arguments)

    monkeypatch.setattr(FrozenBackbone, "features", counting)
    table = probe_checkpoints(trained)
    assert len(calls) == 3 * len(table)  # random and center crops of train, center crops of val
    probe_checkpoints(trained)
    assert len(calls) == 3 * len(table)  # finished: nothing is computed again


@pytest.mark.parametrize("head_views", [0, 2])
def test_nearest_neighbour_accuracy_is_scikit_learns(trained, head_views):
    run = RunDirectory(trained.config.updated(head_views=head_views))
    dataset, table = open_dataset(run.config.data), probe_checkpoints(run)
    for row in table.itertuples():
        backbone = FrozenBackbone.load(run, row.checkpoint)
        train, val = (
            backbone.features(Images(dataset.splits[name]))[0].double().numpy()
            for name in ("train", "val")
        )
        nearest = KNeighborsClassifier(1, algorithm="brute", metric="cosine")
        nearest.fit(train, dataset.splits["train"].labels)
        score = nearest.score(val, dataset.splits["val"].labels)
        assert row.knn_accuracy == pytest.approx(score)


def test_probing_that_was_cut_short_goes_on(trained, monkeypatch):
    whole = probe_checkpoints(trained)
    shutil.rmtree(trained.heads)
    trained.selection_file.unlink()
    calls, extract = [], FrozenBackbone.features

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return extract(*arguments)

    monkeypatch.setattr(FrozenBackbone, "features", dying)
    with pytest.raises(KeyboardInterrupt):
        probe_checkpoints(trained)
    calls.clear()
    monkeypatch.setattr(FrozenBackbone, "features", lambda *a: calls.append(a) or extract(*a))
    again = probe_checkpoints(trained)
    assert len(calls) == 3 * (len(whole) - 1)
    pd.testing.assert_frame_equal(whole, again)


def test_other_head_settings_probe_anew(trained):
    probe_checkpoints(trained)
    trained.test_file.write_text("{}")
    settings = {"data": "data/tiny", "backbone": "lenet5", "batch_size": 8}
    again = RunDirectory.find(**settings, head_epochs=3)
    probe_checkpoints(again)
    assert pd.read_csv(again.probe_curves_file)["head_epoch"].max() == 3
    assert json.loads(again.config_file.read_text())["head_epochs"] == 3
    assert not again.test_file.exists()  # it belonged to the other choice


def test_untrained_run_is_refused(trained):
    trained.metrics_file.unlink()
    with pytest.raises(InputError, match="not trained to its last epoch"):
        probe_checkpoints(trained)


def test_of_equal_checkpoints_the_latest_is_chosen():
    table = pd.DataFrame(
        {
            "checkpoint": [850, 900, 950, 1000],
            "head_epoch": [53, 52, 44, 72],
            "val_accuracy": [0.9523, 0.9523, 0.9519, 0.9519],
        }
    )
    assert best_checkpoint(table)["checkpoint"] == 900  # as in the thesis


def test_evaluation_mode_leaves_batch_statistics_alone(workbook, tiny_config):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten())
    before = model[0].running_mean.clone()
    val = open_dataset("data/tiny").splits["val"]
    backbone = FrozenBackbone(model.train(), (0, 0, 0), (1, 1, 1), tiny_config)
    features = backbone.features(Images(val), views=2)
    assert torch.equal(model[0].running_mean, before)
    assert features.shape == (2, len(val), 3 * 32 * 32)


@pytest.mark.parametrize("views", [0, 3])
def test_features_are_those_of_a_plain_loop(workbook, tiny_config, views):
    val, mean, std = open_dataset("data/tiny").splits["val"], (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    backbone = create_backbone("lenet5").eval()
    config = tiny_config.updated(fit="crop")
    features = FrozenBackbone(backbone, mean, std, config).features(Images(val), views)
    assert features.shape[:2] == (max(views, 1), len(val))
    for number, file in enumerate(val.files):
        pixels = read_pixels(val.folder / file)
        taken = [center_crop(pixels, 32)]
        if views:
            crops = draw_crops(
                draw_random_numbers(42, 0, [number], views), [pixels.shape[1::-1]] * views
            )
            taken = [crop_and_resize([pixels], [crop], 32)[0].numpy() for crop in crops]
        for view, image in enumerate(taken):
            with torch.inference_mode():
                expected = backbone(normalize(to_tensor(image), mean, std)[None])[0]
            assert torch.allclose(features[view, number], expected, atol=1e-5)
