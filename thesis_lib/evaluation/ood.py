"""Measure out-of-distribution (OOD) detection by leaving classes out.

Images of the left-out classes count as OOD. The linear head and the look-up table are made
without these classes, but the backbone was pretrained on them. The results are therefore
optimistic for all three scores: OOD images of classes that are new to the backbone as well are
harder to detect.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score, roc_curve

from thesis_lib.config import FALSE_POSITIVE_RATE, RunConfig
from thesis_lib.evaluation.features import Labelled
from thesis_lib.evaluation.knn import Index, unit_vectors
from thesis_lib.evaluation.linear_heads import train_heads

FOLDS = 5
TPR = 0.95
SCORES = ("similarity", "max softmax", "energy")


def measure_ood(
    train: Labelled, kept: np.ndarray, queries: Labelled, classes: list[str], config: RunConfig
) -> pd.DataFrame:
    """Measure how well three scores separate images of left-out classes from known classes.

    The classes are divided into five folds. Each fold is left out of the look-up table and of a
    newly trained linear head once, and its query images count as OOD. The scores, which are high
    for known classes, are:

    - similarity: the cosine similarity to the nearest image in the look-up table;
    - max softmax: the head's largest softmax probability (Hendrycks and Gimpel, ICLR 2017), as
      log-odds, since most of the probabilities would be rounded to 1;
    - energy: the head's negative energy, which is the logarithm of the sum of the exponentials
      of its logits (Liu et al., NeurIPS 2020).

    Args:
        train: (n, d) features of the training images; labels are indices into ``classes``.
        kept: (n,) bool, whether the pruned table keeps the image.
        queries: (m, d) features of the query images.
        classes: class names.
        config: the ``head_*`` settings and the seed.

    Returns:
        One row per fold and score: fold, left_out (class names), known_images, ood_images,
        score, auroc, fpr (the fraction of known images flagged as OOD when TPR of the OOD images
        are detected) and tpr (the fraction of OOD images detected when at most
        FALSE_POSITIVE_RATE of the known images are flagged). Empty for fewer than three classes.
    """
    rows = []
    for fold, left_out in enumerate(class_folds(len(classes), config.seed), 1):
        is_ood = np.isin(queries.labels, left_out)
        if is_ood.all() or not is_ood.any():
            continue
        scores = _scores(train, kept, queries, left_out, config)
        facts = {
            "fold": fold,
            "left_out": "; ".join(classes[label] for label in left_out),
            "known_images": int((~is_ood).sum()),
            "ood_images": int(is_ood.sum()),
        }
        rows += [
            facts | {"score": name, **detection_metrics(scores[name], is_ood)} for name in SCORES
        ]
    return pd.DataFrame(rows)


def class_folds(num_classes: int, seed: int) -> Iterator[np.ndarray]:
    """Divide the class indices at random into FOLDS folds, or one fold per class if fewer.

    With fewer than three classes there are no folds, since leaving one out would leave only one.
    """
    if num_classes >= 3:
        order = np.random.default_rng(seed).permutation(num_classes)
        yield from map(np.sort, np.array_split(order, min(FOLDS, num_classes)))


def detection_metrics(known_score: np.ndarray, is_ood: np.ndarray) -> dict[str, float]:
    """Compute AUROC, FPR and TPR of detecting OOD images by a low score.

    Args:
        known_score: (n,) score, high for images of known classes.
        is_ood: (n,) bool, whether each image is OOD.

    Returns:
        auroc, fpr (at a true positive rate of TPR) and tpr (at a false positive rate of
        FALSE_POSITIVE_RATE), as fractions.
    """
    fpr, tpr, _ = roc_curve(is_ood, -known_score, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(is_ood, -known_score)),
        "fpr": float(fpr[np.argmax(tpr >= TPR)]),
        "tpr": float(tpr[fpr <= FALSE_POSITIVE_RATE].max()),
    }


def _scores(
    train: Labelled, kept: np.ndarray, queries: Labelled, left_out: np.ndarray, config: RunConfig
) -> dict[str, np.ndarray]:
    """Compute SCORES for the queries, with a table and a head of the known classes only."""
    known, known_queries = (~np.isin(data.labels, left_out) for data in (train, queries))
    # Pruning is done within classes, so leaving classes out does not change it for the others.
    table = Index(unit_vectors(train.features[known & kept]))
    similarity, _ = table.search(unit_vectors(queries.features), 1)
    known_labels, new_labels = np.unique(train.labels[known], return_inverse=True)
    query_labels = np.searchsorted(known_labels, queries.labels[known_queries])
    weights, _ = train_heads(
        Labelled(torch.from_numpy(train.features[known])[None], torch.from_numpy(new_labels)),
        Labelled(torch.from_numpy(queries.features[known_queries]), torch.from_numpy(query_labels)),
        len(known_labels),
        config,
    )
    logits = queries.features @ weights["weight"].numpy().T + weights["bias"].numpy()
    logits = np.sort(logits.astype(np.float64), axis=1)  # the largest last
    return {
        "similarity": similarity[:, 0],
        "max softmax": logits[:, -1] - logsumexp(logits[:, :-1], axis=1),
        "energy": logsumexp(logits, axis=1),
    }


def ood_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Make a table with one row per score: the mean over the folds and their range, in %."""
    found = []
    for name in SCORES if len(rows) else ():
        folds = rows[rows["score"] == name]
        row = {"score": name}
        for column, words in (
            ("auroc", "AUROC"),
            ("fpr", f"FPR at {100 * TPR:.0f} % TPR"),
            ("tpr", f"TPR at {100 * FALSE_POSITIVE_RATE:.0f} % FPR"),
        ):
            values = 100 * folds[column]
            row[words] = f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"
        found.append(row)
    return pd.DataFrame(found)
