"""Test backbones, small-image stem and heads, and a training step of the thesis's backbones."""

import re

import pytest
import timm
import torch
from torch import nn

from thesis_lib.losses import SupConLoss
from thesis_lib.models import (
    ContrastiveModel,
    LeNet5,
    ProjectionHead,
    check_backbone,
    create_backbone,
    linear_head,
)

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "size", "num_features"),
    [
        ("lenet5", 32, 84),
        ("lenet5", 47, 84),
        ("resnet50", 64, 2048),
        ("seresnext50_32x4d", 64, 2048),
        ("mobilenetv3_small_050", 64, 1024),  # the last feature map has 288 channels
        ("vit_tiny_patch16_224", 64, 192),
    ],
)
def test_backbone_turns_images_into_num_features(name, size, num_features):
    backbone = create_backbone(name, image_size=size).eval()
    with torch.inference_mode():
        features = backbone(torch.rand(2, 3, size, size))
    assert backbone.num_features == num_features
    assert features.shape == (2, num_features)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenetv3_small_050"])
def test_image_size_need_not_be_known(name):
    backbone = create_backbone(name).eval()
    with torch.inference_mode():
        assert backbone(torch.rand(2, 3, 64, 64)).shape == (2, backbone.num_features)


def test_checking_the_size_leaves_no_trace_in_the_backbone():
    backbone = create_backbone("resnet18", image_size=64)
    assert backbone.training
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(n.num_batches_tracked == 0 and (n.running_mean == 0).all() for n in norms)
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())


def test_weights_are_random_and_follow_torchs_seed():
    torch.manual_seed(1)
    one = create_backbone("lenet5", image_size=32).state_dict()
    torch.manual_seed(1)
    same = create_backbone("lenet5", image_size=32).state_dict()
    other = create_backbone("lenet5", image_size=32).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["maps.0.weight"], other["maps.0.weight"])


def stem_output(backbone: nn.Module, size: int) -> torch.Size:
    """Return the shape of the input of the first residual stage."""
    shapes = []
    hook = backbone.layer1.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    with torch.inference_mode():
        backbone.eval()(torch.rand(1, 3, size, size))
    hook.remove()
    return shapes[0]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnext50_32x4d", "resnet10t"])
def test_small_image_stem_keeps_the_resolution(name):
    small = create_backbone(name, small_images=True)
    assert stem_output(small, 32)[2:] == (32, 32)
    assert not any(isinstance(m, nn.MaxPool2d) for m in small.modules())
    first = next(m for m in small.modules() if isinstance(m, nn.Conv2d))
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert stem_output(create_backbone(name, small_images=False), 32)[2:] == (8, 8)


def test_apart_from_the_stem_the_small_image_backbone_is_timms():
    ours = create_backbone("resnet50", small_images=True).state_dict()
    timms = timm.create_model("resnet50", num_classes=0).state_dict()
    assert ours.keys() == timms.keys()
    differing = [key for key in ours if ours[key].shape != timms[key].shape]
    assert differing == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize(("size", "resolution"), [(32, 32), (64, 64), (65, 17), (96, 24)])
def test_small_image_stem_is_the_default_up_to_64_px(size, resolution):
    backbone = create_backbone("resnet18", small_images=None, image_size=size)
    assert stem_output(backbone, size)[2:] == (resolution, resolution)


@pytest.mark.parametrize("name", ["lenet5", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_other_backbones_refuse_the_small_image_stem_only_if_requested(name):
    create_backbone(name, small_images=None, image_size=32)
    with pytest.raises(ValueError, match=rf"small_images does not work with '{name}'"):
        create_backbone(name, small_images=True, image_size=32)


def test_given_small_images_wins_over_the_default():
    backbone = create_backbone("resnet18", small_images=False, image_size=64)
    assert stem_output(backbone, 64)[2:] == (16, 16)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet5O", "resnet50"), ("lenet", "lenet5"), ("seresnext50_32x4", "seresnext50_32x4d")],
)
def test_unknown_backbone_is_refused_with_near_names(name, near):
    for refuse in (check_backbone, create_backbone):
        with pytest.raises(ValueError, match=f"backbone '{name}' is neither") as caught:
            refuse(name)
        assert near in str(caught.value).split("nearest: ")[1].split(", ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18.nonsense", r"a tag that timm's resnet18 does not have; nearest: "),
        ("resnet18.", r"a tag that timm's resnet18 does not have"),
        ("timm/resnet18", r"must be the name of a timm model alone, such as 'resnet18'"),
        ("hf-hub:timm/resnet18.a1_in1k", r"must be the name of a timm model alone"),
        ("hf_hub:someone/else", r"must be the name of a timm model alone"),
        ("local-dir:/tmp/model", r"must be the name of a timm model alone"),
    ],
)
def test_what_cannot_be_built_is_refused_by_the_check(name, words):
    for refuse in (check_backbone, create_backbone):
        with pytest.raises(ValueError, match=words) as caught:
            refuse(name)
        assert "\n" not in str(caught.value)


def test_a_pretrained_tag_is_a_name():
    assert create_backbone("resnet18.a1_in1k").num_features == 512


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lenet5", 16),
        ("lenet5", 27),
        ("inception_v4", 32),
        ("vit_tiny_patch16_224", 8),
        ("resmlp_12_224", 8),  # timm cannot build it for this size
    ],
)
def test_too_small_an_image_is_refused_with_a_size_that_works(name, size):
    with pytest.raises(ValueError, match=f"image_size {size}") as caught:
        create_backbone(name, image_size=size)
    assert "\n" not in str(caught.value)
    works = re.search(r"(\d+) px works", str(caught.value))
    assert works, str(caught.value)
    create_backbone(name, image_size=int(works[1]))


def test_a_model_larger_than_memory_is_checked_without_building_it():
    with pytest.raises(ValueError, match="image_size 7 is too small for 'vit_7b_patch16_dinov3'"):
        create_backbone("vit_7b_patch16_dinov3", image_size=7)  # 27 GB of weights


@pytest.mark.parametrize("small_images", [None, True])
def test_initial_weights_depend_on_the_seed_alone(small_images):
    torch.manual_seed(3)
    expected = timm.create_model("resnet18", num_classes=0)
    torch.manual_seed(3)
    backbone = create_backbone("resnet18", small_images, image_size=64)
    assert torch.equal(backbone.layer4[1].conv2.weight, expected.layer4[1].conv2.weight)


@pytest.mark.parametrize("name", ["resnet18", "seresnext50_32x4d", "test_resnet"])
def test_the_last_normalisation_of_a_block_starts_with_zeros_or_ones(name):
    started = {}
    for zero_init_last in (None, True, False):
        torch.manual_seed(0)
        started[zero_init_last] = create_backbone(name, None, 64, zero_init_last).state_dict()
    ones = started[False]
    differing = [k for k, v in started[True].items() if not torch.equal(v, ones[k])]
    assert all(torch.equal(v, started[True][k]) for k, v in started[None].items())  # timm's way
    assert differing and all(re.fullmatch(r"layer\d\.\d+\.bn[23]\.weight", k) for k in differing)
    assert all((started[True][k] == 0).all() and (ones[k] == 1).all() for k in differing)


@pytest.mark.parametrize("name", ["lenet5", "efficientnet_lite0", "vit_tiny_patch16_224"])
def test_a_backbone_without_this_choice_refuses_it(name):
    with pytest.raises(ValueError, match=f"zero_init_last does not work with '{name}'"):
        create_backbone(name, zero_init_last=False)


def test_lenet5_has_the_feature_maps_of_the_paper():
    shapes = [tuple(p.shape) for p in LeNet5().parameters() if p.ndim > 1]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 16, 5, 5), (84, 120)]
    # in the paper, at 32 px: C1 28x28, S2 14x14, C3 10x10, S4 5x5, C5 1x1
    sizes, x = [], torch.rand(1, 3, 32, 32)
    for layer in LeNet5().maps:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1)]


def test_lenet5_passes_its_signal_on():
    torch.manual_seed(0)
    features = LeNet5()(torch.randn(64, 3, 32, 32))
    assert 0.2 < features.std(0).mean() < 5  # 0.02 with PyTorch's default initialisation


def test_projection_head_is_linear_relu_linear_on_the_unit_sphere():
    torch.manual_seed(0)
    head, features = ProjectionHead(16, 8), torch.randn(5, 16)
    projected = head(features)
    assert projected.shape == (5, 8)
    assert torch.allclose(projected.norm(dim=1), torch.ones(5), atol=1e-6)
    first, second = (m for m in head.modules() if isinstance(m, nn.Linear))
    plain = (features @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    assert torch.allclose(projected, plain / plain.norm(dim=1, keepdim=True), atol=1e-6)
    assert first.weight.shape == (16, 16)
    assert ProjectionHead(4)(torch.randn(1, 4)).shape == (1, 128)


def test_linear_head_is_one_layer_with_a_bias():
    head = linear_head(84, 10)
    assert [tuple(p.shape) for p in head.parameters()] == [(10, 84), (10,)]


@pytest.mark.parametrize("name", ["resnet50", "seresnext50_32x4d"])
def test_thesis_backbone_takes_a_real_step_at_224_px(name):
    torch.manual_seed(0)
    model = ContrastiveModel(create_backbone(name)).train()
    assert model.projection.layers[0].weight.shape == (2048, 2048)
    assert model.projection.layers[2].weight.shape == (128, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.016, momentum=0.9, weight_decay=1e-4)
    before = {key: value.clone() for key, value in model.named_parameters()}
    images = torch.randn(4, 3, 224, 224)  # two images, two views each
    projected = model(images)
    assert projected.shape == (4, 128)
    loss = SupConLoss()(projected.unflatten(0, (2, 2)), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and loss.item() > 0
    after = dict(model.named_parameters())
    assert all(torch.isfinite(p.grad).all() for p in after.values())
    weights = [key for key, value in before.items() if value.ndim > 1]
    assert len(weights) > 50
    unchanged = [key for key in weights if torch.equal(before[key], after[key])]
    assert unchanged == []
    first = "backbone.conv1.weight"
    assert (
        after[first] - before[first]
    ).abs().max() > 1e-5  # more than weight decay alone would change


def test_size_is_tried_with_the_stem_that_will_be_used():
    create_backbone("resnetaa34d", small_images=False, image_size=65)
    with pytest.raises(ValueError, match=r"image_size 65 is .* 'resnetaa34d'; \d+ px works"):
        create_backbone("resnetaa34d", small_images=True, image_size=65)


@pytest.mark.parametrize("name", ["resnetv2_50", "densenet121"])
def test_other_stems_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="only timm's ResNets, which begin with conv1 and maxpool"):
        create_backbone(name, small_images=True)
