"""One epoch of training: its steps, each held to be finite before a weight moves."""

import math
from collections.abc import Callable, Sequence

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

PARTS = ("a pixel", "an output of the network", "the loss", "a gradient")
# Steps between two looks at whether all is finite; a GPU would have to be waited for.
LOOK_EVERY = {"cpu": 1, "cuda": 50, "mps": 50}


class NotFiniteError(InputError):
    """NaN or infinity in a step; ``files`` are those of its batch."""

    def __init__(self, message: str, files: list[str]) -> None:
        super().__init__(message)
        self.files = files


def create_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.SGD:
    """SGD with the run's momentum and weight decay, over all weights."""
    settings = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    return torch.optim.SGD(model.parameters(), lr=config.learning_rate, fused=True, **settings)


def train_epoch(
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    loader: Loader,
    mean: Sequence[float],
    std: Sequence[float],
    loss_sum: float = 0.0,
    leave_after: Callable[[int], bool] = lambda images: False,
) -> tuple[int, Tensor]:
    """Train for the epoch that ``loader.batches`` is set to, from the step it is set to.

    Several ranks share each batch, and each sees the loss of all of it. Nothing in a step waits
    for a GPU: what it computes is read after some steps. A step in which anything is not finite
    moves no weight, nor does any after it.

    Args:
        config: method, jitter, learning rates, seed.
        model: on the device that computes, of :func:`thesis_lib.system.distributed.data_parallel`.
        optimizer: of :func:`create_optimizer`.
        loader: batches of views, as :class:`thesis_lib.data.loaders.RandomViews` makes them.
        mean, std: channel statistics to normalise with.
        loss_sum: of the epoch's steps before.
        leave_after: called after each step with its number of images; whether to stop there.

    Returns:
        The steps of the epoch that are done, and the sum of its images' losses, a scalar on the
        device.

    Raises:
        NotFiniteError: for NaN or infinity in pixels, outputs, loss or gradients.
    """
    device = next(model.parameters()).device
    parameters = list(model.parameters())
    watch = _Watch(device)
    every = LOOK_EVERY[device.type]
    model.train()
    epoch, step, steps = loader.batches.epoch, loader.batches.start, len(loader)
    total = torch.tensor(loss_sum, device=device)
    for pixels, jitter, labels, _ in loader:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch, step, steps)
        own = distributed.batch_slice(
            len(labels), config.views, distributed.rank(), distributed.world_size()
        )
        # Dropout's numbers follow from the step, so a training can go on in the middle.
        state = np.random.SeedSequence((config.seed, epoch, step, own.start)).generate_state(1)
        torch.manual_seed(int(state[0]))
        images = transforms.to_float(pixels.to(device, non_blocking=True))
        if config.method != "cross-entropy":  # the baseline's recipe leaves jitter alone
            images = transforms.color_jitter(images, jitter.to(device))
        images = transforms.normalize(images, mean, std)
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
        optimizer.found_inf = watch.found  # where it is 1, fused SGD leaves all as it is
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
    """Whether all steps so far were finite: known to the device, until somebody looks."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)  # 1 from the first step that was not
        self.first = torch.full((), -1, device=device)  # that step
        self.parts = torch.zeros(len(PARTS), dtype=torch.bool, device=device)  # and what in it

    def note(self, step: int, *sums: Tensor) -> None:
        """Take in a step by the sums of its PARTS: one value that is not finite spoils a sum."""
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
        numbers = [number for _, number in list(batches)[step - batches.start]]
        files = [loader.dataset.images.split.files[number] for number in numbers]
        raise NotFiniteError(
            f"{part} is not finite in epoch {batches.epoch}, step {step + 1} of {len(batches)}, "
            f"with {first_few(files)}",
            files,
        )


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """The context of a forward pass: bfloat16 where ``config.precision`` says so."""
    low = choose_precision(config, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def method_loss(config: RunConfig, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of one batch: SupCon's, SimCLR's (the same without labels) or cross-entropy.

    Args:
        config: method and temperatures.
        outputs: (batch * views, dim) of unit length, an image's views neighbours; for
            cross-entropy (batch, classes) logits.
        labels: (batch,).
    """
    if config.method == "cross-entropy":
        return nn.functional.cross_entropy(outputs, labels)
    features = outputs.unflatten(0, (len(labels), -1))  # -> (batch, views, dim)
    criterion = SupConLoss(config.temperature, config.base_temperature)
    return criterion(features, labels if config.method == "supcon" else None)


def learning_rate(config: RunConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of one step, by the formulas of SupContrast.

    Cosine over E epochs: floor + (peak - floor)(1 + cos(pi e / E)) / 2 with floor = peak x
    decay_rate^3, set once an epoch. Step: peak x decay_rate for each decay epoch passed.
    Warm-up, set every step: linearly from ``warmup_from`` to the schedule's value at the end
    of the warm-up, which takes at most half of all epochs.

    Args:
        config: peak, schedule and warm-up.
        epoch: 1 to ``config.epochs``.
        step: 0 to ``steps - 1`` within the epoch.
        steps: steps in an epoch.
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
