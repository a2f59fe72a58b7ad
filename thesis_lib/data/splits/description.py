"""Describe a finished split in lines of text, from its ``manifest.csv``."""

import csv
from collections import Counter
from pathlib import Path

from thesis_lib.data.sources.manifests import manifest_counts

MOST_CLASSES = 100  # rows of the table of classes


def describe_split(folder: Path) -> list[str]:
    """Describe a split by a table of its classes, with their number of images in each split."""
    counts = manifest_counts(folder / "manifest.csv")
    splits = [name for name in ("train", "val", "test") if any(counts[name].values())]
    in_all: Counter[str] = sum(counts.values(), Counter())
    width = max(map(len, in_all))
    lines = [f"{'class':<{width}}" + "".join(f"{split:>9}" for split in splits)]
    for name, _ in in_all.most_common(MOST_CLASSES):
        lines.append(f"{name:<{width}}" + "".join(f"{counts[s][name]:>9,}" for s in splits))
    if len(in_all) > MOST_CLASSES:
        lines.append(f"and {len(in_all) - MOST_CLASSES:,} smaller classes, see manifest.csv")
    lines += [
        f"{folder / split}: {counts[split].total():,} images of {len(counts[split])} classes"
        for split in splits
    ]
    return lines


def describe_groups(manifest: Path) -> list[str]:
    """Describe a grouped split from its ``manifest.csv``; return lines of text."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = {row["group"] for row in rows if row["group"]}
    alone = sum(not row["group"] for row in rows)
    lines = [f"{len(names):,} groups; {alone:,} files do not match and form their own groups"]

    in_class = Counter(row["class"] for row in rows)
    in_split = Counter(row["split"] for row in rows)
    in_both = Counter((row["split"], row["class"]) for row in rows)
    splits = [split for split in ("train", "val", "test") if split in in_split]
    for split in splits:
        share = in_split[split] / len(rows)
        shares = {name: in_both[split, name] / total for name, total in in_class.items()}
        name = max(shares, key=lambda name: abs(shares[name] - share))
        lines.append(
            f"{split} has {100 * share:.1f} % of the images; the class that deviates most is "
            f"{name!r}, with {100 * shares[name]:.1f} % of its {in_class[name]:,} images"
        )
    lines += [
        f"{split} has no images of {name!r}"
        for split in splits
        for name in in_class
        if not in_both[split, name]
    ]
    return lines
