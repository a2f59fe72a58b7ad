"""Sampling by class in pretraining, and balanced losses of the linear head."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import nn

from thesis_lib.cli.command_line import main
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.framing import Frame
from thesis_lib.data.loaders import EpochBatches, RandomViews
from thesis_lib.errors import InputError
from thesis_lib.evaluation import classification_metrics, final_test, probe_checkpoints
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.linear_heads import train_heads
from thesis_lib.evaluation.statistics import compare_macro
from thesis_lib.reporting import results_of_runs, verify, write_table
from thesis_lib.runs.artifacts import read_metrics
from thesis_lib.system.files import read_json
from thesis_lib.training import checkpoints, pretraining
from thesis_lib.training.pretraining import draw_shares, pretrain

LABELS = np.repeat([0, 1, 2], [900, 90, 10])


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        ("sqrt", np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum()),
        ("balanced", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_classes_get_their_share_of_the_draws(sampling, shares):
    assert draw_shares(LABELS, "natural") is None
    batches = EpochBatches(1000, 64, 1, shares=draw_shares(LABELS, sampling))
    drawn = np.zeros(3)
    for batches.epoch in range(1, 21):
        keys = [key for batch in batches for key in batch]
        assert len(keys) == 1000 and {epoch for epoch, _ in keys} == {batches.epoch}
        draws = [draw for _, draw in keys]
        assert len(set(draws)) == 1000  # an image that is drawn twice has two keys
        indices = np.array(draws) % 1000
        for index in np.unique(indices):  # the first is the image itself, the next follow in turn
            assert sorted(d for d in draws if d % 1000 == index) == [
                index + 1000 * time for time in range((indices == index).sum())
            ]
        drawn += np.bincount(LABELS[indices], minlength=3)
    # 20,000 draws: a standard deviation of at most 0.0035
    assert np.abs(drawn / drawn.sum() - shares).max() < 0.0125


def test_an_image_that_is_drawn_twice_has_other_views(workbook):
    split = open_dataset("data/tiny").splits["train"]
    views = RandomViews(Images(split), Frame(32, "crop"), seed=5)
    n = len(split)
    once, twice = views[[(1, 3)]], views[[(1, 3), (1, 3 + n), (1, 3 + 2 * n)]]
    assert torch.equal(once[0], twice[0][:2])
    assert len({pixels.numpy().tobytes() for pixels in twice[0]}) == 6
    assert twice[2].tolist() == [int(split.labels[3])] * 3 and twice[3].tolist() == [3, 3, 3]


def autograd_heads(train, labels, balance, config, num_classes):
    """Train the same head by autograd and PyTorch's own loss."""
    torch.manual_seed(config.seed)
    head = nn.Linear(train.shape[2], num_classes)
    rate = config.head_learning_rates[0]
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    counts = labels.bincount(minlength=num_classes).float()
    known = (counts > 0).sum()
    weights = len(labels) / (known * counts.clamp(min=1)) if balance == "weighted" else None
    for epoch in range(1, config.head_epochs + 1):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(labels))
        for batch in torch.from_numpy(order).split(config.head_batch_size):
            logits = head(train[0][batch])
            if balance == "logit-adjusted":
                logits = logits + torch.log(counts.clamp(min=1) / len(labels))
            losses = nn.functional.cross_entropy(logits, labels[batch], weights, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    return head


@pytest.mark.parametrize("balance", ["plain", "weighted", "logit-adjusted"])
def test_balanced_losses_are_those_of_autograd(balance):
    generator = torch.Generator().manual_seed(0)
    labels = torch.from_numpy(np.repeat([0, 1, 3], [60, 20, 5]))  # class 2 has no image
    train = torch.randn(1, len(labels), 7, generator=generator) + labels[None, :, None]
    settings = {"head_epochs": 3, "head_batch_size": 16, "head_learning_rates": (0.05,)}
    config = RunConfig(head_balance=balance, head_decay_epochs=(), **settings)
    val = Labelled(train[0], labels)
    weights, rows = train_heads(Labelled(train, labels), val, 4, config)
    head = autograd_heads(train, labels, balance, config, 4)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["head_epoch"]))
    if best["head_epoch"] != 3:  # compare with the epoch whose weights were kept
        config = config.updated(head_epochs=int(best["head_epoch"]))
        head = autograd_heads(train, labels, balance, config, 4)
    torch.testing.assert_close(weights["weight"], head.weight.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights["bias"], head.bias.detach(), rtol=1e-5, atol=1e-6)


def test_balanced_heads_find_more_of_a_rare_class():
    """Two overlapping classes, 1 to 40: the plain head hardly ever predicts the rare one."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(np.repeat([0, 1], [2000, 50]))
    features = torch.from_numpy(random.normal(0, 1, (2050, 5))).float()
    features[:, 0] += 1.5 * labels
    test_labels = torch.from_numpy(np.repeat([0, 1], [1000, 1000]))
    test = torch.from_numpy(random.normal(0, 1, (2000, 5))).float()
    test[:, 0] += 1.5 * test_labels
    recall = {}
    for balance in ("plain", "weighted", "logit-adjusted"):
        config = RunConfig(head_balance=balance, head_epochs=20, head_learning_rates=(0.05,))
        # balanced validation images, so that the choice of the epoch is not against the rare class
        train, val = Labelled(features[None], labels), Labelled(test, test_labels)
        weights, _ = train_heads(train, val, 2, config)
        predicted = (test @ weights["weight"].T + weights["bias"]).argmax(1)
        recall[balance] = (predicted[1000:] == 1).float().mean().item()
    assert recall["plain"] < 0.4 < 0.65 < min(recall["weighted"], recall["logit-adjusted"])


def test_a_balanced_run_goes_through_all_stages_and_resumes_with_the_same_bits(
    workbook, tiny_config, monkeypatch
):
    config = tiny_config.updated(sampling="balanced", head_balance="weighted")
    run = pretrain(config)
    probe_checkpoints(run)
    final_test(run)
    natural = pretrain(tiny_config.updated(tag="natural"))
    assert [row["loss"] for row in read_metrics(run)] != [
        row["loss"] for row in read_metrics(natural)
    ]
    with pytest.raises(InputError, match="was made with sampling"):
        pretrain(config.updated(sampling="sqrt"))

    stopped, real = config.updated(tag="stopped"), pretraining.train_epoch

    def stop_in_the_second_epoch(config, state, loader, leave_after):
        if state.position.epoch == 2:
            real(config, state, loader, lambda num_images: True)
            raise KeyboardInterrupt
        return real(config, state, loader, leave_after)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretraining, "train_epoch", stop_in_the_second_epoch)
        pretrain(stopped)
    weights = [checkpoints.load(r.last_checkpoint)["model"] for r in (pretrain(stopped), run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_table_shows_what_balance_costs_and_wins(probed):
    final_test(probed)
    results = results_of_runs(probed.config)
    assert write_table("balance", results).empty
    settings = probed.config.updated(tag="balanced", sampling="balanced", head_balance="weighted")
    run = pretrain(settings)
    probe_checkpoints(run)
    final_test(run)
    results = results_of_runs(probed.config)
    (row,) = write_table("balance", results).to_dict("records")
    assert row["run"] == run.path.name and row["sampling"] == "balanced"
    ours, theirs = (read_json(one.test_file) for one in (run, probed))
    for name, key in (
        ("accuracy", "accuracy"),
        ("balanced accuracy", "recall"),
        ("macro F1", "f1"),
    ):
        found = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", row[name])
        value, low, high = map(float, found.groups())
        assert value == pytest.approx(100 * (ours[key] - theirs[key]), abs=0.006)
        assert low <= value <= high
    assert not [fault for fault in verify(results.folder).differ if "balance" in fault]
    # without a run that differs in nothing else, there is no row
    other = pretrain(settings.updated(tag="other", learning_rate=0.04))
    probe_checkpoints(other)
    final_test(other)
    assert write_table("balance", results_of_runs(probed.config))["run"].tolist() == [row["run"]]


def test_paired_intervals_of_macro_metrics():
    """Against the plain differences of scikit-learn, and narrower than without pairing."""
    random = np.random.default_rng(0)
    classes = list("abcd")
    true = pd.Series(random.choice(classes, 800, p=[0.6, 0.3, 0.08, 0.02]))
    a = true.where(random.random(800) < 0.85, random.choice(classes, 800))
    b = a.where(random.random(800) < 0.95, true)
    found = compare_macro(true, a, b, classes)
    for place, name in enumerate(("precision", "recall", "f1")):
        values = [
            precision_recall_fscore_support(true, guess, average="macro")[place] for guess in (a, b)
        ]
        difference, low, high = found[name]
        assert difference == pytest.approx(values[1] - values[0]) and low < difference < high
        alone = [classification_metrics(true, guess)[f"{name}_interval"] for guess in (a, b)]
        unpaired = np.hypot(*(np.diff(interval)[0] for interval in alone))
        assert high - low < 0.9 * unpaired
    same = compare_macro(true, a, a, classes)
    assert all(value[0] == 0 and abs(value[1]) < 0.02 for value in same.values())


def test_values_that_do_not_fit_are_one_line(workbook, capsys):
    options = ["--data", "data/tiny", "--backbone", "lenet5", "--batch-size", "8"]
    for more, words in (
        (["--sampling", "ballanced"], "sampling must be natural, sqrt or balanced"),
        (["--head-balance", "yes"], "head_balance must be plain, weighted or logit-adjusted"),
        (["--head-balance", "weighted", "--head", "forest"], "plain unless the head is linear"),
    ):
        assert main(["run", *options, *more]) == 2
        assert words in capsys.readouterr().err
