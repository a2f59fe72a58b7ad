"""Loss and gradients of one batch in float64, by as many ranks as torchrun has started.

``one_step.py OUTPUT``: each rank writes those of every case, by torch.save. The backbone keeps no
statistics of a batch.
"""

import sys

import torch
from torch import nn

from thesis_lib.config import RunConfig
from thesis_lib.methods import METHODS
from thesis_lib.models import Classifier, ContrastiveModel
from thesis_lib.system import distributed
from thesis_lib.training.engine import method_loss

CLASSES = 3
BATCHES = (10, 7, 1)  # parts of one size, of different sizes, and too small to part


class Backbone(nn.Module):
    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 6))
        self.unused = nn.Linear(2, 2)  # as some of timm's models hold

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def one_step(config: RunConfig, count: int) -> dict[str, torch.Tensor]:
    """The loss of a batch of ``count`` images, and each weight's gradient."""
    torch.manual_seed(1)
    if config.method == "cross-entropy":
        model = Classifier(Backbone(), nn.Linear(6, CLASSES)).double()
    else:
        model = ContrastiveModel(Backbone(), 4).double()
    images = torch.randn(count * config.views, 3, 2, 2, dtype=torch.float64)
    labels = torch.arange(count) % CLASSES
    if distributed.rank():  # the first weights are rank 0's
        nn.init.zeros_(next(model.parameters()))
    ranked = distributed.data_parallel(model)
    own = distributed.batch_slice(count, config.views, distributed.rank(), distributed.world_size())
    rows = slice(own.start * config.views, own.stop * config.views)
    outputs = distributed.gather_with_gradients(ranked(images[rows]), len(images), rows.start)
    loss = method_loss(config, outputs, labels)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def main(output: str) -> int:
    with distributed.process_group():
        results = {
            f"{method} {images}": one_step(RunConfig(method=method), images)
            for method in METHODS
            for images in BATCHES
        }
        torch.save(results, f"{output}.{distributed.rank()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
