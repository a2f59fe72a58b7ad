"""Define the heads, and the models that combine a backbone with a head."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Project features onto the unit sphere: Linear, ReLU, Linear, L2 normalisation."""

    def __init__(self, in_features: int, out_features: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, in_features),
            nn.ReLU(inplace=True),
            nn.Linear(in_features, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, in_features) to (n, out_features) of unit length, in float32 or float64."""
        projected = self.layers(features)
        # Autocast's bfloat16 has only about three digits: too few to normalise precisely.
        finer = torch.promote_types(projected.dtype, torch.float32)
        return nn.functional.normalize(projected.to(finer), dim=1)


class ContrastiveModel(nn.Module):
    """Combine a backbone and a projection head, for contrastive pretraining."""

    def __init__(self, backbone: nn.Module, projection_dim: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = ProjectionHead(backbone.num_features, projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to projections (n, projection_dim) of unit length."""
        return self.projection(self.backbone(images))


class Classifier(nn.Module):
    """Combine a backbone and a head, for classification."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, num_classes)."""
        return self.head(self.backbone(images))


def linear_head(in_features: int, num_classes: int) -> nn.Linear:
    """Create a linear classifier, to train on a frozen backbone or (cross-entropy) with it."""
    return nn.Linear(in_features, num_classes)


class ForestHead(nn.Module):
    """Classify features by a random forest whose trees vote (Breiman 2001).

    The prior, the share of each class among the training images, counts as one more vote. It
    decides alone for features that are all 0: those of an image in which no organism is found.

    Args:
        weights: name -> tensor. ``center`` (d,) and ``axes`` (d, k) project the features onto
            principal components; without them (0 columns), they are used as they are. The nodes
            of all trees stand in ``feature``, ``threshold``, ``left``, ``right`` and ``label``
            (nodes,); both children of a leaf are the leaf itself. ``roots`` (trees,) are the
            first nodes, ``depth`` () the most steps to a leaf, ``prior`` (num_classes,).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_buffer(name, value)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) to the logarithms (n, num_classes) of the shares of the votes."""
        found = (features != 0).any(1, keepdim=True)
        votes = torch.cat([self._votes(some) for some in features.split(1024)]) * found
        return ((votes + self.prior) / (votes.sum(1, keepdim=True) + 1)).log()

    def _votes(self, features: Tensor) -> Tensor:
        if self.axes.numel():
            features = (features - self.center) @ self.axes
        nodes = self.roots.expand(len(features), -1)  # (n, trees)
        for _ in range(int(self.depth)):
            values = features.gather(1, self.feature[nodes].long())
            nodes = torch.where(
                values <= self.threshold[nodes], self.left[nodes], self.right[nodes]
            )
        votes = torch.zeros(len(features), len(self.prior), device=features.device)
        labels = self.label[nodes].long()
        return votes.scatter_add_(1, labels, torch.ones_like(labels, dtype=votes.dtype))


def create_head(weights: Mapping[str, Tensor]) -> nn.Module:
    """Create the head that has these weights: a linear layer, or a random forest."""
    if "weight" not in weights:
        return ForestHead(weights)
    num_classes, in_features = weights["weight"].shape
    head = nn.Linear(in_features, num_classes)
    head.load_state_dict(weights)
    return head
