"""Search for nearest neighbours by cosine similarity, exactly."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

MARGIN = 8  # extra candidates, beyond the k requested, that are ranked in float64
MORE = 8  # factor by which to increase the candidates if there may be too few
QUERIES_AT_ONCE = 256
VECTORS_AT_ONCE = 4096


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """Scale features (n, d) to unit length, in float32; a vector of zeros stays as it is."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    # In float32, the squares of small numbers would underflow to 0.
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    lengths = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    return features / lengths.astype(np.float32)[:, None]


class Index:
    """Find the nearest unit vectors by cosine similarity, exactly.

    Candidates are found by a float32 matrix product and then ranked by float64 products. Of
    equally similar vectors the one with the lower row index comes first.

    Args:
        vectors: (n, d) float32, of unit length.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        # The rounding error of a float32 sum of d products of unit vectors is at most d 2^-24 in
        # any order of summation (Higham 2002, section 3.1); for a difference of two, it doubles.
        self._rounding = (self.vectors.shape[1] + 4) * 2.0**-23

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest vectors of each query.

        Args:
            queries: (m, d) float32, of unit length.
            k: number of neighbours, at most n.

        Returns:
            The similarities (m, k) in float64, largest first, and the row indices (m, k) of the
            vectors.
        """
        similarity, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            batch = np.ascontiguousarray(queries[part], dtype=np.float32)
            similarity[part], rows[part] = self._search(batch, k, k + MARGIN)
        return similarity, rows

    def _search(self, queries: np.ndarray, k: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(wanted, len(self.vectors))
        rows = np.sort(self._candidates(queries, wanted), axis=1)  # (m, wanted)
        pairs = zip(queries, rows, strict=True)
        similarity = np.stack([self._exactly(q, self.vectors[r]) for q, r in pairs])
        order = np.argsort(-similarity, axis=1, kind="stable")
        similarity = np.take_along_axis(similarity, order, 1)
        rows = np.take_along_axis(rows, order, 1)
        if wanted < len(self.vectors):  # others may be as near as the last candidate
            unsure = similarity[:, -1] > similarity[:, k - 1] - self._rounding
            if unsure.any():
                found = self._search(queries[unsure], k, MORE * wanted)
                similarity[unsure, :k], rows[unsure, :k] = found
        return similarity[:, :k], rows[:, :k]

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the row indices (m, k) of the k vectors most similar to each query, unordered."""
        similarity = torch.from_numpy(queries) @ torch.from_numpy(self.vectors).T  # (m, n)
        return similarity.topk(k, sorted=False).indices.numpy()

    def _exactly(self, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the float64 inner products (n,) of one query (d,) with vectors (n, d)."""
        parts = range(0, len(vectors), VECTORS_AT_ONCE)
        query = query.astype(np.float64)
        # BLAS is not used here, as its result for a row can depend on the row's position, and
        # equal vectors have to be equally near.
        sums = [(vectors[i : i + VECTORS_AT_ONCE] * query).sum(axis=1) for i in parts]
        return np.concatenate(sums)


@dataclass(frozen=True)
class LookupTable:
    """Store the unit-length features of training images with their classes and file names.

    ``vectors`` are (n, d) float32; ``labels`` (n,) are indices into ``classes``; ``files`` are
    paths relative to the data set's folder.
    """

    vectors: np.ndarray
    labels: np.ndarray
    files: list[str]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def index(self) -> Index:
        """Return the index that searches the vectors."""
        return Index(self.vectors)

    @property
    def mib(self) -> float:
        """Return the size of the vectors in MiB."""
        return self.vectors.nbytes / 2**20

    def only(self, kept: np.ndarray) -> "LookupTable":
        """Return the table restricted to the images where the mask (n,) is True."""
        rows = np.flatnonzero(kept)
        files = [self.files[row] for row in rows]
        return LookupTable(self.vectors[rows], self.labels[rows], files, self.classes)

    def search(
        self, queries: np.ndarray, k: int = 1, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest images of the table for each query.

        Args:
            queries: (m, d) unit vectors.
            k: number of neighbours; fewer are returned if the table has fewer images.
            exclude: (m,) row index of each query in the table, to leave out the query itself; -1
                if it is not in the table.

        Returns:
            The similarities (m, k), largest first, and the row indices (m, k).
        """
        if exclude is None:
            return self.index.search(queries, min(k, len(self)))
        similarity, rows = self.index.search(queries, min(k + 1, len(self)))
        # A stable sort moves the query itself to the end and keeps the order of the others.
        order = np.argsort(rows == exclude[:, None], axis=1, kind="stable")[
            :, : min(k, len(self) - 1)
        ]
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)

    def vote(self, rows: np.ndarray) -> np.ndarray:
        """Return the majority class (m,) of the neighbours (m, k); ties go to the nearest image."""
        labels = self.labels[rows]  # (m, k)
        votes = (labels[:, :, None] == labels[:, None, :]).sum(2)  # of each neighbour's class
        return np.take_along_axis(labels, votes.argmax(1)[:, None], 1)[:, 0]
