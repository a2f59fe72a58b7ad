"""The learning rate of pretraining, step by step."""

import math

from thesis_lib.config import RunConfig


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
