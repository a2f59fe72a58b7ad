"""The supervised contrastive loss."""

import torch
from torch import Tensor, nn


class SupConLoss(nn.Module):
    r"""Supervised contrastive loss, L_out of Khosla et al. 2020 (arXiv 2004.11362, eq. 2).

    For each anchor i (every view of every image) with positives P(i) (all other views of its
    own image, and all views of images with its label) and A(i) (everything but i itself):

    .. math:: -\frac{\tau}{\tau_0} \frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}

    averaged over the anchors. Without labels only views of one image are positives: SimCLR's
    NT-Xent. An anchor without a positive (one view, and no other image of its label)
    contributes nothing; a batch without any positive has loss 0.

    Args:
        temperature: tau, above 0.
        base_temperature: tau_0, above 0; the loss is scaled by ``temperature / base_temperature``.

    Raises:
        ValueError: for a temperature that is not above 0.
    """

    def __init__(self, temperature: float = 0.07, base_temperature: float = 0.07) -> None:
        super().__init__()
        if not (temperature > 0 and base_temperature > 0):
            raise ValueError(
                f"temperatures must be above 0, not {temperature} and {base_temperature}"
            )
        self.temperature = temperature
        self.base_temperature = base_temperature

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            features: (batch, views, dim), of unit length along dim.
            labels: (batch,) whole numbers, or None for SimCLR.

        Raises:
            ValueError: for another shape.
        """
        if features.ndim != 3:
            raise ValueError(
                f"features must be (batch, views, dim), not of shape {tuple(features.shape)}"
            )
        batch, views, _ = features.shape
        if labels is None:
            labels = torch.arange(batch, device=features.device)
        elif labels.shape != (batch,):
            raise ValueError(f"labels must be ({batch},), not of shape {tuple(labels.shape)}")

        # Similarities divided by a small temperature overflow half precision: at least float32.
        with torch.autocast(features.device.type, enabled=False):
            if features.dtype not in (torch.float32, torch.float64):
                features = features.float()
            anchors = features.flatten(0, 1)  # (batch * views, dim)
            if len(anchors) == 1:
                return anchors.sum() * 0  # nothing to compare it with
            anchor_labels = labels.repeat_interleave(views)  # (batch * views,)

            itself = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
            positive = (anchor_labels[:, None] == anchor_labels[None, :]) & ~itself
            logits = anchors @ anchors.T / self.temperature  # (anchors, anchors)
            log_normaliser = logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)

            positives = positive.sum(1)  # (anchors,)
            log_probability = ((logits - log_normaliser) * positive).sum(1) / positives.clamp(min=1)
            has_positive = positives > 0
            mean = (log_probability * has_positive).sum() / has_positive.sum().clamp(min=1)
            return -self.temperature / self.base_temperature * mean
