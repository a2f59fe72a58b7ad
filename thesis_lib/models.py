"""Backbones (any of timm, LeNet5), the projection head and the linear head."""

import difflib
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

SMALL_IMAGE_SIZE = 64  # px; up to here the small-image stem is the default
# timm's registry asks each model for such an entry.
default_cfgs = {
    "lenet5": {"input_size": (3, 32, 32), "classifier": "classifier"},
    "small_image_stem": {"input_size": (3, 32, 32), "classifier": "fc", "first_conv": "conv1"},
}
HINTED_SIZES = (32, 64, 96, 128, 160, 224, 240, 256, 384)  # px; tried where a size will not do


class LeNet5(nn.Module):
    """LeNet-5's feature maps (LeCun et al. 1998): 6, 16 and 120 by 5x5 convolutions, then 84.

    At 32 px the third convolution sees exactly its 5x5 field, as in the paper; larger images
    are averaged after it. ReLU and max-pooling stand for the paper's squashing and averaging.

    Args:
        num_classes: outputs of a linear classifier on the features; 0 for none.
    """

    num_features = 84

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.maps = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(120, 84), nn.ReLU()),
        )
        # torch's default weights shrink the signal from layer to layer: without batch
        # normalisation the contrastive loss would stand still for dozens of epochs.
        for layer in self.maps:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.classifier = linear_head(84, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) images -> (n, 84) features, or (n, num_classes) logits."""
        return self.classifier(self.maps(images))

    def get_classifier(self) -> nn.Module:
        """The linear classifier, as timm's models name it."""
        return self.classifier


class ProjectionHead(nn.Module):
    """Linear, ReLU, Linear, then unit length: (n, in_features) -> (n, out_features)."""

    def __init__(self, in_features: int, out_features: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, in_features),
            nn.ReLU(inplace=True),
            nn.Linear(in_features, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(n, in_features) -> (n, out_features) of unit length, float32 or finer."""
        projected = self.layers(features)
        # Autocast's bfloat16 has three digits: too few for a length.
        finer = torch.promote_types(projected.dtype, torch.float32)
        return nn.functional.normalize(projected.to(finer), dim=1)


class ContrastiveModel(nn.Module):
    """A backbone with a projection head on it: (n, 3, h, w) -> (n, projection_dim)."""

    def __init__(self, backbone: nn.Module, projection_dim: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = ProjectionHead(backbone.num_features, projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) images -> (n, projection_dim) of unit length."""
        return self.projection(self.backbone(images))


class Classifier(nn.Module):
    """A backbone with a linear classifier on it: (n, 3, h, w) -> (n, classes)."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) images -> (n, classes) logits."""
        return self.head(self.backbone(images))


def linear_head(in_features: int, classes: int) -> nn.Linear:
    """A linear classifier: on a frozen backbone, or trained with it (cross-entropy)."""
    return nn.Linear(in_features, classes)


def check_backbone(name: str) -> None:
    """Raise ValueError, with the nearest names, for a backbone that nobody knows."""
    if timm.is_model(name):
        return
    matches = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
    hint = f"; nearest: {', '.join(matches)}" if matches else ""
    raise ValueError(f"backbone {name!r} is neither lenet5 nor a model name of timm{hint}")


def create_backbone(
    name: str, small_images: bool | None = False, image_size: int | None = None
) -> nn.Module:
    """Create a backbone with random weights, without its classifier.

    Args:
        name: ``lenet5`` or any model name of timm.
        small_images: 3x3 stride-1 first convolution and no max-pooling, to keep the detail of
            small images. None: where the backbone has such a stem and ``image_size`` is at
            most 64 px.
        image_size: side of the images in px. Given, the backbone is built for that size where
            its architecture depends on it, and one forward pass checks that it takes it.

    Returns:
        A module with ``num_features``: (n, 3, h, w) -> (n, num_features).

    Raises:
        ValueError: for an unknown name (with the nearest ones), a stem that cannot be changed,
            or an image size that the backbone does not take (with one that it does).
    """
    check_backbone(name)
    if small_images is None:
        small = image_size is not None and image_size <= SMALL_IMAGE_SIZE
        small_images = small and has_resnet_stem(_build(name, None))
    elif small_images and not has_resnet_stem(_build(name, None)):
        raise ValueError(
            f"small_images does nothing for {name!r}: the small-image stem is made for ResNets "
            "of timm, which begin with conv1 and maxpool; leave it out"
        )
    if image_size is not None and not _takes(name, image_size, small_images):
        sizes = (size for size in HINTED_SIZES if _takes(name, size, small_images))
        works = next(sizes, None)
        hint = f"; {works} px works" if works else ""
        too = "too small for" if works and works > image_size else "not a size of"
        raise ValueError(f"image_size {image_size} is {too} {name!r}{hint}")
    return _build(name, image_size, small_images)


def _build(name: str, image_size: int | None, small_images: bool = False) -> nn.Module:
    options = {} if image_size is None else size_options(name, image_size)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, **options)
    # Some of timm's models widen their features between the last map and the classifier.
    backbone.num_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    if small_images:
        _shrink_stem(backbone)
    return backbone


def size_options(name: str, image_size: int) -> dict[str, int]:
    """What timm must be told of the image size: nothing, but for an architecture made for one."""
    pretrained_cfg = timm.get_pretrained_cfg(name)
    fixed = pretrained_cfg is not None and pretrained_cfg.fixed_input_size
    return {"img_size": image_size} if fixed else {}


def _takes(name: str, image_size: int, small_images: bool) -> bool:
    """Whether the backbone can be built for an image size and one forward pass succeeds."""
    try:
        backbone = _build(name, image_size, small_images).eval()
        with torch.inference_mode():
            features = backbone(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError, IndexError):
        return False
    return features.shape == (1, backbone.num_features)


def has_resnet_stem(backbone: nn.Module) -> bool:
    """Whether the backbone begins as a ResNet: a strided convolution, then max-pooling."""
    return isinstance(getattr(backbone, "maxpool", None), nn.Module) and isinstance(
        getattr(backbone, "conv1", None), nn.Conv2d | nn.Sequential
    )


def has_small_stem(backbone: nn.Module) -> bool:
    """Whether the backbone begins as a ResNet whose stem was made for small images."""
    return has_resnet_stem(backbone) and isinstance(backbone.maxpool, nn.Identity)


def _shrink_stem(backbone: nn.Module) -> None:
    """Replace the strided first convolution by a 3x3 stride-1 one and drop max-pooling."""
    deep = isinstance(backbone.conv1, nn.Sequential)
    first = backbone.conv1[0] if deep else backbone.conv1
    smaller = nn.Conv2d(
        first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None
    )
    nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
    if deep:
        backbone.conv1[0] = smaller
    else:
        backbone.conv1 = smaller
    backbone.maxpool = nn.Identity()


# With these two names in its registry timm builds every model that an export writes, once
# this module is imported.
@register_model
def lenet5(pretrained: bool = False, **options: Any) -> nn.Module:
    """LeNet-5, for timm."""
    return build_model_with_cfg(
        LeNet5, "lenet5", pretrained, kwargs_filter=("in_chans", "global_pool"), **options
    )


@register_model
def small_image_stem(
    pretrained: bool = False, architecture: str = "resnet50", **options: Any
) -> nn.Module:
    """A model of timm with the small-image stem, for timm."""

    def build(**arguments: Any) -> nn.Module:
        model = timm.create_model(architecture, **arguments)
        _shrink_stem(model)
        return model

    return build_model_with_cfg(build, "small_image_stem", pretrained, **options)
