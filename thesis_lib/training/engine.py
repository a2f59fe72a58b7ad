"""Train for one epoch, and stop before a NaN or infinite value changes a weight."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.loaders import Loader
from thesis_lib.errors import InputError, first_few
from thesis_lib.losses import SupConLoss
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_precision
from thesis_lib.training.state import TrainState

PARTS = ("a pixel", "an output of the network", "the loss", "a gradient")
# Number of steps between two checks for NaN; rarely on a GPU, as each check waits for it.
LOOK_EVERY = {"cpu": 1, "cuda": 50, "mps": 50}


class NotFiniteError(InputError):
    """Raised for NaN or infinity in a training step; ``files`` are the images of its batch."""

    def __init__(self, message: str, files: list[str]) -> None:
        super().__init__(message)
        self.files = files


def train_epoch(
    config: RunConfig,
    state: TrainState,
    loader: Loader,
    leave_after: Callable[[int], bool] = lambda num_images: False,
) -> tuple[int, Tensor]:
    """Train for one epoch, or for the rest of it: the epoch and step set in ``loader.batches``.

    With several ranks, each processes its share of a batch, and the loss is computed over the
    whole batch. No step waits for the GPU; values are checked for NaN every few steps. From the
    first step with a value that is not finite, no weight is changed any more.

    Args:
        config: method, learning rates and seed.
        state: the model in training; its position has the losses of the steps of this epoch
            that were done before.
        loader: batches of views from :class:`thesis_lib.data.loaders.RandomViews`.
        leave_after: called after each step with the number of images in its batch; training
            stops if it returns True.

    Returns:
        The number of finished steps of the epoch, and the sum of the losses of all its images
        so far (a scalar tensor on the device).

    Raises:
        NotFiniteError: for NaN or infinity in pixels, outputs, loss or gradients.
    """
    model, optimizer = state.parallel, state.optimizer
    device = next(model.parameters()).device
    parameters = list(model.parameters())
    watch = _Watch(device)
    every = LOOK_EVERY[device.type]
    model.train()
    epoch, step, steps = loader.batches.epoch, loader.batches.start, len(loader)
    total = torch.tensor(state.position.loss_sum, device=device)
    for pixels, jitter, labels, _ in loader:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, step, steps)
        if len(optimizer.param_groups) > 1:  # the first one is the backbone's
            optimizer.param_groups[0]["lr"] *= backbone_share(config, epoch)
        own = distributed.batch_slice(
            len(labels), config.views, distributed.rank(), distributed.world_size()
        )
        # Seed dropout by the step, so that resuming in the middle of an epoch changes nothing.
        seeds = np.random.SeedSequence((config.seed, epoch, step, own.start)).generate_state(1)
        torch.manual_seed(int(seeds[0]))
        images = transforms.to_float(pixels.to(device, non_blocking=True))
        if config.views > 1:  # the baseline's recipe has no color jitter
            images = transforms.color_jitter(images, jitter.to(device))
        images = transforms.normalize(images, state.mean, state.std)
        with autocast(config, device):
            rows = len(labels) * config.views
            outputs = distributed.gather_with_gradients(
                model(images), rows, own.start * config.views
            )
            loss = method_loss(config, outputs, labels.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [value.grad for value in parameters if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        pixel_sum = distributed.sum_over_ranks(images.sum())
        watch.note(step, pixel_sum, outputs.detach().sum(), loss.detach(), norm)
        optimizer.found_inf = watch.found  # if 1, fused SGD changes neither weights nor momentum
        step += 1
        if step % every == 0 or step == steps:
            watch.look(loader)
        optimizer.step()
        total += loss.detach() * len(labels)
        if leave_after(len(labels)):
            break
    watch.look(loader)
    return step, total


class _Watch:
    """Record on the device, without waiting for it, whether all steps so far were finite."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)  # 1 from the first step with NaN or infinity
        self.first = torch.full((), -1, device=device)  # index of that step, or -1
        self.parts = torch.zeros(len(PARTS), dtype=torch.bool, device=device)  # what was NaN

    def note(self, step: int, *sums: Tensor) -> None:
        """Record a step by the sums of its PARTS: a sum with NaN or infinity is not finite."""
        bad = ~torch.stack([value.float() for value in sums]).isfinite()
        new = bad.any() & (self.first < 0)
        self.first = torch.where(new, step, self.first)
        self.parts = torch.where(new, bad, self.parts)
        self.found = (self.first >= 0).float()

    def look(self, loader: Loader) -> None:
        """Raise NotFiniteError for the first step that was not finite."""
        if not self.found:
            return
        step, batches = int(self.first), loader.batches
        part = PARTS[int(self.parts.int().argmax())]
        draws = [draw for _, draw in list(batches)[step - batches.start]]
        known = loader.dataset.images.split.files
        files = [known[draw % len(known)] for draw in draws]
        raise NotFiniteError(
            f"{part} is not finite in epoch {batches.epoch}, step {step + 1} of {len(batches)}, "
            f"with {first_few(files)}",
            files,
        )


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Return the context for a forward pass, in bfloat16 if ``config.precision`` says so."""
    low = choose_precision(config, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def method_loss(config: RunConfig, outputs: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss of one batch: SupCon, SimCLR (SupCon without labels) or cross-entropy.

    Args:
        config: method and temperatures.
        outputs: (batch * views, dim) of unit length, the views of an image next to each other;
            for cross-entropy (batch, num_classes) logits.
        labels: (batch,) class labels.

    Returns:
        The mean loss, a scalar.
    """
    if config.method == "cross-entropy":
        return nn.functional.cross_entropy(outputs, labels)
    features = outputs.unflatten(0, (len(labels), -1))  # -> (batch, views, dim)
    criterion = SupConLoss(config.temperature, config.base_temperature)
    return criterion(features, labels if config.method == "supcon" else None)


def backbone_share(config: RunConfig, epoch: int) -> float:
    """Return the learning rate of the backbone as a multiple of that of its head.

    In the first ``frozen_epochs`` epochs it is 0, so the backbone's weights do not change; its
    batch normalisation still adapts to the images.
    """
    if epoch <= config.frozen_epochs:
        return 0.0
    return (config.backbone_learning_rate or config.learning_rate) / config.learning_rate


def learning_rate(config: RunConfig, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of one training step, by SupContrast's formulas.

    Cosine schedule in epoch e of E: floor + (peak - floor)(1 + cos(pi e / E)) / 2 with floor =
    peak x decay_rate^3. Step schedule: peak, multiplied by decay_rate for each decay epoch that
    has passed. Both change once per epoch. During warm-up the learning rate rises linearly with
    every step, from ``warmup_from`` to the value at the end of the warm-up: for cosine the
    schedule's value there, for step the peak. Warm-up takes at most half of all epochs.

    Args:
        config: peak, schedule and warm-up.
        epoch: 1 to ``config.epochs``.
        step: index of the step within the epoch, 0 to ``steps - 1``.
        steps: number of steps per epoch.
    """
    warmup = min(config.warmup_epochs, config.epochs // 2)
    if epoch > warmup:
        return _scheduled(config, epoch)
    peak = _scheduled(config, warmup) if config.schedule == "cosine" else config.learning_rate
    passed = ((epoch - 1) * steps + step) / (warmup * steps)
    return config.warmup_from + passed * (peak - config.warmup_from)


def _scheduled(config: RunConfig, epoch: int) -> float:
    if config.schedule == "step":
        passed = sum(epoch > decay for decay in config.decay_epochs)
        return config.learning_rate * config.decay_rate**passed
    floor = config.learning_rate * config.decay_rate**3
    wave = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return floor + (config.learning_rate - floor) * wave
