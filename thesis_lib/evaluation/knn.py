"""Exact search for the nearest unit vectors: by FAISS where it is installed, else by torch."""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

MARGIN = 8  # neighbours beyond those asked for that are ranked in float64
MORE = 8  # times as many, as long as that may not be enough
QUERIES_AT_ONCE = 256
VECTORS_AT_ONCE = 4096


class Candidates(Protocol):
    """A flat index by inner product."""

    def candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows (m, k) of the k vectors most like each of the queries (m, d), in any order."""


class FaissCandidates:
    """FAISS's flat inner-product index (faiss-cpu)."""

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss

        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)

    def candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows (m, k) of the k vectors most like each of the queries (m, d)."""
        return self.index.search(queries, k)[1]


class TorchCandidates:
    """The same by a matrix product and the largest k of each row."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = torch.from_numpy(vectors)

    def candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows (m, k) of the k vectors most like each of the queries (m, d)."""
        similarity = torch.from_numpy(queries) @ self.vectors.T
        return similarity.topk(k, sorted=False).indices.numpy()


def has_faiss() -> bool:
    """Whether FAISS is installed: ``pip install thesis-workbook[faiss]``."""
    return importlib.util.find_spec("faiss") is not None


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """Features (n, d) scaled to length 1, float32; a vector of zeros stays one."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    # Squares of small numbers would vanish in float32.
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    lengths = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    return features / lengths.astype(np.float32)[:, None]


class Index:
    """The nearest of some unit vectors by cosine similarity, exactly.

    Candidates come from float32 products, which FAISS and torch round differently; they are
    ranked by float64 products, of equal ones the first row before the others. So both give the
    same neighbours.

    Args:
        vectors: (n, d) float32, of length 1.
        backend: what finds the candidates; by default FAISS where it is installed.
    """

    def __init__(self, vectors: np.ndarray, backend: type[Candidates] | None = None) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        backend = backend or (FaissCandidates if has_faiss() else TorchCandidates)
        self._index = backend(self.vectors)
        # A float32 sum of d products of unit vectors errs by d 2^-24 at most, in whatever order
        # it is summed (Higham 2002, section 3.1); a pair of them may err both ways.
        self._rounding = (self.vectors.shape[1] + 4) * 2.0**-23

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest vectors of each query.

        Args:
            queries: (m, d) float32, of length 1.
            k: at most n.

        Returns:
            Similarities (m, k) float64, falling, and rows (m, k) of the vectors.
        """
        similarity, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            batch = np.ascontiguousarray(queries[part], dtype=np.float32)
            similarity[part], rows[part] = self._search(batch, k, k + MARGIN)
        return similarity, rows

    def _search(self, queries: np.ndarray, k: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(wanted, len(self.vectors))
        rows = np.sort(self._index.candidates(queries, wanted), axis=1)  # (m, wanted)
        pairs = zip(queries, rows, strict=True)
        similarity = np.stack([self._exactly(q, self.vectors[r]) for q, r in pairs])
        order = np.argsort(-similarity, axis=1, kind="stable")
        similarity = np.take_along_axis(similarity, order, 1)
        rows = np.take_along_axis(rows, order, 1)
        if wanted < len(self.vectors):  # others may be as near as the last of these
            unsure = similarity[:, -1] > similarity[:, k - 1] - self._rounding
            if unsure.any():
                found = self._search(queries[unsure], k, MORE * wanted)
                similarity[unsure, :k], rows[unsure, :k] = found
        return similarity[:, :k], rows[:, :k]

    def _exactly(self, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Float64 products of one query (d,) with vectors (n, d): (n,)."""
        parts = range(0, len(vectors), VECTORS_AT_ONCE)
        query = query.astype(np.float64)
        # Not by BLAS, in which the sum of a row can depend on where it stands: equal vectors
        # are to be equally near.
        sums = [(vectors[i : i + VECTORS_AT_ONCE] * query).sum(axis=1) for i in parts]
        return np.concatenate(sums)


@dataclass(frozen=True)
class LookupTable:
    """Training images' unit vectors with their classes and file names.

    ``vectors`` (n, d) float32, ``labels`` (n,) index ``classes``; ``files`` are relative to the
    data set's folder.
    """

    vectors: np.ndarray
    labels: np.ndarray
    files: list[str]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def index(self) -> Index:
        """What searches the vectors."""
        return Index(self.vectors)

    @property
    def mib(self) -> float:
        """Size of the vectors in MiB."""
        return self.vectors.nbytes / 2**20

    def only(self, kept: np.ndarray) -> "LookupTable":
        """The table of the images that a mask (n,) keeps."""
        rows = np.flatnonzero(kept)
        files = [self.files[row] for row in rows]
        return LookupTable(self.vectors[rows], self.labels[rows], files, self.classes)

    def search(
        self, queries: np.ndarray, k: int = 1, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images of the table: similarities (m, k), falling, and rows (m, k).

        Args:
            queries: (m, d) unit vectors.
            k: neighbours; at most as many as there are.
            exclude: (m,) the row of the table that each query itself is, which is left out; -1 for
                none.
        """
        if exclude is None:
            return self.index.search(queries, min(k, len(self)))
        similarity, rows = self.index.search(queries, min(k + 1, len(self)))
        # A stable sort puts the query itself last and leaves the others in their order.
        order = np.argsort(rows == exclude[:, None], axis=1, kind="stable")[
            :, : min(k, len(self) - 1)
        ]
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)

    def vote(self, rows: np.ndarray) -> np.ndarray:
        """The class (m,) that most of the neighbours (m, k) are of; of equal ones the nearest's."""
        labels = self.labels[rows]  # (m, k)
        votes = (labels[:, :, None] == labels[:, None, :]).sum(2)  # of each neighbour's class
        return np.take_along_axis(labels, votes.argmax(1)[:, None], 1)[:, 0]
