"""Train linear heads on frozen features, for several learning rates at once."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import Labelled

MOMENTUM = 0.9


@torch.inference_mode()
def train_heads(
    train: Labelled, val: Labelled, num_classes: int, config: RunConfig
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train one linear head per learning rate by SGD without weight decay, all at once.

    All heads start from the same weights, see the same batches and are validated after every
    epoch. The gradient is computed by its formula instead of autograd, which is much faster.

    ``config.head_balance`` changes the loss: "weighted" multiplies that of each image by n / (K
    n_y), with n images, K classes that have images and n_y images of its class y; "logit-adjusted"
    adds log(n_y / n) to the logits in training only (Menon et al., Long-tail learning via logit
    adjustment, ICLR 2021).

    Args:
        train: (views, n, d) features; the views are used in rotation, one per epoch. Each is
            moved to the device of ``val`` only when it is used, since all of them may not fit
            there. The labels (n,) are on that device.
        val: (m, d) features of the views of evaluation.
        num_classes: number of classes.
        config: the ``head_*`` settings and the seed.

    Returns:
        The weights of the head and epoch with the highest validation accuracy (see
        :func:`best_row`), and one row per head and epoch: head_epoch, train_loss,
        val_accuracy (a fraction), head_learning_rate.

    Raises:
        InputError: if no head's loss stays finite.
    """
    device, (views, n, width) = val.features.device, train.features.shape
    heads = len(config.head_learning_rates)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        first = nn.Linear(width, num_classes)
    weight = first.weight.detach().repeat(heads, 1).to(device)  # (heads * num_classes, d)
    bias = first.bias.detach().repeat(heads)[:, None].to(device)  # (heads * num_classes, 1)
    weight_momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    peaks = (
        torch.tensor(config.head_learning_rates).repeat_interleave(num_classes)[:, None].to(device)
    )
    minus_one = -torch.ones((), device=device)
    weights, shift = _balance(train.labels, num_classes, config.head_balance)
    rows: list[dict[str, float]] = []
    best: dict[str, float] | None = None
    best_weights: dict[str, Tensor] = {}
    for epoch in range(1, config.head_epochs + 1):
        passed = sum(epoch > decay for decay in config.head_decay_epochs)
        rates = peaks * config.head_decay_rate**passed
        order = np.random.default_rng((config.seed, epoch)).permutation(n)
        order = torch.from_numpy(order).to(device)
        view = train.features[(epoch - 1) % views].to(device)
        loss_sums = torch.zeros(heads, device=device)
        for batch in order.split(config.head_batch_size):
            features = view.index_select(0, batch)
            labels = train.labels.index_select(0, batch).expand(heads, 1, -1)
            logits = _logits(features, weight, bias, heads)
            log_p = (logits if shift is None else logits + shift).log_softmax(1)
            losses_of_batch = log_p.gather(1, labels)
            own = None if weights is None else weights.index_select(0, labels[0, 0])
            loss_sums -= (losses_of_batch if own is None else losses_of_batch * own).sum((1, 2))
            # Gradient of the cross-entropy: (softmax - one-hot label) times the features.
            error = log_p.exp_().scatter_add_(1, labels, minus_one.expand_as(labels))
            error = (error if own is None else error.mul_(own)).flatten(0, 1)
            weight_momentum.addmm_(error, features, beta=MOMENTUM, alpha=1 / len(batch))
            bias_momentum.mul_(MOMENTUM).add_(error.mean(1, keepdim=True))
            weight.addcmul_(rates, weight_momentum, value=-1)
            bias.addcmul_(rates, bias_momentum, value=-1)
        predicted = _logits(val.features, weight, bias, heads).max(1).indices  # (heads, m)
        correct = (predicted == val.labels).sum(1).tolist()
        losses = (loss_sums / n).tolist()
        for head, rate in enumerate(config.head_learning_rates):
            row = {
                "head_epoch": epoch,
                "train_loss": losses[head],
                "val_accuracy": correct[head] / len(val.labels),
                "head_learning_rate": rate,
            }
            rows.append(row)
            if math.isfinite(losses[head]) and (best is None or best_row([best, row]) is row):
                best, own = row, slice(head * num_classes, (head + 1) * num_classes)
                chosen = {"weight": weight[own], "bias": bias[own, 0]}
                best_weights = {name: value.cpu().clone() for name, value in chosen.items()}
    if best is None:
        raise InputError(
            f"the linear head's loss is not finite with head_learning_rates "
            f"{list(config.head_learning_rates)}; lower them"
        )
    return best_weights, rows


def _balance(labels: Tensor, num_classes: int, balance: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the weight of each class (K,) and what is added to the logits (K, 1), or None."""
    counts = labels.bincount(minlength=num_classes)
    if balance == "weighted":
        return len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), None
    if balance == "logit-adjusted":
        return None, (counts.clamp(min=1) / len(labels)).log()[:, None]
    return None, None


def _logits(features: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Compute the logits of all heads in one matrix product: (n, d) -> (heads, num_classes, n)."""
    return torch.addmm(bias, weight, features.T).unflatten(0, (heads, -1))


def best_row(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the row with the highest validation accuracy among those with a finite loss.

    Ties go to the earliest head epoch, as in the thesis's table, then to the first row listed.
    """
    sound = [row for row in rows if math.isfinite(row["train_loss"])]
    return max(sound, key=lambda row: (row["val_accuracy"], -row["head_epoch"]))
