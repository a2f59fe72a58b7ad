"""Pruning keeps the same images as a double loop over float64 products."""

import numpy as np
import pytest

from thesis_lib.evaluation import pruning
from thesis_lib.evaluation.knn import unit_vectors
from thesis_lib.evaluation.pruning import kept_images

THRESHOLDS = np.arange(80, 101) / 100
SIZES = [1, 1, 2, 3, 5, 8, 13] * 12 + [60, 90, 150]  # 87 classes


def definition(vectors: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Prune by the definition in the recipe; at a threshold of 1 no image is dropped."""
    vectors = vectors.astype(np.float64)
    kept = np.ones((len(thresholds), len(labels)), dtype=bool)
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            if labels[i] == labels[j]:
                similarity = vectors[i] @ vectors[j]
                for row, threshold in enumerate(thresholds):
                    if kept[row, i] and threshold < similarity and threshold < 1:
                        kept[row, j] = False
    return kept


def random(rng, n: int, d: int = 24) -> np.ndarray:
    return unit_vectors(rng.standard_normal((n, d)))


def alike(rng, n: int, d: int = 24) -> np.ndarray:
    """Make vectors around one centre: most similarities are between 0.8 and 1."""
    nearness = rng.beta(18, 1.7, (n, 1))
    return unit_vectors(nearness * random(rng, 1, d) + np.sqrt(1 - nearness**2) * random(rng, n, d))


def repeated(rng, n: int) -> np.ndarray:
    """Make several copies of every vector, some of them slightly changed."""
    vectors = alike(rng, max(n // 6, 1))[rng.integers(max(n // 6, 1), size=n)]
    moved = rng.random((n, 1)) < 0.3
    return unit_vectors(vectors + moved * 1e-4 * random(rng, n))


def at_thresholds(rng, n: int, d: int = 24) -> np.ndarray:
    """Make vectors whose similarity to the first is within 1e-7 of a threshold."""
    first, away = random(rng, 2, d).astype(np.float64)
    away -= first * (first @ away)
    away /= np.linalg.norm(away)
    cosine = rng.choice(THRESHOLDS[:-1], (n, 1)) + rng.choice([0, 1e-8, -1e-8, 1e-7, -1e-7], (n, 1))
    cosine[0] = 1
    return (cosine * first + np.sqrt(1 - cosine**2) * away).astype(np.float32)


def one_way(rng, n: int, d: int = 2048) -> np.ndarray:
    """Make vectors of one large and many equal small numbers, whose rounding errors add up.

    Float32 products are wrong by up to 1.5e-5, those of random vectors by less than 1e-6.
    """
    vectors = np.repeat(1 + 0.3 * rng.random((n, 1)), d, axis=1)
    vectors[:, 0] = 60 * (1 + 0.2 * rng.random(n))
    return unit_vectors(vectors)


DATA = (random, alike, repeated, at_thresholds, one_way)


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("made", DATA)
def test_kept_images_are_the_definitions(made, block, monkeypatch):
    monkeypatch.setattr(pruning, "ROWS_AT_ONCE", block)
    vectors, labels = made(np.random.default_rng(block), 90), np.zeros(90, dtype=int)
    expected = definition(vectors, labels, THRESHOLDS)
    np.testing.assert_array_equal(kept_images(vectors, labels, THRESHOLDS), expected)
    assert made is random or not expected.all()


def test_float32_alone_would_decide_otherwise():
    """Shows that ``at_thresholds`` tests what it is meant to test."""
    vectors = at_thresholds(np.random.default_rng(1), 90)
    single, double = (v @ v.T for v in (vectors, vectors.astype(np.float64)))
    thresholds = THRESHOLDS[:-1, None, None]
    assert ((single > thresholds) != (double > thresholds)).any()


@pytest.mark.parametrize("made", [alike, one_way])
@pytest.mark.parametrize("beside", [1e-12, 1e-9, 1e-7, 1e-6, 5e-6])
def test_thresholds_beside_similarities_are_told_apart_from_them(made, beside):
    rng = np.random.default_rng(0)
    vectors, labels = made(rng, 60), np.zeros(60)
    single, double = (v @ v.T for v in (vectors, vectors.astype(np.float64)))
    worst = np.argsort(np.triu(np.abs(single - double), 1), axis=None)[-30:]
    thresholds = double.flat[worst] + beside * rng.choice([-1, 1], 30)
    expected = definition(vectors, labels, thresholds)
    np.testing.assert_array_equal(kept_images(vectors, labels, thresholds), expected)


@pytest.mark.parametrize("made", DATA[:3])
def test_classes_of_uneven_size_in_mixed_order_do_not_touch_each_other(made):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    vectors = made(rng, len(labels))
    thresholds = np.array([0.2, 0.5, 0.8, 0.9, 0.95, 0.99])
    expected = definition(vectors, labels, thresholds)
    np.testing.assert_array_equal(kept_images(vectors, labels, thresholds), expected)
    assert not expected.all()


def test_a_class_of_several_blocks_is_pruned_as_a_whole():
    vectors, labels = alike(np.random.default_rng(0), 600), np.full(600, 3)
    expected = definition(vectors, labels, THRESHOLDS)
    np.testing.assert_array_equal(kept_images(vectors, labels, THRESHOLDS), expected)
    assert 0 < expected[0].mean() < 0.5 < expected[-3].mean() < 1


def test_rows_follow_the_thresholds_given():
    rng = np.random.default_rng(0)
    vectors, labels = alike(rng, 80), rng.integers(0, 3, 80)
    thresholds = np.array([0.95, 1.2, -0.5, 0.8, 0.9, 1, 0.8, -1, 0.900001, 0])
    kept = kept_images(vectors, labels, list(thresholds))
    np.testing.assert_array_equal(kept, definition(vectors, labels, thresholds))
    for row, threshold in enumerate(thresholds):
        np.testing.assert_array_equal(kept[row], kept_images(vectors, labels, [threshold])[0])


def test_a_similarity_that_is_the_threshold_does_not_exceed_it():
    vectors = np.array([[1, 0], [0.75, np.sqrt(1 - 0.75**2)]], dtype=np.float32)
    thresholds = [np.nextafter(0.75, 0), 0.75, np.nextafter(0.75, 1)]
    assert kept_images(vectors, np.zeros(2), thresholds)[:, 1].tolist() == [False, True, True]


def test_a_dropped_image_drops_no_other():
    """The second of three images is dropped; the third is similar to the second only, and stays."""
    angles = np.deg2rad([0, 20, 40])
    vectors = np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)
    assert kept_images(vectors, np.zeros(3), [0.9]).tolist() == [[True, False, True]]


def test_identical_images_stay_at_one():
    """Even if rounding makes their similarity exceed 1."""
    vectors = np.repeat(random(np.random.default_rng(0), 40, 2048), 2, axis=0)
    labels = np.repeat(np.arange(40), 2)
    assert ((vectors.astype(np.float64) ** 2).sum(1) > 1).any()
    kept = kept_images(vectors, labels, [1, 0.999999])
    assert kept[0].all() and kept[1].tolist() == [True, False] * 40


def test_no_threshold_and_no_image_give_no_rows_and_no_columns():
    vectors = random(np.random.default_rng(0), 5)
    assert kept_images(vectors, np.zeros(5), []).shape == (0, 5)
    assert kept_images(vectors[:0], np.zeros(0), [0.9, 1]).shape == (2, 0)


def test_thirty_one_thresholds_are_the_most():
    vectors, labels = alike(np.random.default_rng(0), 60), np.zeros(60)
    thresholds = np.linspace(0.7, 0.999, 31)
    expected = definition(vectors, labels, thresholds)
    np.testing.assert_array_equal(kept_images(vectors, labels, thresholds), expected)
    with pytest.raises(ValueError, match="32 thresholds; at most 31"):
        kept_images(vectors, labels, np.linspace(0.7, 0.999, 32))
