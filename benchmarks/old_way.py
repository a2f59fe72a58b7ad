"""The old way: a training in the manner of SupContrast, as an honest reference.

PIL transforms of torchvision in a DataLoader that decodes every image every epoch, float32,
contiguous layout, the loss with its mask matrices, the loss read after every step.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


def two_views_chain(size: int, mean: tuple[float, ...], std: tuple[float, ...]):
    """The augmentations of the recipe as PIL transforms."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


class TwoCrops(Dataset):
    """Images of a folder, decoded anew each time, as two views."""

    def __init__(self, files: list[Path], labels: list[int], chain) -> None:
        self.files, self.labels, self.chain = files, labels, chain

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        """Two views and the label."""
        with open(self.files[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        return [self.chain(image), self.chain(image)], self.labels[index]


def masked_loss(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Eq. 2 of arXiv 2004.11362 by masks over the similarity matrix.

    features: (batch, views, dim); labels: (batch,).
    """
    views = features.shape[1]
    anchors = torch.cat(features.unbind(1))  # (views * batch, dim)
    same = torch.eq(labels[:, None], labels[None, :]).float().repeat(views, views)
    others = 1 - torch.eye(len(anchors), device=features.device)
    similarity = anchors @ anchors.T / temperature
    similarity = similarity - similarity.max(1, keepdim=True).values.detach()
    log_probability = similarity - (similarity.exp() * others).sum(1, keepdim=True).log()
    positive = same * others
    return -((positive * log_probability).sum(1) / positive.sum(1)).mean()


def loader(dataset: TwoCrops, batch_size: int, workers: int) -> DataLoader:
    """Shuffled batches; those of workers, which live on from epoch to epoch, go to a GPU."""
    options = {"pin_memory": True, "persistent_workers": True} if workers else {}
    return DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, **options
    )


def train_epoch(
    model: nn.Module, batches: DataLoader, optimizer: torch.optim.Optimizer, steps: int
) -> float:
    """Some steps of an epoch; the mean loss."""
    model.train()
    device = next(model.parameters()).device
    total = 0.0
    for step, (views, labels) in enumerate(batches):
        if step == steps:
            break
        images = torch.cat(views).to(device, non_blocking=True)
        features = model(images)
        first, second = features.split(len(labels))
        loss = masked_loss(torch.stack((first, second), 1), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / steps
