"""How well classes that nobody trained on are told from known ones: measured by leaving some out.

The backbone has seen the classes that are left out; head and table have not. So this flatters all
three scores alike: of a class that the backbone has never seen less is found.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score, roc_curve

from thesis_lib.config import FALSE_POSITIVE_RATE, RunConfig
from thesis_lib.evaluation.knn import Index, unit_vectors
from thesis_lib.evaluation.linear_heads import train_heads

FOLDS = 5
TPR = 0.95
SCORES = ("similarity", "max softmax", "energy")


def measure_ood(
    train: np.ndarray,
    train_labels: np.ndarray,
    kept: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    classes: list[str],
    config: RunConfig,
) -> pd.DataFrame:
    """Leave a fifth of the classes out of table and head in turn, and find their images.

    Each class is left out once. The scores, high for what is known: cosine similarity to the
    nearest image of the table; the head's largest softmax probability (Hendrycks and Gimpel,
    ICLR 2017), as its log-odds, since most of them are 1 to the last digit; its negative energy,
    the log of the sum of exponentials of its logits (Liu et al., NeurIPS 2020). The head is
    trained on the same features, for each fold anew.

    Args:
        train: (n, d) features of the training images.
        train_labels: (n,) index ``classes``.
        kept: (n,) which of them the pruned table holds.
        queries: (m, d) features of other images.
        query_labels: (m,).
        classes: names.
        config: the ``head_*`` settings and the seed.

    Returns:
        A row a fold and score: fold, left_out (names), known_images, ood_images, score, auroc;
        fpr: the share of known images called novel where RECALL of the novel ones are
        found; found: the share of novel images found where FALSE_ALARMS of the known ones are
        called novel. Empty for fewer than three classes.
    """
    rows = []
    for fold, left_out in enumerate(class_folds(len(classes), config.seed), 1):
        known = ~np.isin(train_labels, left_out)
        novel = np.isin(query_labels, left_out)
        if novel.all() or not novel.any():
            continue
        scores = _scores(train, train_labels, known, kept, queries, query_labels, ~novel, config)
        facts = {
            "fold": fold,
            "left_out": "; ".join(classes[label] for label in left_out),
            "known_images": int((~novel).sum()),
            "ood_images": int(novel.sum()),
        }
        rows += [
            facts | {"score": name, **detection_metrics(scores[name], novel)} for name in SCORES
        ]
    return pd.DataFrame(rows)


def class_folds(classes: int, seed: int) -> Iterator[np.ndarray]:
    """Class numbers in FOLDS parts (fewer for few classes), each class in one; none below three."""
    if classes >= 3:
        order = np.random.default_rng(seed).permutation(classes)
        yield from map(np.sort, np.array_split(order, min(FOLDS, classes)))


def detection_metrics(known_score: np.ndarray, novel: np.ndarray) -> dict[str, float]:
    """How well a score (n,), high for what is known, finds the novel images (n,)."""
    fpr, recall, _ = roc_curve(novel, -known_score, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(novel, -known_score)),
        "fpr": float(fpr[np.argmax(recall >= TPR)]),
        "tpr": float(recall[fpr <= FALSE_POSITIVE_RATE].max()),
    }


def _scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    known: np.ndarray,
    kept: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    known_queries: np.ndarray,
    config: RunConfig,
) -> dict[str, np.ndarray]:
    """Each of SCORES for the queries, by a table and a head of the known classes alone."""
    # Pruning goes within classes: the table without some classes is the others' part of it.
    table = Index(unit_vectors(train[known & kept]))
    similarity, _ = table.search(unit_vectors(queries), 1)
    names, numbers = np.unique(train_labels[known], return_inverse=True)
    weights, _ = train_heads(
        torch.from_numpy(train[known])[None],
        torch.from_numpy(numbers),
        torch.from_numpy(queries[known_queries]),
        torch.from_numpy(np.searchsorted(names, query_labels[known_queries])),
        len(names),
        config,
    )
    logits = queries @ weights["weight"].numpy().T + weights["bias"].numpy()
    logits = np.sort(logits.astype(np.float64), axis=1)  # the largest last
    return {
        "similarity": similarity[:, 0],
        "max softmax": logits[:, -1] - logsumexp(logits[:, :-1], axis=1),
        "energy": logsumexp(logits, axis=1),
    }


def ood_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a score: mean over the folds, and lowest to highest fold, in %."""
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
