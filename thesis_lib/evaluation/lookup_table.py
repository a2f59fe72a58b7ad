"""The cosine look-up table: training images' features that classify by the nearest of them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from thesis_lib.config import InputError
from thesis_lib.evaluation.knn import Index
from thesis_lib.system.files import write_bytes


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
        self, queries: np.ndarray, k: int = 1, own: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest images of the table: similarities (m, k), falling, and rows (m, k).

        Args:
            queries: (m, d) unit vectors.
            k: neighbours; at most as many as there are.
            own: (m,) the row of the table that each query itself is, which is left out; -1 for
                none.
        """
        if own is None:
            return self.index.search(queries, min(k, len(self)))
        similarity, rows = self.index.search(queries, min(k + 1, len(self)))
        # A stable sort puts the query itself last and leaves the others in their order.
        order = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, : min(k, len(self) - 1)]
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1)

    def vote(self, rows: np.ndarray) -> np.ndarray:
        """The class (m,) that most of the neighbours (m, k) are of; of equal ones the nearest's."""
        labels = self.labels[rows]  # (m, k)
        votes = (labels[:, :, None] == labels[:, None, :]).sum(2)  # of each neighbour's class
        return np.take_along_axis(labels, votes.argmax(1)[:, None], 1)[:, 0]


@dataclass(frozen=True)
class StoredTable:
    """A look-up table with what pruning keeps of it: the content of ``table.safetensors``.

    ``kept`` (thresholds, n) tells which images the table holds at each of ``thresholds``;
    ``threshold`` is the chosen one, ``neighbours`` vote. ``known_similarity`` are the
    similarities of validation images to the pruned table, ascending: how near an image is of
    what was trained on. ``checkpoint`` (epoch) made the features, ``fingerprint`` is the data
    set's.
    """

    table: LookupTable
    thresholds: np.ndarray
    kept: np.ndarray
    threshold: float
    neighbours: int
    known_similarity: np.ndarray
    checkpoint: int
    fingerprint: str

    def number(self, threshold: float) -> int:
        """Which of the thresholds it is."""
        return int(np.abs(self.thresholds - threshold).argmin())

    def at(self, threshold: float) -> LookupTable:
        """The table as pruned at one of the thresholds."""
        return self.table.only(self.kept[self.number(threshold)])

    @cached_property
    def chosen(self) -> LookupTable:
        """The table as pruned at the chosen threshold."""
        return self.at(self.threshold)

    def pruned(self) -> "StoredTable":
        """The chosen table alone, for an export."""
        return StoredTable(
            self.chosen,
            np.array([self.threshold]),
            np.ones((1, len(self.chosen)), dtype=bool),
            self.threshold,
            self.neighbours,
            self.known_similarity,
            self.checkpoint,
            self.fingerprint,
        )

    def unlike_below(self, false_alarms: float) -> float:
        """The similarity below which at most a share of validation images lies."""
        position = int(false_alarms * len(self.known_similarity))
        return float(self.known_similarity[min(position, len(self.known_similarity) - 1)])

    def save(self, path: Path) -> None:
        """Write the table whole or not at all."""
        tensors = {
            "vectors": self.table.vectors,
            "labels": self.table.labels.astype(np.int64),
            "thresholds": self.thresholds.astype(np.float64),
            "kept": self.kept.astype(np.uint8),
            "known_similarity": self.known_similarity.astype(np.float64),
        }
        facts = {
            "files": self.table.files,
            "classes": self.table.classes,
            "threshold": self.threshold,
            "neighbours": self.neighbours,
            "checkpoint": self.checkpoint,
            "fingerprint": self.fingerprint,
        }
        metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        write_bytes(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> "StoredTable":
        """Read a table.

        Raises:
            InputError: where it is missing, damaged or something else.
        """
        if not path.is_file():
            raise InputError(
                f"there is no look-up table {path}; run notebook 05 or `thesis retrieve`"
            )
        try:
            with safe_open(path, "numpy") as file:
                facts = {name: json.loads(text) for name, text in file.metadata().items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = ("vectors", "labels")
            table = LookupTable(
                *(tensors.pop(name) for name in names), facts.pop("files"), facts.pop("classes")
            )
            kept = tensors.pop("kept").astype(bool)
            return cls(table, kept=kept, **tensors, **facts)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(
                f"the look-up table {path} cannot be read ({reason}); remove it, and "
                "`thesis retrieve` makes it again"
            ) from None
