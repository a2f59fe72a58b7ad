"""The cosine look-up table: training images' features that classify by the nearest of them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from thesis_lib.errors import InputError
from thesis_lib.evaluation.knn import LookupTable
from thesis_lib.system.files import write_bytes


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

    def unlike_below(self, false_positive_rate: float) -> float:
        """The similarity below which at most a share of validation images lies."""
        position = int(false_positive_rate * len(self.known_similarity))
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
