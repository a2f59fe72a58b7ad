"""Store the cosine look-up table, which classifies an image by its nearest training images."""

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
    """Hold a look-up table and the result of pruning it: the content of ``table.safetensors``.

    ``kept`` (num_thresholds, n) marks the images that the table keeps at each of ``thresholds``.
    ``threshold`` is the chosen pruning threshold, ``neighbours`` the number of nearest
    neighbours that vote. ``known_similarity`` contains the similarity of each validation image
    (or, without val/, of each training image to the others) to its nearest image in the pruned
    table, ascending. ``checkpoint`` is the epoch of the backbone that computed the features,
    ``fingerprint`` identifies the data set.
    """

    table: LookupTable
    thresholds: np.ndarray
    kept: np.ndarray
    threshold: float
    neighbours: int
    known_similarity: np.ndarray
    checkpoint: int
    fingerprint: str

    def index_of(self, threshold: float) -> int:
        """Return the index of the nearest of ``thresholds``."""
        return int(np.abs(self.thresholds - threshold).argmin())

    def at(self, threshold: float) -> LookupTable:
        """Return the table pruned at one of the thresholds."""
        return self.table.only(self.kept[self.index_of(threshold)])

    @cached_property
    def chosen(self) -> LookupTable:
        """Return the table pruned at the chosen threshold."""
        return self.at(self.threshold)

    def pruned(self) -> "StoredTable":
        """Return a copy that contains only the images kept at the chosen threshold, for export."""
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
        """Return the similarity below which an image is flagged as out-of-distribution.

        Args:
            false_positive_rate: largest fraction of the validation images, which are of known
                classes, that may be flagged.
        """
        position = int(false_positive_rate * len(self.known_similarity))
        return float(self.known_similarity[min(position, len(self.known_similarity) - 1)])

    def save(self, path: Path) -> None:
        """Write the table to a file, completely or not at all."""
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
        """Read a table from a file.

        Raises:
            InputError: if the file is missing, damaged or not a look-up table.
        """
        if not path.is_file():
            raise InputError(
                f"there is no look-up table {path}; run notebook 05 or `thesis retrieve`"
            )
        try:
            with safe_open(path, "numpy") as file:
                facts = {name: json.loads(text) for name, text in file.metadata().items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            vectors, labels = tensors.pop("vectors"), tensors.pop("labels")
            table = LookupTable(vectors, labels, facts.pop("files"), facts.pop("classes"))
            kept = tensors.pop("kept").astype(bool)
            return cls(table, kept=kept, **tensors, **facts)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(
                f"the look-up table {path} cannot be read ({reason}); delete it, then run "
                "`thesis retrieve` to make it again"
            ) from None
