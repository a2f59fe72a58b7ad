"""Every plot of the workbook, in one style.

Each figure function takes plain data and returns a matplotlib Figure that pyplot no longer holds:
a notebook shows it once, as the last expression of a cell, and nothing leaks. Lengths are in
millimetres and text in points, both at print size. Importing the package sets the style;
`set_style` sets it again for a thesis of another text width.
"""

from thesis_lib.figures.data_set import (
    class_counts,
    image_pairs,
    image_sizes,
    sample_images,
    views,
)
from thesis_lib.figures.looking import picture_groups, threshold_curve
from thesis_lib.figures.results import (
    cell_colors,
    confusion_matrix,
    embedding,
    mistakes,
    per_class_f1,
    reliability,
    runs_accuracy,
)
from thesis_lib.figures.retrieval import novelty, retrieval_curve
from thesis_lib.figures.style import (
    BACKBONE_COLORS,
    BATCH_STYLES,
    BODY,
    CJK_FONTS,
    INCH,
    NAMED_CLASSES,
    OTHER_COLORS,
    OTHER_STYLES,
    PAGE_HEIGHT_MM,
    PALETTE,
    POINT,
    SMALL,
    SOURCE,
    SPLIT_COLORS,
    TEXT_WIDTH_MM,
    TICK,
    TINY,
    TITLE,
    class_numbers,
    figure_size,
    run_color,
    run_line_style,
    save,
    set_style,
)
from thesis_lib.figures.training import (
    checkpoint_accuracy,
    head_curves,
    head_learning_rates,
    loss_curves,
    pretraining,
)

__all__ = [
    "BACKBONE_COLORS",
    "BATCH_STYLES",
    "BODY",
    "CJK_FONTS",
    "INCH",
    "NAMED_CLASSES",
    "OTHER_COLORS",
    "OTHER_STYLES",
    "PAGE_HEIGHT_MM",
    "PALETTE",
    "POINT",
    "SMALL",
    "SOURCE",
    "SPLIT_COLORS",
    "TEXT_WIDTH_MM",
    "TICK",
    "TINY",
    "TITLE",
    "cell_colors",
    "checkpoint_accuracy",
    "class_counts",
    "class_numbers",
    "confusion_matrix",
    "embedding",
    "figure_size",
    "head_curves",
    "head_learning_rates",
    "image_pairs",
    "image_sizes",
    "loss_curves",
    "mistakes",
    "novelty",
    "per_class_f1",
    "picture_groups",
    "pretraining",
    "reliability",
    "retrieval_curve",
    "run_color",
    "run_line_style",
    "runs_accuracy",
    "sample_images",
    "save",
    "set_style",
    "threshold_curve",
    "views",
]
