"""Estimate the time, memory and disk space of a run from a few timed steps on this machine."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import DataSet
from thesis_lib.data.framing import Frame, frame_of
from thesis_lib.data.loaders import FeatureViews, RandomViews
from thesis_lib.data.workers import worker_count
from thesis_lib.errors import InputError
from thesis_lib.methods import LINEAR, REGIONS, UNTRAINED
from thesis_lib.runs.artifacts import read_metrics, trained_epochs
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.device import choose_device
from thesis_lib.system.progress import elapsed_words
from thesis_lib.system.torch_errors import translate_torch_errors
from thesis_lib.training.checkpoints import scheduled_epochs
from thesis_lib.training.engine import autocast, method_loss
from thesis_lib.training.pretraining import create_model

FEW = 2  # images of a first, short step
TIMED_SECONDS = 2.0  # a whole batch is timed if a step takes less, by the first one
DAY = 24 * 60 * 60
CHECKPOINTS = 3  # that are probed at least


@dataclass(frozen=True)
class Estimate:
    """What a run will cost on this machine; the sizes are in bytes.

    ``seconds`` of training and ``feature_seconds`` of the stages after it. The memory is that of
    the training: weights, gradients, momentum and what the backward pass needs.
    """

    seconds: float
    feature_seconds: float
    memory: float
    disk: float
    device: str

    def __str__(self) -> str:
        parts = [f"about {elapsed_words(_rounded(self.feature_seconds))} for features"]
        if self.seconds:
            parts.insert(0, f"about {elapsed_words(_rounded(self.seconds))} of training")
            parts.append(f"{self.memory / 2**30:.1f} GiB of memory")
        words = f"{', '.join(parts)}, {self.disk / 2**30:.2f} GiB on disk ({self.device})"
        if self.device == "cpu" and self.seconds > DAY:
            words += (
                "\n  that is more than a day: pretrained weights without training take minutes "
                "(--method frozen --weights timm), and fewer epochs or smaller images less time"
            )
        return words


def estimate(config: RunConfig, dataset: DataSet) -> Estimate:
    """Time a few steps of a run; its own random numbers and weights are not touched.

    The time of training is that of the steps and of loading their views (at the same time, if
    there are loading workers), times the number of images and of epochs that are left. Features are
    extracted for the last three checkpoints at least, for the test and for the look-up table.

    Raises:
        InputError: if an image cannot be read, or memory is short.
    """
    device = choose_device(config)
    batch = f"batch_size {config.batch_size}"
    with torch.random.fork_rng(), translate_torch_errors(batch, config.worker_timeout):
        model = create_model(config, len(dataset.classes)).to(device)
        images = Images(dataset.splits["train"])
        counts = {name: len(split) for name, split in dataset.splits.items()}
        is_trained = config.method not in UNTRAINED
        probed = CHECKPOINTS if is_trained else 1
        evaluated = probed * (counts["train"] + counts.get("val", 0))
        evaluated += sum(counts.values()) + counts.get("test", 0)  # look-up table, tests
        feature_seconds = evaluated * _feature_seconds(config, model, images, 0)
        if config.head_views and config.head == LINEAR:
            crops = _feature_seconds(config, model, images, config.head_views)
            feature_seconds += probed * counts["train"] * crops
        weights = sum(value.nbytes for value in model.state_dict().values())
        seconds, memory, disk = 0.0, 0.0, weights
        if is_trained:
            momentum = sum(value.nbytes for value in model.parameters())
            disk = (weights + momentum) * (len(scheduled_epochs(config)) + 2)  # last and previous
            seconds, memory = _training(config, model, images)
            left = config.epochs - trained_epochs(read_metrics(RunDirectory(config)))
            seconds *= counts["train"] * left
    return Estimate(seconds, feature_seconds, memory, disk, device.type)


def estimate_apart(config: RunConfig, dataset: DataSet) -> Estimate:
    """Estimate in a process of its own: when it has ended, the memory of a GPU is free again.

    Raises:
        InputError: as :func:`estimate`, or if the process dies.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(estimate, config, dataset).result()
        except BrokenProcessPool:
            raise InputError("the process that timed a few steps was killed") from None


def _feature_seconds(config: RunConfig, model: nn.Module, images: Images, views: int) -> float:
    """Return the seconds that the features of an image take: of random crops, or 0: of one view."""
    some = list(range(min(FEW, len(images))))
    dataset = FeatureViews(images, frame_of(config), config.seed, views)
    load = _seconds(lambda: dataset[some]) / len(some)
    if config.method == REGIONS:
        return load
    pixels = _noise(config, FEW, next(model.parameters()).device)
    with torch.inference_mode():
        model.eval()
        compute = _seconds(lambda: model.backbone(pixels).sum().item()) / FEW
    return load + max(views, 1) * compute


def _training(config: RunConfig, model: nn.Module, images: Images) -> tuple[float, float]:
    """Return the seconds that training on an image takes, and the memory of a whole batch."""
    model.train()
    few, device = min(FEW, config.batch_size), next(model.parameters()).device
    whole = -(-config.batch_size // config.devices)  # of one device
    loaded = RandomViews(images, Frame.of(config), config.seed, config.views)
    keys = [(1, index % len(images)) for index in range(few)]
    load = _seconds(lambda: loaded[keys]) / few
    workers = worker_count(config, device, 3 * config.image_size**2 * config.views * whole)
    saved: dict[int, int] = {}  # place of a tensor that the backward pass needs -> its size

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def step(num_images: int) -> None:
        labels = torch.arange(num_images, device=device) % 2
        with autocast(config, device):
            outputs = model(_noise(config, num_images * config.views, device))
            loss = method_loss(config, outputs, labels)
        model.zero_grad()
        loss.backward()
        loss.item()  # waits for a GPU

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(few)
    weights = sum(value.nbytes for value in model.parameters())
    needed = max(sum(saved.values()) - weights, 0) / few * whole
    seconds = _seconds(lambda: step(few), warm=True) / few
    if seconds * whole < TIMED_SECONDS:
        seconds = _seconds(lambda: step(whole)) / whole
    seconds = max(seconds, load / workers) if workers else seconds + load
    return seconds / config.devices, needed + 3 * weights  # with gradients and momentum


def _noise(config: RunConfig, num_views: int, device: torch.device) -> Tensor:
    return torch.randn(num_views, 3, config.image_size, config.image_size, device=device)


def _seconds(work: Callable[[], object], warm: bool = False) -> float:
    """Return the time of a call, or the shorter one of two if the first has to warm up."""
    times = []
    for _ in range(1 if warm else 2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _rounded(seconds: float) -> float:
    """Round to two digits: an estimate is not more precise."""
    return float(f"{seconds:.2g}")
