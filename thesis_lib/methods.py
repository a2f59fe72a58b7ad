"""The methods, the heads, and the settings that a method leaves no choice for."""

from typing import Any

# method that trains the backbone -> name of its loss
METHODS = {"supcon": "SupCon loss", "simclr": "NT-Xent loss", "cross-entropy": "cross-entropy"}
FROZEN = "frozen"  # the backbone stays as it starts
REGIONS = "regions"  # no backbone: region properties of the organism and a random forest
UNTRAINED = (FROZEN, REGIONS)  # methods without training; their only checkpoint is that of epoch 0
LINEAR, FOREST = "linear", "forest"
HEADS = {LINEAR: "linear head", FOREST: "random forest"}  # in figures and captions
NATURAL, PLAIN = "natural", "plain"
SAMPLINGS = (NATURAL, "sqrt", "balanced")  # how often pretraining draws an image
BALANCES = (PLAIN, "weighted", "logit-adjusted")  # the loss of the linear head
TIMM = "timm"  # the initial weights that timm has for the backbone

# The settings of pretraining and probing that a run without training uses. All others keep their
# defaults, so that the settings of the grid's trained runs do not make another run of it.
_ALWAYS = ("crop_bottom", "on_bad_image")
_MATTERS = {
    FROZEN: (
        *("weights", "image_size", "fit", "interpolation", "mean", "std"),
        *("small_images", "zero_init_last"),
        *("head", "head_epochs", "head_batch_size", "head_learning_rates", "head_views"),
        *("head_decay_epochs", "head_decay_rate", "head_balance", *_ALWAYS),
    ),
    REGIONS: _ALWAYS,
}
_IMPLIED: dict[str, dict[str, Any]] = {
    FROZEN: {"epochs": 0, "table_checkpoint": None},
    # One run for all backbones and batch sizes of a grid.
    REGIONS: {
        **{"epochs": 0, "table_checkpoint": None, "backbone": REGIONS, "batch_size": 32},
        "head": FOREST,
    },
}


def implied(method: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a method leaves no choice for: name -> value.

    Args:
        method: the run's method.
        defaults: the settings of pretraining and probing, with their defaults.
    """
    if method not in UNTRAINED:
        return {}
    unused = {name: value for name, value in defaults.items() if name not in _MATTERS[method]}
    return unused | _IMPLIED[method]
