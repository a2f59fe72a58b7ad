"""The state of a training: model, optimizer and position, which a checkpoint saves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from thesis_lib.config import RunConfig
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device


@dataclass
class Position:
    """Record how far training has come: ``step`` steps of ``epoch`` are finished.

    ``loss_sum`` is the sum of the losses of all images in these steps, ``seconds`` their time.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


@dataclass
class TrainState:
    """A model in training: its optimizer, normalisation, finished epochs and position.

    ``mean`` and ``std`` (3,) normalise the images; ``rows`` are the rows of ``metrics.csv``.
    ``parallel`` is the model that computes the outputs: the model itself or, with several ranks,
    the wrapper around it that averages the gradients. ``is_restored``: whether it was loaded from a
    checkpoint.
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    mean: Sequence[float]
    std: Sequence[float]
    rows: list[dict[str, Any]] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    is_restored: bool = False

    def __post_init__(self) -> None:
        self.parallel = self.model

    @classmethod
    def create(
        cls, config: RunConfig, model: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> "TrainState":
        """Move a model to the run's device and give it an optimizer."""
        model.to(choose_device(config), memory_format=torch.channels_last)
        return cls(model, create_optimizer(config, model), mean, std)

    def share(self) -> None:
        """Let all ranks train the model together, from rank 0's weights on."""
        if any(True for _ in self.model.parameters()):
            self.parallel = distributed.data_parallel(self.model)


def create_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.SGD:
    """Create SGD for all weights, with the run's momentum and weight decay.

    If the backbone has a learning rate of its own, its weights are the first of two groups.
    """
    settings = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    groups: Any = [{"params": list(model.parameters())}]  # empty for region properties
    if config.backbone_learning_rate is not None or config.frozen_epochs:
        own = set(model.backbone.parameters())
        groups = [
            {"params": list(model.backbone.parameters())},
            {"params": [weight for weight in model.parameters() if weight not in own]},
        ]
    return torch.optim.SGD(groups, lr=config.learning_rate, fused=True, **settings)
