"""The index finds the same neighbours as float64 products and scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from thesis_lib.evaluation import knn
from thesis_lib.evaluation.knn import MARGIN, Index, unit_vectors


def random(rng, n: int, d: int = 16) -> np.ndarray:
    return unit_vectors(rng.standard_normal((n, d)))


def identical(rng, n: int) -> np.ndarray:
    """Repeat four vectors, each more often than there are candidates."""
    return random(rng, 4)[rng.integers(0, 4, n)]


def near_ties(rng, n: int, d: int = 512) -> np.ndarray:
    """Make vectors whose similarities hardly differ in float32."""
    return unit_vectors(random(rng, 1, d) + 1e-4 * random(rng, n, d))


def one_way(rng, n: int, d: int = 2048) -> np.ndarray:
    """Make vectors of one large and many equal small numbers, whose rounding errors add up."""
    vectors = np.repeat(1 + 0.3 * rng.random((n, 1)), d, axis=1)
    vectors[:, 0] = 60 * (1 + 0.2 * rng.random(n))
    return unit_vectors(vectors)


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort all float64 products; ties are in the order of the rows."""
    pairs = [[(q * v).sum() for v in vectors] for q in queries.astype(np.float64)]
    rows = np.argsort(-np.array(pairs), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(np.array(pairs), rows, 1), rows


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("made", [random, identical, near_ties, one_way])
def test_neighbours_are_those_of_float64_products(made, k):
    rng = np.random.default_rng(0)
    vectors = made(rng, 230)
    vectors, queries = vectors[:200], vectors[195:]  # some queries are also in the index
    similarity, rows = Index(vectors).search(queries, k)
    expected, expected_rows = nearest(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-12)
    assert similarity.shape == (35, k) and similarity.dtype == np.float64


@pytest.mark.parametrize("n", [1, 3, MARGIN + 3, MARGIN + 4])
def test_an_index_of_few_vectors_gives_them_all(n):
    vectors = random(np.random.default_rng(0), n)
    similarity, rows = Index(vectors).search(vectors, n)
    assert (np.sort(rows, axis=1) == np.arange(n)).all()
    np.testing.assert_array_equal(rows, nearest(vectors, vectors, n)[1])
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-6)


@pytest.mark.parametrize("made", [random, identical, near_ties, one_way])
def test_neighbours_are_the_same_for_any_number_of_queries_at_once(made, monkeypatch):
    rng = np.random.default_rng(1)
    vectors = made(rng, 600)
    whole = Index(vectors[:450]).search(vectors[450:], 5)
    monkeypatch.setattr(knn, "QUERIES_AT_ONCE", 64)
    for ours, other in zip(Index(vectors[:450]).search(vectors[450:], 5), whole, strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_scikit_learns(k):
    rng = np.random.default_rng(2)
    vectors, queries = random(rng, 500), random(rng, 300)
    similarity, rows = Index(vectors).search(queries, k)
    reference = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(vectors)
    distance, expected = reference.kneighbors(queries)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(1 - similarity, distance, atol=1e-5)


def test_of_identical_vectors_the_first_is_nearest():
    vectors = np.repeat(random(np.random.default_rng(0), 3, 300), 30, axis=0)
    rows = Index(vectors).search(vectors[::30], 3)[1]
    assert rows.tolist() == [[0, 1, 2], [30, 31, 32], [60, 61, 62]]


def test_unit_vectors_have_length_one_and_zeros_stay_zeros():
    features = np.array([[3, 4], [0, 0], [1e-30, 0], [1e18, 1e18]])
    expected = [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5, 0.5**0.5]]
    found = unit_vectors(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_vector_of_zeros_is_near_to_nothing():
    vectors = np.concatenate((np.zeros((1, 4), np.float32), np.eye(4, dtype=np.float32)))
    similarity, rows = Index(vectors).search(vectors[:1], 1)
    assert similarity.tolist() == [[0]] and rows.tolist() == [[0]]
