"""Extract the features of a split with a frozen backbone, for linear heads and look-up tables."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from thesis_lib.config import RunConfig
from thesis_lib.data import transforms
from thesis_lib.data.cache import Images, Source
from thesis_lib.data.datasets import Split
from thesis_lib.data.loaders import FeatureViews, Loader, worker_count
from thesis_lib.errors import InputError, first_few
from thesis_lib.models import create_backbone
from thesis_lib.system import distributed
from thesis_lib.system.device import choose_device
from thesis_lib.system.torch_errors import translate_torch_errors

# Building a backbone takes seconds, and probing needs one three times per checkpoint.
_backbone = functools.lru_cache(1)(create_backbone)

VIEWS_PER_BATCH = 128


def extract_features(  # noqa: PLR0913
    backbone: nn.Module,
    images: Images,
    config: RunConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
    views: int = 0,
) -> Tensor:
    """Extract the features of all images of a split with a frozen backbone.

    Several ranks take turns with the batches. The batches, and therefore the features, are the
    same for any number of ranks.

    Args:
        backbone: maps (n, 3, h, w) to (n, d); set to evaluation mode.
        images: images of the split.
        config: image size, seed and number of workers.
        mean, std: channel statistics used to normalise the images.
        device: device to compute on.
        views: number of random crops of each image (seeded, the same in every call); 0 for a
            single center crop.

    Returns:
        (max(views, 1), n, d) float32 on the CPU.

    Raises:
        InputError: if features are not finite. The message names the images.
    """
    if distributed.world_size() > 1:
        weights = {name: value.cpu() for name, value in backbone.state_dict().items()}
        distributed.call_on_workers(_help, weights, images.source, config, mean, std, views)
    dataset = FeatureViews(images, config.image_size, config.seed, views)
    own = _own_features(backbone, dataset, config, mean, std, device)
    extracted, done = torch.empty(0), 0  # allocated when the first batch shows d
    for features in distributed.gather_batches(own, len(_batches(dataset))):
        if not done:
            extracted = torch.empty(max(views, 1), len(images), features.shape[-1])
        extracted[:, done : done + features.shape[1]] = features
        done += features.shape[1]
    finite = extracted.sum((0, 2)).isfinite()
    if not finite.all():
        files = [images.split.files[i] for i in (~finite).nonzero().flatten().tolist()]
        raise InputError(
            f"the backbone's features are not finite for {first_few(files)}; "
            "check these images, or choose another checkpoint with --probe-from"
        )
    return extracted


def _help(  # noqa: PLR0913
    weights: dict[str, Tensor],
    source: Source,
    config: RunConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    views: int,
) -> None:
    """Compute the features of this rank's batches and send them to rank 0."""
    backbone = _backbone(config.backbone, config.small_images, config.image_size)
    backbone.load_state_dict(weights)
    dataset = FeatureViews(source.open(), config.image_size, config.seed, views)
    with translate_torch_errors("the features of all images", config.worker_timeout):
        for features in _own_features(backbone, dataset, config, mean, std, choose_device(config)):
            distributed.send_batch(features.cpu())


def _batches(dataset: FeatureViews) -> list[list[int]]:
    """Return the indices of the images of each batch."""
    per_batch = max(1, VIEWS_PER_BATCH // max(dataset.num_views, 1))
    return list(BatchSampler(range(len(dataset.images)), per_batch, drop_last=False))


@torch.inference_mode()
def _own_features(  # noqa: PLR0913
    backbone: nn.Module,
    dataset: FeatureViews,
    config: RunConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the features (max(views, 1), k, d) of each batch assigned to this rank."""
    batches = _batches(dataset)[distributed.rank() :: distributed.world_size()]
    workers = worker_count(config, device)
    loader = Loader(dataset, batches, workers, device.type == "cuda", config.worker_timeout)
    backbone.to(device, memory_format=torch.channels_last).eval()
    with loader:
        for pixels in loader:  # (k * views, size, size, 3) uint8
            batch = transforms.to_float(pixels.to(device, non_blocking=True))
            features = backbone(transforms.normalize(batch, mean, std))
            yield features.unflatten(0, (-1, max(dataset.num_views, 1))).transpose(0, 1)


def labels_of(split: Split) -> Tensor:
    """Return the class labels of a split's images, (n,) integers."""
    return torch.from_numpy(np.asarray(split.labels))
