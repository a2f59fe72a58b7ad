"""Export a finished run as a timm model (safetensors and config.json) and as an ONNX model."""

import contextlib
import io
import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

import thesis_lib.models  # noqa: F401  (registers its models with timm)
from thesis_lib.backbones import has_small_stem, size_options
from thesis_lib.config import RunConfig
from thesis_lib.data.transforms import EVALUATION_RESIZE
from thesis_lib.errors import InputError
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.evaluation.statistics import validation_confidences
from thesis_lib.heads import Classifier
from thesis_lib.methods import LINEAR
from thesis_lib.prediction.finished_model import TABLE_NAME, VALIDATION_NAME, table_of
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json, write_csv
from thesis_lib.system.paths import relative_to_root
from thesis_lib.training import checkpoints

TOLERANCE = 1e-4  # largest allowed difference of exported logits, relative to the largest logit


def export_run(run: RunDirectory, destination: Path | None = None) -> Path:
    """Export the selected backbone and head as a timm model and as an ONNX model.

    Load the folder with ``timm.create_model("local-dir:FOLDER", pretrained=True)``. LeNet-5 and
    the small-image stem are not part of timm; for these, ``import thesis_lib.models`` first.
    Both models take normalised images (n, 3, size, size) and return logits (n, num_classes).
    ``config.json`` and the ONNX file's metadata give the mean, std, image size, fit, crop_bottom
    and class names.
    Divide the logits by the temperature in ``config.json`` to get the confidences of ``predict``.

    ``validation.csv`` has the predictions for the validation images, from which ``thesis predict``
    chooses thresholds of confidence. ``table.safetensors`` is the pruned look-up table. It is built
    if it is missing; if it cannot be built, a message says so and the folder is written without it.
    The folder is only put in place once the exported models have reproduced the run's logits.

    Args:
        run: a run with a selection.
        destination: a new folder; by default ``export/`` in the run's folder, which is replaced.

    Returns:
        The folder.

    Raises:
        InputError: if the run has no current selection, the destination exists, the classifier
            of the timm backbone is not a linear layer, or the exported logits differ.
    """
    if not is_done(run, "probe"):
        raise InputError(
            f"{run.path.name} has no current selection; run notebook 03 or `thesis probe` first"
        )
    if run.config.head != LINEAR:
        raise InputError(
            f"{run.path.name} has a random forest as its head, which cannot be exported; use "
            "`thesis predict`, or export a run with head = linear"
        )
    folder = destination or run.path / "export"
    if destination is not None and folder.exists():
        raise InputError(f"{folder} already exists; choose another folder, or delete it")
    ours, facts = checkpoints.load_classifier(run)
    facts |= {"temperature": read_json(run.selection_file)["temperature"]}
    # Before the export folder exists: building a table removes partial files from the run.
    table = _table(run, facts["checkpoint"])

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        size = run.config.image_size
        images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = ours(images)
        _write_timm(partial, ours, run.config, facts)
        if table is not None:
            table.pruned().save(partial / TABLE_NAME)
        write_csv(partial / VALIDATION_NAME, validation_confidences(facts))
        model = timm.create_model(f"local-dir:{partial}", pretrained=True).eval()
        with torch.inference_mode():
            _compare(model(images), expected, "timm's model")
        _write_onnx(partial / "model.onnx", model, images, run.config.to_dict() | facts)
        session = onnxruntime.InferenceSession(partial / "model.onnx")
        for some in (images, images[:1]):  # also test a batch size it was not traced with
            (logits,) = session.run(None, {"images": some.numpy()})
            _compare(torch.from_numpy(logits), expected[: len(some)], "the ONNX model")
        if destination is None:
            shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _table(run: RunDirectory, checkpoint: int) -> StoredTable | None:
    """Return the run's look-up table, or None (with a message) if it cannot be built."""
    try:
        return table_of(run, checkpoint)
    except InputError as error:
        print(f"exporting without a look-up table: {error}", flush=True)
        return None


def _write_timm(folder: Path, ours: Classifier, config: RunConfig, facts: dict) -> None:
    """Write ``model.safetensors`` and ``config.json`` of a model that timm can build and load."""
    options = {"num_classes": len(facts["classes"])}
    if has_small_stem(ours.backbone):
        architecture = "small_image_stem"
        arguments: dict[str, Any] = {"architecture": config.backbone}
    else:
        architecture = config.backbone
        arguments = dict(size_options(config.backbone, config.image_size))
    model = timm.create_model(architecture, **arguments, **options)
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise InputError(
            f"{config.backbone} cannot be exported: its classifier in timm is a "
            f"{type(classifier).__name__}, not a linear layer"
        )
    weights = ours.backbone.state_dict()
    name = next(name for name, module in model.named_modules() if module is classifier)
    weights |= {f"{name}.{key}": value for key, value in ours.head.state_dict().items()}
    checkpoints.load_weights(model, weights, config.backbone)
    model.pretrained_cfg |= {
        "architecture": architecture,
        "input_size": (3, config.image_size, config.image_size),
        "mean": tuple(facts["mean"]),
        "std": tuple(facts["std"]),
        "interpolation": config.interpolation,
        # timm's "border" pads, too, but with the mean color instead of the image's own border
        "crop_pct": 1 / EVALUATION_RESIZE if config.fit == "crop" else 1.0,
        "crop_mode": "center" if config.fit == "crop" else "border",
        "num_classes": len(facts["classes"]),
        "classifier": name,
        "tag": "",
    }
    for other in ("test_input_size", "test_crop_pct", "license", "origin_url", "paper_ids", "url"):
        model.pretrained_cfg.pop(other, None)  # these describe timm's own weights
    description = {
        "label_names": facts["classes"],
        "description": f"{config.run_name} on {config.data_name}, checkpoint "
        f"{facts['checkpoint']}, linear head",
        "temperature": facts["temperature"],
        "categories": facts["categories"],
        "fit": config.fit,
        "crop_bottom": facts["crop_bottom"],
    }
    save_for_hf(
        model, folder, model_config=description, model_args=arguments, safe_serialization=True
    )
    # safetensors writes files that only their owner can read.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")


def _write_onnx(path: Path, model: nn.Module, images: Tensor, facts: dict) -> None:
    """Write ``model.onnx``: images (n, 3, size, size) -> logits (n, num_classes), for any n."""
    batch = torch.export.Dim("n")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # Silence the exporter, which prints its progress and warns about operators not used here.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
        )
    exported = onnx.load(path)
    for name in ("classes", "mean", "std", "image_size", "fit", "interpolation", "crop_bottom"):
        value = json.dumps(facts[name], ensure_ascii=False)
        exported.metadata_props.add(key=name, value=value)
    onnx.save(exported, path)


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise InputError if exported logits differ from the run's by more than TOLERANCE."""
    largest = expected.abs().max().clamp(min=1)
    difference = float((found - expected).abs().max() / largest)
    if not np.isfinite(difference) or difference > TOLERANCE:
        raise InputError(
            f"the logits of {what} differ from the run's by {difference:.1e} of the largest "
            "logit; nothing was exported"
        )


def describe_export(folder: Path, run: RunDirectory) -> str:
    """Describe an export in one line: the files that were written and their sizes in MB."""
    files = ", ".join(
        f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in sorted(folder.iterdir())
    )
    return f"{run.path.name}: wrote {relative_to_root(folder)}/: {files}"
