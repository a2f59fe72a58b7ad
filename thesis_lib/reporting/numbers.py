"""Write every number that the text may quote as a LaTeX macro, in numbers.tex."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from thesis_lib.errors import InputError
from thesis_lib.evaluation.statistics import METRICS, Comparison, Summary, compare_with_head
from thesis_lib.methods import UNTRAINED
from thesis_lib.reporting.latex import comment, escape_latex
from thesis_lib.reporting.results import Results, data_results, results_of_run
from thesis_lib.reporting.tables.leaks import leak_table, metrics_without_leaks
from thesis_lib.reporting.tables.runs import head_facts, is_measured, percent
from thesis_lib.runs.artifacts import read_metrics, trained_fingerprint
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.runs.stages import is_done
from thesis_lib.system.files import read_json, write_text
from thesis_lib.system.paths import find_data
from thesis_lib.system.progress import elapsed_words

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def macro_name(*words: str) -> str:
    """Build a LaTeX macro name, with letters only: ``("test", "bs64")`` -> ``TestBsSixFour``."""
    text = " ".join(words)
    spelt = "".join(f" {DIGITS[int(c)]} " if c in "0123456789" else c for c in text)
    letters = "".join(c if c.isascii() and c.isalpha() else " " for c in spelt)
    return "".join(word[0].upper() + word[1:] for word in letters.split())


def write_numbers(results: Results) -> pd.DataFrame:
    """Write ``numbers.tex``, with one macro for each number that the text may quote.

    Args:
        results: the results of all runs on a data set.

    Returns:
        A table with columns macro and value, one row per number.

    Raises:
        InputError: if there are no runs.
    """
    if not results.runs:
        raise InputError(
            f"there are no runs on {results.config.data_name!r}, so there are no numbers to "
            "write; run notebooks 02 to 05 first"
        )
    numbers = chapter_numbers(results)
    head = comment("written by notebook 06; do not edit") + comment(results.source["line"])
    write_text(results.folder / "numbers.tex", head + numbers_text(numbers))
    rows = [{"macro": f"\\{macro_name(words)}", "value": v} for words, v in numbers.items()]
    return pd.DataFrame(rows, columns=["macro", "value"])


def numbers_text(numbers: Mapping[str, str]) -> str:
    r"""Format numbers as LaTeX, with one line ``\newcommand{\name}{value}`` each.

    Args:
        numbers: maps the words that name a number to its value.

    Raises:
        InputError: if two numbers would get the same macro name.
    """
    macros: dict[str, str] = {}
    for words, value in numbers.items():
        name = macro_name(words)
        if name in macros:
            raise InputError(
                f"two numbers would get the macro \\{name}, the second is {words!r}: macro names "
                "can only contain letters; give one of the runs another tag"
            )
        macros[name] = value
    lines = [f"\\newcommand{{\\{name}}}{{{escape_latex(v)}}}\n" for name, v in macros.items()]
    return "".join(lines)


def chapter_numbers(results: Results) -> dict[str, str]:
    """Collect every number that a results chapter may quote.

    Returns:
        Maps the words that name a number to its value as text.
    """
    numbers: dict[str, str] = {}
    for run in results.runs:
        numbers |= _training_numbers(run)
        if run.selection_file.is_file():
            numbers |= _selection_numbers(run)
        if is_done(run, "test"):
            numbers |= _test_numbers(run)
        if is_done(run, "retrieve"):
            numbers |= _retrieval_numbers(run)
    numbers |= _pair_numbers(results.pairs)
    for name, summaries in results.over_seeds.summaries.items():
        numbers |= _seed_numbers(name, summaries)
    if find_data(results.config.data).is_dir():
        numbers |= _data_numbers(results)
    return numbers


def _training_numbers(run: RunDirectory) -> dict[str, str]:
    """What is quoted of a run's pretraining; nothing before it has ended, or without one."""
    if not is_done(run, "pretrain") or run.config.method in UNTRAINED:
        return {}
    name, metrics = run.path.name, pd.DataFrame(read_metrics(run))
    numbers = {f"{name} epochs": str(run.config.epochs)}
    loss = metrics["loss"].iloc[-1]
    if not math.isnan(loss):  # unknown for imported checkpoints
        numbers[f"{name} last loss"] = f"{loss:.3f}"
    if is_measured(run):
        numbers[f"{name} elapsed"] = elapsed_words(metrics["seconds"].sum())
        numbers[f"{name} peak memory mib"] = f"{metrics['peak_memory_mib'].max():,.0f}"
    return numbers


def _selection_numbers(run: RunDirectory) -> dict[str, str]:
    """What is quoted of the choice on validation."""
    selection, name = read_json(run.selection_file), run.path.name
    low, high = selection["val_accuracy_interval"]
    return {
        f"{name} checkpoint": str(selection["checkpoint"]),
        **{f"{name} {words}": str(value) for words, value in head_facts(selection).items()},
        f"{name} val accuracy": percent(selection["val_accuracy"]),
        f"{name} val accuracy low": percent(low),
        f"{name} val accuracy high": percent(high),
    }


def _test_numbers(run: RunDirectory) -> dict[str, str]:
    """What is quoted of the final test."""
    test, name = read_json(run.test_file), run.path.name
    return {
        f"{name} test images": f"{test['n']:,}",
        **_metric_numbers(name, test),
        f"{name} temperature": f"{test['temperature']:.2f}",
        f"{name} calibration error": percent(test["calibration_error"]),
        f"{name} scaled calibration error": percent(test["calibration_error_scaled"]),
    }


def _metric_numbers(name: str, test: Mapping[str, Any]) -> dict[str, str]:
    """Each test metric with the ends of its interval."""
    numbers = {}
    for metric in METRICS:
        low, high = test[f"{metric}_interval"]
        numbers[f"{name} test {metric}"] = percent(test[metric])
        numbers[f"{name} test {metric} low"] = percent(low)
        numbers[f"{name} test {metric} high"] = percent(high)
    return numbers


def _pair_numbers(pairs: Sequence[Comparison]) -> dict[str, str]:
    """What is quoted of the comparisons of runs."""
    numbers = {}
    for pair in pairs:
        words = f"{pair.b} minus {pair.a}"
        numbers[f"{words} accuracy"] = percent(pair.difference)
        numbers[f"{words} accuracy low"] = percent(pair.low)
        numbers[f"{words} accuracy high"] = percent(pair.high)
        numbers[f"{words} p"] = f"{pair.p_holm:.3f}" if pair.p_holm >= 0.001 else "< 0.001"
    if pairs:
        numbers["pairs of runs"] = str(len(pairs))
        numbers["pairs shown to differ"] = str(sum(pair.is_shown for pair in pairs))
    return numbers


def _seed_numbers(name: str, summaries: Mapping[str, Summary]) -> dict[str, str]:
    """What is quoted of a configuration with several seeds: each metric's mean, SD and interval."""
    numbers = {f"{name} seeds": str(len(summaries["accuracy"].values))}
    if numbers[f"{name} seeds"] == "1":
        return {}
    for metric, summary in summaries.items():
        words = f"{name} over seeds test {metric}"
        numbers[words] = percent(summary.mean)
        numbers[f"{words} sd"] = percent(summary.sd)
        numbers[f"{words} low"] = percent(summary.low)
        numbers[f"{words} high"] = percent(summary.high)
    return numbers


def _retrieval_numbers(run: RunDirectory) -> dict[str, str]:
    """Collect the numbers of a run's look-up table."""
    test, choice = read_json(run.retrieval_test_file), read_json(run.table_choice_file)
    name = f"{run.path.name} table"
    numbers = {
        f"{name} threshold": f"{test['threshold']:.2f}",
        f"{name} images": f"{test['images']:,}",
        f"{name} of images": f"{choice['of_images']:,}",
        f"{name} mib": f"{test['index_mib']:.1f}",
    }
    numbers |= _metric_numbers(name, test)
    pair = compare_with_head(run)
    if pair is not None:
        numbers |= {
            f"{name} minus head accuracy": percent(pair.difference),
            f"{name} minus head accuracy low": percent(pair.low),
            f"{name} minus head accuracy high": percent(pair.high),
            f"{name} minus head p": f"{pair.p:.3f}" if pair.p >= 0.001 else "< 0.001",
        }
    return numbers


def _data_numbers(results: Results) -> dict[str, Any]:
    """Collect the numbers of the data set, and the test metrics without leaking images."""
    data = data_results(results.config)
    numbers = {"classes": str(len(data.dataset.classes))}
    for name, split in data.dataset.splits.items():
        numbers[f"{name} images"] = f"{len(split):,}"
    for row in leak_table(data.leaks, data.dataset).to_dict("records"):
        numbers[f"leaking test images {row['kind']}"] = f"{row['test images']:,}"
    for run in results.runs:
        if is_done(run, "test") and trained_fingerprint(run) == data.dataset.fingerprint:
            tested = results_of_run(run, "test")
            kept = metrics_without_leaks(tested.predictions, data.leaks, tested.classes)
            for row in kept[kept["test images"] == "without any leak"].to_dict("records"):
                name = f"{run.path.name} without leaks"
                numbers[f"{name} test images"] = f"{row['images']:,}"
                for metric in METRICS:
                    for end in ("", "_low", "_high"):
                        words = f"{name} test {metric}{end.replace('_', ' ')}"
                        numbers[words] = percent(row[metric + end])
    return numbers
