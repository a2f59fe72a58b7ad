"""Train a random forest on features: on region properties, or on principal components."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from thesis_lib.config import RunConfig
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.linear_heads import best_row, train_heads
from thesis_lib.heads import ForestHead
from thesis_lib.methods import LINEAR, REGIONS
from thesis_lib.system import machine

COMPONENTS = 50  # Panaiotis et al. (2026) classify the components of deep features by a forest
TREES = (100, 200, 300)
# Features that a split may choose from, as a share of all; by default scikit-learn's square root
FEATURE_SHARES = ("sqrt", 0.3)


def train_head(
    train: Labelled, val: Labelled, num_classes: int, config: RunConfig
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train the head that the settings ask for: see :func:`train_heads`, :func:`train_forest`."""
    train_one = train_heads if config.head == LINEAR else train_forest
    return train_one(train, val, num_classes, config)


def train_forest(
    train: Labelled, val: Labelled, num_classes: int, config: RunConfig
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train random forests; choose the number of trees and the features per split on validation.

    Images in which no organism was found, with features that are all 0, are left out of the
    training.

    Args:
        train: features (1, n, d) of the evaluation views, and labels (n,).
        val: features (m, d) and labels (m,).
        num_classes: number of classes.
        config: the seed and the method; deep features are projected onto principal components.

    Raises:
        InputError: if no organism was found in any training image.

    Returns:
        The weights of a :class:`thesis_lib.heads.ForestHead`, and one row per forest:
        head_epoch (the number of trees), train_loss (of the training images, each classified by
        the trees that were not trained on it), val_accuracy, head_learning_rate (NaN) and
        max_features.
    """
    features, labels = train.features[0].numpy(), train.labels.cpu().numpy()
    prior = torch.from_numpy(np.bincount(labels, minlength=num_classes) / len(labels)).float()
    found = features.any(axis=1)
    if not found.any():
        raise InputError(
            "no organism was found in any training image, so there is nothing to measure; look at "
            "the views in notebook 02, and whether a legend has to be cut off (crop_bottom)"
        )
    center, axes = _principal_components(features[found], config)
    projected = (features[found] - center) @ axes if axes.size else features[found]
    rows, best_weights = [], {}
    for share in FEATURE_SHARES:
        forest = RandomForestClassifier(
            max_features=share,
            oob_score=True,
            warm_start=True,
            random_state=config.seed,
            n_jobs=machine.num_cores(),
        )
        for num_trees in TREES:
            forest.set_params(n_estimators=num_trees).fit(projected, labels[found])
            weights = _forest_weights(forest, prior)
            weights |= {"center": torch.from_numpy(center), "axes": torch.from_numpy(axes)}
            logits = ForestHead(weights)(val.features.cpu())
            row = {
                "head_epoch": num_trees,
                "train_loss": _out_of_bag_loss(forest, labels[found]),
                "val_accuracy": (logits.argmax(1) == val.labels.cpu()).double().mean().item(),
                "head_learning_rate": float("nan"),
                "max_features": share,
            }
            rows.append(row)
            if best_row(rows) is row:
                best_weights = weights
    return best_weights, rows


def _principal_components(features: np.ndarray, config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the center (d,) and the axes (d, k) of the features; region properties keep theirs."""
    n, d = features.shape
    if config.method == REGIONS:
        return np.zeros(d, np.float32), np.zeros((d, 0), np.float32)
    components = PCA(min(COMPONENTS, n, d), random_state=config.seed).fit(features)
    return components.mean_.astype(np.float32), components.components_.T.astype(np.float32)


def _forest_weights(forest: RandomForestClassifier, prior: Tensor) -> dict[str, Tensor]:
    """Return the nodes of all trees as the weights of a ForestHead, without PCA."""
    trees = [tree.tree_ for tree in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])
    nodes = np.arange(roots[-1])

    def children(side: str) -> np.ndarray:
        own = [getattr(tree, f"children_{side}") for tree in trees]
        below = np.concatenate([a + root for a, root in zip(own, roots, strict=False)])
        return np.where(np.concatenate(own) < 0, nodes, below)  # -1: a leaf

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(tree, name) for tree in trees])

    # Leaves have images of a single class, unless images have the same features.
    label = forest.classes_[joined("value")[:, 0].argmax(1)]
    return {
        "feature": torch.from_numpy(joined("feature").clip(min=0).astype(np.int16)),
        "threshold": torch.from_numpy(_rounded_down(joined("threshold"))),
        "left": torch.from_numpy(children("left").astype(np.int32)),
        "right": torch.from_numpy(children("right").astype(np.int32)),
        "label": torch.from_numpy(label.astype(np.int16)),
        "roots": torch.from_numpy(roots[:-1].astype(np.int32)),
        "depth": torch.tensor(max(tree.max_depth for tree in trees)),
        "prior": prior,
    }


def _rounded_down(thresholds: np.ndarray) -> np.ndarray:
    """Return float32 numbers with which x <= threshold stays the same for each float32 x."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _out_of_bag_loss(forest: RandomForestClassifier, labels: np.ndarray) -> float:
    """Return the cross-entropy of the training images that some tree was not trained on."""
    own = np.searchsorted(forest.classes_, labels)
    shares = forest.oob_decision_function_[np.arange(len(own)), own]
    # A class without a vote counts as if it had half a vote.
    return float(-np.nanmean(np.log(shares.clip(min=0.5 / len(forest.estimators_)))))
