"""Define the supervised contrastive loss (SupCon), which without labels is SimCLR's NT-Xent."""

import torch
from torch import Tensor, nn


class SupConLoss(nn.Module):
    r"""Compute the supervised contrastive loss, L_out of Khosla et al. 2020.

    Source: arXiv 2004.11362, eq. 2.

    Every view of every image is an anchor i. Its positives P(i) are all other views of the same
    image and all views of other images with the same label; A(i) contains all views except i.
    The loss of anchor i is

    .. math:: -\frac{\tau}{\tau_0} \frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}

    and the loss of the batch is the mean over its anchors. Without labels, only views of the
    same image are positives, which gives SimCLR's NT-Xent loss. Anchors without a positive (with
    one view per image and no other image of that label) are left out of the mean; the loss of a
    batch without any positive is 0.

    Args:
        temperature: tau, above 0.
        base_temperature: tau_0, above 0. The loss is multiplied by
            ``temperature / base_temperature``.

    Raises:
        ValueError: if one of the temperatures is not above 0.
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
        """Compute the loss of one batch, a scalar.

        Args:
            features: (batch, views, dim), with unit length along dim.
            labels: (batch,) integer class labels, or None for SimCLR.

        Raises:
            ValueError: if features or labels have another shape.
        """
        if features.ndim != 3:
            raise ValueError(
                f"features must have shape (batch, views, dim), not {tuple(features.shape)}"
            )
        batch, views, _ = features.shape
        if labels is None:
            labels = torch.arange(batch, device=features.device)
        elif labels.shape != (batch,):
            raise ValueError(f"labels must have shape ({batch},), not {tuple(labels.shape)}")

        # Dividing by a small temperature overflows half precision, so use float32 or float64.
        with torch.autocast(features.device.type, enabled=False):
            if features.dtype not in (torch.float32, torch.float64):
                features = features.float()
            anchors = features.flatten(0, 1)  # (batch * views, dim)
            if len(anchors) == 1:
                return anchors.sum() * 0  # a single view has nothing to be compared with
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
