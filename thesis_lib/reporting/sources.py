"""Record what figures and tables were made from: the data set, the runs, and their files."""

from collections.abc import Sequence
from typing import Any

from thesis_lib.config import DATA_FIELDS, RunConfig
from thesis_lib.runs.artifacts import trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.provenance import code_commit
from thesis_lib.system.files import file_digest, read_json

# The run files (attributes of RunDirectory) that the figures and tables of each part are made from.
FILES = {
    "data": (),
    "pretrain": ("metrics_file",),
    "probe": ("probe_file", "probe_curves_file", "selection_file"),
    "test": (
        *("test_file", "predictions_file", "embedding_file", "calibration_file"),
        "confidences_file",
    ),
    "retrieve": (
        *("retrieval_file", "ood_file", "learning_curve_file", "table_choice_file"),
        *("retrieval_test_file", "retrieval_predictions_file"),
    ),
    "comparison": (
        *("metrics_file", "probe_file", "test_file", "predictions_file"),
        *("retrieval_test_file", "retrieval_predictions_file"),
    ),
    "splits": ("config_file", "test_file", "predictions_file"),
}
RUN_PARTS = ("pretrain", "probe", "test", "retrieve")


def source_of(
    part: str, config: RunConfig, runs: Sequence[RunDirectory], fingerprint: str
) -> dict[str, Any]:
    """Return the sources of the figures and tables, which are stored with each of them.

    These are the data set and its fingerprint; for each run the git commit of each stage and
    the hashes of the files that were read; the git commit of the code that made the figures
    and tables; and a line that summarises all of this.

    Args:
        part: a key of FILES.
        config: names the data set, and the settings with which it is shown.
        runs: the runs that are shown.
        fingerprint: the data set's, if there are no runs, which know theirs.
    """
    if runs:
        fingerprints = {trained_fingerprint(run) for run in runs} - {None}
        fingerprint = ", ".join(sorted(map(str, fingerprints))) or "unknown"
    of_splits = part == "splits"  # there, runs on several data sets can have the same name
    facts = {
        "/".join(run.path.parts[-2:]) if of_splits else run.path.name: {
            "commits": stage_commits(run),
            "files": _digests(run, part),
        }
        for run in runs
    }
    if part in ("comparison", "splits"):  # omit runs that have no results yet
        facts = {name: of_it for name, of_it in facts.items() if of_it["files"]}
    commit = code_commit() or "unknown"
    named = ", ".join(facts) or "none"
    fields = (*DATA_FIELDS, "other_splits") if of_splits else DATA_FIELDS
    return {
        "line": f"data set {config.data_name} (fingerprint {fingerprint}); "
        f"runs: {named}; code: {commit}",
        "label": runs[0].path.name if part in RUN_PARTS else "",
        "part": part,
        "data": config.data,
        "data_fingerprint": fingerprint,
        "commit": commit,
        "settings": {name: config.to_dict()[name] for name in fields},
        "runs": facts,
    }


def _digests(run: RunDirectory, part: str) -> dict[str, str]:
    """Return the hashes of the files of a run that a part of the chapter is made from."""
    files = (getattr(run, kind) for kind in FILES[part])
    return {file.name: digest[:16] for file in files if (digest := file_digest(file))}


def stage_commits(run: RunDirectory) -> dict[str, str]:
    """Return the git commit of the code with which each stage of a run was last executed."""
    entries = read_json(run.provenance_file) if run.provenance_file.is_file() else []
    return {entry["stage"]: entry.get("git_commit") or "unknown" for entry in entries}
