"""Calibration is compared with its formulas and with logits of known miscalibration."""

import numpy as np
import pytest
import torch

from thesis_lib.evaluation.statistics.calibration import (
    LEAST,
    MOST,
    calibration,
    choose_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def honest_logits(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw logits of five classes, and labels with exactly their softmax probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_finds_how_much_too_sure_logits_are(factor):
    logits, labels = honest_logits(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_temperature_is_the_best_of_a_grid():
    logits, labels = honest_logits(500)
    found = fit_temperature(2 * logits, labels)

    def loss(temperature):
        return torch.nn.functional.cross_entropy(2 * logits / temperature, labels)

    assert all(loss(found) <= loss(other) + 1e-9 for other in np.linspace(0.1, 10, 500))


def test_separable_logits_have_a_temperature_as_well():
    logits = 100 * torch.eye(4)
    assert LEAST <= fit_temperature(logits, torch.arange(4)) <= MOST


def test_the_chosen_temperature_is_the_fitted_one_where_it_helps():
    logits, labels = honest_logits(2_000)
    temperature, reason = choose_temperature(3 * logits, labels)
    assert temperature == fit_temperature(3 * logits, labels) and reason == ""


def test_without_a_minimum_the_confidence_is_left_alone():
    logits = 5 * torch.eye(4).repeat(10, 1)  # all are right: the surer, the better
    temperature, reason = choose_temperature(logits, torch.arange(4).repeat(10))
    assert (temperature, reason) == (
        1.0,
        "the cross-entropy of the validation images has no minimum",
    )
    one = choose_temperature(torch.zeros(1, 3), torch.tensor([0]))
    assert one[0] == 1.0 and one[1]


@pytest.mark.parametrize("seed", range(5))
def test_a_temperature_that_harms_images_it_has_not_seen_is_not_taken(seed):
    """One of 300 images is wrong and very sure, so that the fit flattens the confidence of all."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(300) % 3
    logits = 12 * torch.nn.functional.one_hot(labels).double()
    logits += torch.rand(300, 3, generator=generator)
    logits[7] = torch.roll(logits[7], 1) * 40
    fitted = fit_temperature(logits, labels)
    right = (logits.argmax(1) == labels).numpy()
    errors = [
        expected_calibration_error(reliability((logits / t).softmax(1).amax(1).numpy(), right))
        for t in (1.0, fitted)
    ]
    assert errors[1] > 2 * errors[0]  # control: the calibration gets worse
    temperature, reason = choose_temperature(logits, labels)
    assert temperature == 1.0 and reason.startswith("temperature scaling does not help")


def few_errors(n: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw calibrated logits of ten classes, most of them sure and right, as on digits."""
    logits = 6 * random.gamma(2, 1, (n, 1)) * random.normal(0, 1, (n, 10))
    gumbel = random.gumbel(size=logits.shape)  # argmax of logits + Gumbel noise: a softmax draw
    return torch.tensor(logits), torch.tensor((logits + gumbel).argmax(1))


@pytest.mark.parametrize("n", [100, 269, 1000])
def test_scaling_costs_calibrated_classifiers_little_and_helps_overconfident_ones(n):
    """Calibration errors on 4,000 new images: not scaled, scaled as chosen, and always scaled."""
    random = np.random.default_rng(n)
    for factor in (1, 3, 20):
        errors = []
        for _ in range(20):
            (logits, labels), (new, true) = few_errors(n, random), few_errors(4_000, random)
            divisors = (1.0, choose_temperature(factor * logits, labels)[0], factor)
            right = (new.argmax(1) == true).numpy()
            tables = [calibration(factor * new, right, divisor)[15:] for divisor in divisors]
            errors.append([100 * expected_calibration_error(table) for table in tables])
        unscaled, chosen, best = np.mean(errors, axis=0)
        assert chosen < (unscaled + 0.5 if factor == 1 else best + 0.2 * (unscaled - best))


def test_error_is_the_formulas():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.2, 1, 1000)
    right = random.random(1000) < confidence**2
    expected = 0.0
    for low in np.arange(15) / 15:  # Guo et al. (2017), eq. 3: bins open below, closed above
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += gap * inside.sum() / 1000
    assert expected_calibration_error(reliability(confidence, right)) == pytest.approx(expected)


def test_bins_hold_every_image_and_empty_ones_are_no_number():
    table = reliability(np.array([0, 0.5, 0.51, 1]), np.array([0, 1, 0, 1], dtype=bool), bins=4)
    assert table["images"].tolist() == [1, 1, 1, 1]
    table = reliability(np.array([0.9, 1.0]), np.array([True, False]), bins=2)
    assert table["images"].tolist() == [0, 2] and np.isnan(table["accuracy"][0])


@pytest.mark.parametrize("factor", [3, 300])
def test_temperature_scaling_reduces_the_error(factor):
    """Includes logits so far apart that their probabilities round to 0 and 1."""
    logits, labels = honest_logits(20_000)
    right = (logits.argmax(1) == labels).numpy()
    logits = logits * factor
    temperature = fit_temperature(logits, labels)
    table = calibration(logits, right, temperature)
    assert table["temperature"].unique().tolist() == [1, temperature]
    before, after = table[:15], table[15:]
    assert before["images"].sum() == after["images"].sum() == 20_000
    assert expected_calibration_error(before) > 0.1
    assert expected_calibration_error(after) < 0.01
