"""What sampling by class and balanced heads cost and gain on long-tailed digits, over six seeds.

``python -m benchmarks.balance`` writes ``results/balance.md``. The training set is long-tailed: its
largest class has 100 times as many images as its smallest. All classes have as many validation and
test images, so that the recall of each class is known. The accuracy on images in the proportions of
the training set is the mean recall, weighted by them.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from thesis_lib.config import RunConfig
from thesis_lib.data.datasets import open_dataset
from thesis_lib.data.demo import write_digits
from thesis_lib.evaluation import classification_metrics, final_test, probe_checkpoints
from thesis_lib.methods import BALANCES, SAMPLINGS
from thesis_lib.runs.artifacts import read_predictions
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import write_text
from thesis_lib.training import pretrain

SEEDS = (1, 2, 3, 4, 5, 6)
IMBALANCE, HELD_OUT = 100, 27  # and images of each class in val, and in test
CONFIGURATIONS = [
    *((SAMPLINGS[0], balance) for balance in BALANCES),
    *((sampling, BALANCES[0]) for sampling in SAMPLINGS[1:]),
    ("sqrt", "logit-adjusted"),
]
METRICS = {
    "accuracy": "accuracy in the proportions of train",
    "recall": "balanced accuracy",
    "f1": "macro F1",
    "rare": "recall of the three rarest classes",
}
RESULTS = Path(__file__).parent / "results" / "balance.md"


def write_long_tail(folder: Path) -> None:
    """Write ``folder/data/tail/{train,val,test}/<class>/``; the digit 0 is the most frequent."""
    write_digits(folder / "all")
    classes = sorted((folder / "all").iterdir())
    for place, images in enumerate(sorted(path.iterdir()) for path in classes):
        most = len(images) - 2 * HELD_OUT
        kept = max(1, round(most * IMBALANCE ** (-place / (len(classes) - 1))))
        ends = {"val": HELD_OUT, "test": 2 * HELD_OUT, "train": 2 * HELD_OUT + kept}
        start = 0
        for split, end in ends.items():
            target = folder / "data" / "tail" / split / classes[place].name
            target.mkdir(parents=True)
            for image in images[start:end]:
                image.rename(target / image.name)
            start = end


def measured(run: RunDirectory, train: pd.Series) -> dict[str, float]:
    """Return METRICS of a tested run, as fractions."""
    predictions = read_predictions(run)
    found = classification_metrics(predictions["true"], predictions["predicted"], list(train.index))
    right = predictions["true"] == predictions["predicted"]
    recall = right.groupby(predictions["true"]).mean().loc[train.index]
    return {
        "accuracy": float(np.average(recall, weights=train)),
        "recall": found["recall"],
        "f1": found["f1"],
        "rare": float(recall[train.nsmallest(3).index].mean()),
    }


def measure() -> pd.DataFrame:
    """Train, probe and test all configurations; one row per configuration and seed."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        write_long_tail(Path())
        train = open_dataset("data/tail").counts()["train"]
        rows = []
        for seed in SEEDS:
            for sampling, balance in CONFIGURATIONS:
                config = RunConfig(
                    data="data/tail",
                    backbone="lenet5",
                    batch_size=64,
                    image_size=32,
                    learning_rate=0.05,
                    epochs=80,
                    save_every=10,
                    head_views=0,
                    seed=seed,
                    sampling=sampling,
                    head_balance=balance,
                    tag=sampling,  # heads of other losses are trained on the same backbone
                )
                with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                    run = RunDirectory(config)
                    if not run.metrics_file.is_file():
                        pretrain(config)
                    probe_checkpoints(run)
                    final_test(run)
                rows.append(
                    {"sampling": sampling, "head_balance": balance, "seed": seed}
                    | measured(run, train)
                )
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> str:
    """Return a Markdown table: mean, SD, and the paired difference from natural and plain."""
    natural = rows[(rows["sampling"] == SAMPLINGS[0]) & (rows["head_balance"] == BALANCES[0])]
    lines = [
        f"| sampling | head | {' | '.join(METRICS.values())} |",
        f"|---|---|{'---|' * len(METRICS)}",
    ]
    for sampling, balance in CONFIGURATIONS:
        own = rows[(rows["sampling"] == sampling) & (rows["head_balance"] == balance)]
        cells = []
        for name in METRICS:
            values = 100 * own[name].to_numpy()
            cell = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
            if not own.equals(natural):
                difference = values - 100 * natural[name].to_numpy()
                margin = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
                low, high = difference.mean() - margin, difference.mean() + margin
                cell += f" ({difference.mean():+.1f}; {low:+.1f} to {high:+.1f})"
            cells.append(cell)
        lines.append(f"| {sampling} | {balance} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the table."""
    found = table(measure())
    print(found)
    about = (
        f"LeNet-5, 80 epochs, batch 64; {len(SEEDS)} seeds. The largest class has {IMBALANCE} "
        "times as many training images as the smallest. Mean ± standard deviation over seeds (%), "
        "and the difference from natural sampling with a plain head, paired by seed, with its 95 % "
        "interval (t distribution)."
    )
    title = "# Sampling and balanced heads on long-tailed digits"
    write_text(RESULTS, f"{title}\n\n{about}\n\n{found}\n")


if __name__ == "__main__":
    main()
