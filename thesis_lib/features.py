"""A frozen backbone over a data set, once: the features that heads and tables are made from."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from thesis_lib import augment
from thesis_lib.config import InputError, RunConfig, first_few
from thesis_lib.data import Split
from thesis_lib.images import Images
from thesis_lib.loaders import FeatureViews, Loader, worker_count

VIEWS_PER_BATCH = 128


@torch.inference_mode()
def extract_features(
    backbone: nn.Module,
    images: Images,
    config: RunConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    views: int = 0,
) -> Tensor:
    """Run every image of a split through a frozen backbone.

    Args:
        backbone: (n, 3, h, w) -> (n, d); put into evaluation mode.
        images: of the split.
        config: image size, seed and workers.
        mean, std: channel statistics to normalise with.
        device: where to compute.
        views: random crops of each image (seeded, the same at every call); 0 for the one
            central view of evaluation.

    Returns:
        (max(views, 1), n, d) float32 on the CPU.

    Raises:
        InputError: for features that are not finite, naming the images.
    """
    dataset = FeatureViews(images, config.image_size, config.seed, views)
    images_per_batch = max(1, VIEWS_PER_BATCH // max(views, 1))
    batches = BatchSampler(range(len(images)), images_per_batch, drop_last=False)
    workers = worker_count(config, device)
    loader = Loader(dataset, batches, workers, device.type == "cuda", config.worker_timeout)
    backbone.to(device, memory_format=torch.channels_last).eval()
    extracted, done = torch.empty(0), 0  # made once the first batch tells d, and filled in place
    with loader:
        for pixels in loader:  # (k * views, size, size, 3) uint8
            batch = augment.to_float(pixels.to(device, non_blocking=True))
            features = backbone(augment.normalise(batch, mean, std))
            features = features.unflatten(0, (-1, max(views, 1)))
            if not done:
                extracted = torch.empty(max(views, 1), len(images), features.shape[-1])
            extracted[:, done : done + len(features)] = features.transpose(0, 1)
            done += len(features)
    finite = extracted.sum((0, 2)).isfinite()
    if not finite.all():
        files = [images.split.files[i] for i in (~finite).nonzero().flatten().tolist()]
        raise InputError(
            f"the backbone's features are not finite for {first_few(files)}; "
            "look at these images, or choose another checkpoint with --probe-from"
        )
    return extracted


def labels_of(split: Split) -> Tensor:
    """(n,) whole numbers, the classes of a split's images."""
    return torch.from_numpy(np.asarray(split.labels))
