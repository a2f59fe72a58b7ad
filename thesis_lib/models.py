"""The models of this package, registered with timm.

Importing this module lets ``timm.create_model`` load every model that ``thesis export`` writes. It
takes seconds, as timm does; within the package, import from ``backbones`` and ``heads``.
"""

from typing import Any

import timm
from timm.models import build_model_with_cfg, register_model
from torch import nn

from thesis_lib.backbones import LeNet5, check_backbone, create_backbone, shrink_stem
from thesis_lib.heads import Classifier, ContrastiveModel, ProjectionHead, linear_head

__all__ = [
    "Classifier",
    "ContrastiveModel",
    "LeNet5",
    "ProjectionHead",
    "check_backbone",
    "create_backbone",
    "linear_head",
]

# timm's registry needs such an entry for each registered model.
default_cfgs = {
    "lenet5": {"input_size": (3, 32, 32), "classifier": "classifier"},
    "small_image_stem": {"input_size": (3, 32, 32), "classifier": "fc", "first_conv": "conv1"},
}


@register_model
def lenet5(pretrained: bool = False, **options: Any) -> nn.Module:
    """Create LeNet-5 through timm's registry."""
    return build_model_with_cfg(
        LeNet5, "lenet5", pretrained, kwargs_filter=("in_chans", "global_pool"), **options
    )


@register_model
def small_image_stem(
    pretrained: bool = False, architecture: str = "resnet50", **options: Any
) -> nn.Module:
    """Create a timm model with the small-image stem through timm's registry."""

    def build(**arguments: Any) -> nn.Module:
        model = timm.create_model(architecture, **arguments)
        shrink_stem(model)
        return model

    return build_model_with_cfg(build, "small_image_stem", pretrained, **options)
