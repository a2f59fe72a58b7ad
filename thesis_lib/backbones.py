"""Create backbones: LeNet-5 or any timm model.

timm is imported only where it is needed, because it takes seconds to load; LeNet-5 needs none of
it.
"""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from thesis_lib.heads import linear_head

SMALL_IMAGE_SIZE = 64  # px; up to this size the small-image stem is the default
# px; if the backbone does not accept an image size, the error suggests the first that works
HINTED_SIZES = (32, 64, 96, 128, 160, 224, 240, 256, 384)


class LeNet5(nn.Module):
    """Compute the 84 features of LeNet-5 (LeCun et al. 1998).

    Three 5x5 convolutions with 6, 16 and 120 channels are followed by a linear layer with 84
    outputs. At 32 px the last feature map is 1x1, as in the paper; for larger images it is
    averaged. ReLU and max-pooling replace the paper's scaled tanh and average pooling.

    Args:
        num_classes: number of outputs of a linear classifier on the features; 0 for no
            classifier.
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
        # With PyTorch's default initialisation the activations shrink from layer to layer. As
        # LeNet-5 has no batch normalisation, the contrastive loss would not fall for dozens of
        # epochs.
        for layer in self.maps:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.classifier = linear_head(84, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to features (n, 84), or to logits (n, num_classes)."""
        return self.classifier(self.maps(images))

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier (the name of this method is timm's)."""
        return self.classifier


# name -> class, which is created without arguments; see docs/architecture.md for another one
OWN: dict[str, Any] = {"lenet5": LeNet5}


def check_backbone(name: str) -> None:
    """Raise ValueError, suggesting similar names, if a backbone does not exist."""
    if name in OWN:
        return
    import timm

    alone = name.removeprefix("timm/")
    if alone != name or ":" in name:  # hf-hub:OWNER/NAME, local-dir:FOLDER
        known = f", such as {alone!r}" if timm.is_model(alone) else ""
        raise ValueError(f"backbone {name!r} must be the name of a timm model alone{known}")
    if not timm.is_model(name):
        hint = _nearest(name, [*OWN, *timm.list_models()])
        raise ValueError(f"backbone {name!r} is neither lenet5 nor a timm model{hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # "resnet18.nonsense"
        architecture = name.split(".")[0]
        hint = _nearest(name, timm.list_pretrained(f"{architecture}.*"))
        raise ValueError(
            f"backbone {name!r} has a tag that timm's {architecture} does not have{hint}"
        ) from None


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=4, cutoff=0.4)
    return f"; nearest: {', '.join(matches)}" if matches else ""


def create_backbone(
    name: str,
    small_images: bool | None = False,
    image_size: int | None = None,
    zero_init_last: bool | None = None,
) -> nn.Module:
    """Create a backbone with random weights and without a classifier.

    Args:
        name: ``lenet5`` or the name of any timm model.
        small_images: whether to use the small-image stem of ResNets: a 3x3 stride-1 first
            convolution and no max-pooling, which keeps the detail of small images. With None, it
            is used if the backbone is a ResNet and ``image_size`` is at most 64 px.
        image_size: side of the square images in px. If given, architectures that depend on the
            image size are built for it, and a forward pass checks that the backbone accepts it.
        zero_init_last: whether the last normalisation of each residual block starts with zeros,
            so that the block does nothing at first (Goyal et al. 2017). With None, as timm does.

    Returns:
        A module that maps images (n, 3, h, w) to features (n, ``num_features``).

    Raises:
        ValueError: if the name is unknown (the message suggests similar names), if the stem or
            zero_init_last cannot be changed, or if the backbone does not accept the image size
            (the message suggests one that works).
    """
    check_backbone(name)
    with torch.device("meta"):
        changeable = has_resnet_stem(_build(name, None))
    if small_images is None:
        small_images = changeable and image_size is not None and image_size <= SMALL_IMAGE_SIZE
    elif small_images and not changeable:
        raise ValueError(
            f"small_images does not work with {name!r}: only timm's ResNets, which begin with "
            "conv1 and maxpool, have a small-image stem; leave it out"
        )
    if image_size is not None and not _accepts(name, image_size, small_images):
        works = next((size for size in HINTED_SIZES if _accepts(name, size, small_images)), None)
        hint = f"; {works} px works" if works else ""
        too = "too small for" if works and works > image_size else "not supported by"
        raise ValueError(f"image_size {image_size} is {too} {name!r}{hint}")
    if zero_init_last is None:
        return _build(name, image_size, small_images)
    try:
        return _build(name, image_size, small_images, zero_init_last=zero_init_last)
    except TypeError:
        raise ValueError(
            f"zero_init_last does not work with {name!r}: timm has this choice for ResNets and "
            "related models; leave it out"
        ) from None


def _build(
    name: str, image_size: int | None, small_images: bool = False, **options: bool
) -> nn.Module:
    if name in OWN:
        return OWN[name](**options)
    import timm

    sizes = {} if image_size is None else size_options(name, image_size)
    backbone = timm.create_model(name, pretrained=False, num_classes=0, **sizes, **options)
    # Some timm models have an extra layer between the last feature map and the classifier.
    backbone.num_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    if small_images:
        shrink_stem(backbone)
    return backbone


def size_options(name: str, image_size: int) -> dict[str, int]:
    """Return timm's ``img_size`` argument, for architectures built for a fixed image size only."""
    if name in OWN:
        return {}
    import timm

    pretrained_cfg = timm.get_pretrained_cfg(name)
    fixed = pretrained_cfg is not None and pretrained_cfg.fixed_input_size
    return {"img_size": image_size} if fixed else {}


def _accepts(name: str, image_size: int, small_images: bool) -> bool:
    """Return whether the backbone can be built for an image size and run on such an image.

    On the device "meta" torch computes shapes but no values: fast for large models as well, and
    no random number is drawn, so that the initial weights depend on the seed alone.
    """
    try:
        with torch.device("meta"), torch.inference_mode():
            backbone = _build(name, image_size, small_images).eval()
            features = backbone(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError, IndexError):
        return False
    return features.shape == (1, backbone.num_features)


def has_resnet_stem(backbone: nn.Module) -> bool:
    """Return whether the backbone begins like timm's ResNets: with ``conv1`` and ``maxpool``."""
    return isinstance(getattr(backbone, "maxpool", None), nn.Module) and isinstance(
        getattr(backbone, "conv1", None), nn.Conv2d | nn.Sequential
    )


def has_small_stem(backbone: nn.Module) -> bool:
    """Return whether the backbone is a ResNet with the small-image stem."""
    return has_resnet_stem(backbone) and isinstance(backbone.maxpool, nn.Identity)


def shrink_stem(backbone: nn.Module) -> None:
    """Replace the first convolution by a 3x3 stride-1 one and remove max-pooling."""
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
