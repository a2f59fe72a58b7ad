"""SupConLoss is compared with a naive loop over its equation and pytorch-metric-learning."""

import math

import pytest
import pytorch_metric_learning.losses
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from thesis_lib.losses import SupConLoss

torch.set_num_threads(1)


def naive_loss(
    features: Tensor, labels: Tensor | None, temperature: float, base_temperature: float
) -> Tensor:
    """Compute eq. 2 of arXiv 2004.11362 by loops over anchors, positives and all other views."""
    batch, views, _ = features.shape
    z, y = [], []
    for image in range(batch):
        for view in range(views):
            z.append(features[image, view])
            y.append(image if labels is None else int(labels[image]))
    everything = range(len(z))
    terms = []
    for i in everything:
        positives = [p for p in everything if p != i and y[p] == y[i]]
        if not positives:
            continue
        denominator = sum(
            torch.exp(torch.dot(z[i], z[a]) / temperature) for a in everything if a != i
        )
        total = 0
        for p in positives:
            total = total + torch.log(torch.exp(torch.dot(z[i], z[p]) / temperature) / denominator)
        terms.append(-total / len(positives))
    if not terms:
        return features.sum() * 0
    return temperature / base_temperature * sum(terms) / len(terms)


def random_features(batch: int, views: int, dim: int = 8, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(batch, views, dim, generator=generator, dtype=dtype), dim=2)


LABELS = {
    "none (NT-Xent)": None,
    "mixed": [0, 1, 0, 2, 1, 0],
    "single class": [3, 3, 3, 3, 3, 3],
    "all different": [5, 4, 3, 2, 1, 0],
    "one pair": [9, 9, 1, 2, 3, 4],
}


@pytest.mark.parametrize("views", [1, 2, 3, 4])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("temperature", "base"), [(0.07, 0.07), (0.5, 0.07), (0.1, 1.0)])
def test_value_and_gradient_equal_the_naive_loop(views, labels, temperature, base):
    labels = None if labels is None else torch.tensor(labels)
    ours, theirs = (random_features(6, views).requires_grad_() for _ in range(2))
    loss = SupConLoss(temperature, base)(ours, labels)
    naive = naive_loss(theirs, labels, temperature, base)
    assert loss.shape == ()
    assert abs(loss.item() - naive.item()) < 1e-10
    loss.backward()
    naive.backward()
    assert (ours.grad - theirs.grad).abs().max() < 1e-10


def gradient_on_the_sphere(loss, raw):
    """Return value and gradient, through the normalisation that the other library includes."""
    raw = raw.clone().requires_grad_()
    value = loss(raw)
    value.backward()
    return value.item(), raw.grad


@pytest.mark.parametrize("views", [1, 2, 3, 4])
@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_random_batches_equal_pytorch_metric_learning_and_the_loop(
    views, labelled, temperature, seed
):
    generator = torch.Generator().manual_seed(seed)
    batch = int(torch.randint(4, 9, (), generator=generator))
    raw = torch.randn(batch, views, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (batch,), generator=generator) if labelled else None
    each = (torch.arange(batch) if labels is None else labels).repeat_interleave(views)
    assert len(set(each.tolist())) > 1
    other = pytorch_metric_learning.losses.SupConLoss(temperature)

    ours = gradient_on_the_sphere(
        lambda x: SupConLoss(temperature, temperature)(normalize(x, dim=2), labels), raw
    )
    theirs = gradient_on_the_sphere(lambda x: other(x.flatten(0, 1), each), raw)
    loop = gradient_on_the_sphere(
        lambda x: naive_loss(normalize(x, dim=2), labels, temperature, temperature), raw
    )
    for value, gradient in (theirs, loop):
        assert abs(ours[0] - value) < 1e-10
        assert (ours[1] - gradient).abs().max() < 1e-10


def test_single_class_follows_the_paper_where_the_other_library_gives_up():
    """Eq. 2 needs no negative; pytorch-metric-learning returns 0 for a batch without one."""
    features, labels = random_features(6, 2), torch.zeros(6, dtype=torch.long)
    other = pytorch_metric_learning.losses.SupConLoss(0.07)
    assert other(features.flatten(0, 1), labels.repeat_interleave(2)).item() == 0
    expected = naive_loss(features, labels, 0.07, 0.07).item()
    assert expected > 1
    assert SupConLoss()(features, labels).item() == pytest.approx(expected, abs=1e-10)
    # With one image of another class, both give the same loss.
    labels[0] = 1
    theirs = other(features.flatten(0, 1), labels.repeat_interleave(2)).item()
    assert SupConLoss()(features, labels).item() == pytest.approx(theirs, abs=1e-10)


def test_defaults_are_the_thesiss_temperatures():
    features, labels = random_features(5, 2), torch.tensor([0, 0, 1, 1, 2])
    expected = naive_loss(features, labels, 0.07, 0.07)
    assert SupConLoss()(features, labels).item() == pytest.approx(expected.item(), abs=1e-10)


def test_without_labels_it_is_cross_entropy_over_the_other_views():
    """NT-Xent of two views is the cross-entropy of identifying each view's partner (SimCLR)."""
    features = random_features(5, 2)
    z = torch.cat((features[:, 0], features[:, 1]))
    logits = (z @ z.T / 0.07).fill_diagonal_(-math.inf)
    partner = (torch.arange(10) + 5) % 10
    assert SupConLoss()(features).item() == pytest.approx(cross_entropy(logits, partner).item())


def test_perfectly_separated_classes_reach_the_lower_bound():
    """The n views of a class are identical: each anchor has n - 1 equally near positives."""
    point = torch.tensor([1.0, 0.0], dtype=torch.float64)
    features = torch.stack((point, point, -point, -point))[:, None].repeat(1, 2, 1)
    loss = SupConLoss()(features, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx(math.log(3), abs=1e-9)


def test_nothing_depends_on_the_order_of_images_views_or_the_names_of_classes():
    features, labels = random_features(6, 3), torch.tensor([0, 1, 0, 2, 1, 0])
    expected = SupConLoss()(features, labels).item()
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    assert SupConLoss()(features[order], labels[order]).item() == pytest.approx(expected)
    assert SupConLoss()(features.flip(1), labels).item() == pytest.approx(expected)
    assert SupConLoss()(features, labels * 1000 + 7).item() == pytest.approx(expected)


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_without_any_positive_the_loss_is_zero_and_its_gradient_finite(batch):
    features = random_features(batch, 1).requires_grad_()
    loss = SupConLoss()(features, torch.arange(batch))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(features.grad).all() and (features.grad == 0).all()


def test_a_single_image_with_two_views_has_loss_zero():
    """The only other view is the positive, so the loss is log 1."""
    features = random_features(1, 2).requires_grad_()
    loss = SupConLoss()(features)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(features.grad).all()


def test_smallest_temperature_in_float32_stays_finite_and_right():
    features = random_features(16, 2, dtype=torch.float32)
    features[1] = -features[0]  # similarities of -1 and 1: exp(100) and exp(-100)
    features[2] = features[0]
    features.requires_grad_()
    labels = torch.arange(16) % 4
    loss = SupConLoss(0.01, 0.01)(features, labels)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
    exact = SupConLoss(0.01, 0.01)(features.detach().double(), labels)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_autocast_to_bfloat16_is_computed_in_float32():
    features, labels = random_features(8, 2, dtype=torch.float32), torch.arange(8) % 3
    expected = SupConLoss()(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SupConLoss()(features, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    half = features.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = SupConLoss()(half, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == SupConLoss()(half.float(), labels).item()


@pytest.mark.parametrize("temperatures", [(0, 1), (0.07, 0), (-0.1, 0.07), (math.nan, 1)])
def test_temperature_that_is_not_above_zero_is_refused(temperatures):
    with pytest.raises(ValueError, match="temperatures must be above 0"):
        SupConLoss(*temperatures)


@pytest.mark.parametrize("shape", [(4,), (4, 8), (4, 2, 8, 1)])
def test_features_of_another_shape_raise(shape):
    with pytest.raises(ValueError, match=r"\(batch, views, dim\)"):
        SupConLoss()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (5,), (8,), (4, 1), (1,)])
def test_labels_of_another_shape_raise(shape):
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\)"):
        SupConLoss()(random_features(4, 2), torch.zeros(shape, dtype=torch.long))
