"""Figures have one style, exact widths and readable text."""

import re
import time
import warnings
from functools import cache
from itertools import combinations, product

import matplotlib

matplotlib.use("Agg")

import matplotlib.image as mpimg
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from thesis_lib import figures
from thesis_lib.data.framing import visible_shares

SOURCE = {"line": "data set digits (fingerprint 0123); runs: none; code: abc", "part": "data"}
FEW = ["Actinoptychus", "Bacillariophyceae", "Chaetoceros", "Ditylum", "Odontella", "Rhizosolenia"]
MANY = [f"{i:03d}_Megalopa larva_Phase {i % 3}_Type {chr(65 + i % 26)}" for i in range(1, 88)]
ONE_LONG = ["n" * 90, *(f"species {i} of a genus" for i in range(86))]
LONG = [f"{i:03d}_" + "n" * 86 for i in range(87)]
THREE_HUNDRED = [f"{i:03d}_Megalopa larva_Phase {i % 3}" for i in range(300)]
COMMON_BACKBONES = [
    *("resnet18", "resnet34", "resnet101", "resnext50_32x4d", "densenet121", "vgg16"),
    *("efficientnet_b0", "mobilenetv3_large_100", "convnext_tiny", "regnety_032", "inception_v3"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    "swin_tiny_patch4_window7_224",
]
HOSTILE = ["$x$ and $y", "a_b^{2}", "R&D 100%", "Ωμέγα", "中文", "日本語", "\\alpha # ~", "x" * 90]


@pytest.fixture(autouse=True)
def style():
    figures.set_style()  # also resets the warning filters, which pytest replaces for each test
    yield
    figures.set_style()


def pairs_of(images, classes, others):
    """Pair each image with the next, with a caption as in thesis_lib.data.leakage."""
    captions = [
        f"near-duplicate, 2 of 64 bits\ntest: {a}\ntrain: {b}"
        for a, b in zip(classes, others, strict=True)
    ][: len(images)]
    return list(zip(images, images[1:] + images[:1], captions, strict=True))


def of_classes(classes):
    """Draw every figure that shows class names, on made-up data."""
    rng, k = np.random.default_rng(0), len(classes)
    images = [rng.integers(0, 255, (9 + i % 7, 12, 3), dtype=np.uint8) for i in range(12)]
    numbers = np.array(classes, dtype=object)
    true, wrong = np.resize(numbers, 300), numbers[rng.integers(k, size=300)]
    predicted = np.where(rng.random(300) < 0.9, true, wrong)
    xy = rng.normal(size=(300, 2))
    points = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "true": true, "predicted": predicted})
    counts = pd.DataFrame(rng.integers(0, 3000, (k, 3)), classes, ["train", "val", "test"])
    f1 = pd.DataFrame({"class": classes, "support": counts["train"] + 1, "f1": rng.random(k)})
    lengths = pd.DataFrame({"class": true, "mm": rng.lognormal(-0.5, 0.8, 300)})
    runs = [f"resnet50-bs32-seed{n}-a-tag-that-is-long" for n in range(3)]
    beside = pd.DataFrame(
        {"class": np.repeat(classes, 3), "run": runs * k, "f1": rng.random(3 * k)}
    )
    beside["f1_low"], beside["f1_high"] = beside["f1"] * 0.9, 1 - (1 - beside["f1"]) * 0.9
    captions = [f"true: {a}\npredicted: {b} 99.1 %" for a, b in zip(true, wrong, strict=True)][:12]
    matrix = rng.integers(0, 2, (k, k)) + 900 * np.eye(k, dtype=int)
    return {
        "class_counts": figures.data_set.class_counts(counts),
        "sample_images": figures.data_set.sample_images({name: images[:4] for name in classes}),
        "views": figures.data_set.views(
            images[:6], [images[:6], images[:6]], images[:6], classes[:6]
        ),
        "confusion_matrix": figures.results.confusion_matrix(matrix, classes, normalize=False),
        "confusion_matrix_shares": figures.results.confusion_matrix(
            matrix, classes, normalize=True
        ),
        "embedding": figures.results.embedding(points, classes),
        "mistakes": figures.results.mistakes(images, captions),
        "image_pairs": figures.data_set.image_pairs(pairs_of(images, true, wrong), "none"),
        "per_class_f1": figures.results.per_class_f1(f1),
        "class_f1": figures.class_f1.class_f1(beside),
        "size_spectrum": figures.sizes.size_spectrum(lengths),
    }


def of_runs():
    """Draw every figure that shows runs, on made-up data."""
    epochs = np.arange(1, 41)
    raw = pd.DataFrame({"epoch": epochs, "loss": 4 / epochs, "learning_rate": 0.1 / epochs})
    metrics = raw.assign(smoothed=raw["loss"])
    two, imported = metrics[:2], metrics[29::10].assign(loss=np.nan, smoothed=np.nan)
    checkpoints = figures.training.Checkpoints
    probe = pd.DataFrame({"checkpoint": [30, 40], "val_accuracy": [0.912, 0.934]})
    probe["val_accuracy_low"] = probe["val_accuracy"] - 0.01
    probe["val_accuracy_high"] = probe["val_accuracy"] + 0.01
    probe["knn_accuracy"] = [0.92, 0.93]
    curves = pd.DataFrame({"checkpoint": np.repeat([30, 40], 5), "head_epoch": [1, 2, 3, 4, 5] * 2})
    curves["train_loss"], curves["val_accuracy"] = 1 / curves["head_epoch"], 0.9
    rates = pd.concat([curves.assign(head_learning_rate=rate) for rate in (0.025, 0.25, 2.5)])
    backbones = {f"{b}-bs{n}": b for b in ("resnet50", "lenet5") for n in (32, 64)}
    batch_sizes = {run: int(run[-2:]) for run in backbones}
    runs = pd.DataFrame({"run": backbones.keys(), "backbone": backbones.values()})
    runs = runs.assign(batch_size=32, accuracy=0.95, low=0.94, high=0.96, published=0.951)
    seeds = pd.DataFrame(
        {"configuration": [*backbones] * 2, "mean": 0.95, "low": 0.93, "high": 0.99}
    )
    seeds["metric"] = np.repeat(["accuracy", "macro F1"], 4)
    seeds["values"] = [(0.95,)] + [(0.945, 0.95, 0.955)] * 7
    sizes = pd.DataFrame({"split": ["train", "val"] * 4, "width": 8, "height": 8})
    edges = np.arange(15) / 15
    bins = {"low": edges, "high": edges + 1 / 15, "images": np.arange(15) ** 3}
    bins["accuracy"] = np.where(np.arange(15) > 3, edges, np.nan)
    reliability = pd.concat([pd.DataFrame({"temperature": t, **bins}) for t in (1, 25.68)])
    share = np.arange(1, 101) / 100
    curve = pd.DataFrame({"threshold": np.arange(80, 101) / 100, "split": "val"})
    curve = curve.assign(accuracy=0.93, accuracy_low=0.92, accuracy_high=0.94)
    curve = curve.assign(index_mib=curve.index * 9.0, seconds_per_image=curve.index * 1e-4)
    tested = curve[9:10].assign(split="test")
    scores = np.repeat(["similarity", "max softmax", "energy"], 5)
    ood = pd.DataFrame({"score": scores, "auroc": 0.9, "fpr": np.arange(15) / 20})
    return {
        "retrieval_curve": figures.retrieval.retrieval_curve(
            pd.concat([curve, tested]), 0.89, "C0", 0.94, curve.assign(accuracy=0.95)
        ),
        "retrieval_curves": figures.retrieval.retrieval_curve(
            pd.concat([curve.assign(split="train"), curve.assign(split="test")]),
            *(1.0, "C0", None, curve[:0]),
        ),
        "ood": figures.retrieval.ood(ood),
        "pretraining": figures.training.pretraining(
            metrics, checkpoints([10, 20, 30, 40], 30, 25), "C0", "SupCon loss"
        ),
        "pretraining_two": figures.training.pretraining(
            two, checkpoints([2], 1, None), "C0", "cross-entropy"
        ),
        "pretraining_imported": figures.training.pretraining(
            imported, checkpoints([30, 40], 30, None), "C0", "SupCon loss"
        ),
        "loss_curves": figures.runs.loss_curves(
            dict.fromkeys(backbones, raw), backbones, batch_sizes, "SupCon loss"
        ),
        "checkpoint_accuracy": figures.training.checkpoint_accuracy(probe, 40, "C0", "linear head"),
        "checkpoint_accuracy_one": figures.training.checkpoint_accuracy(
            probe[:1], 30, "C0", "random forest"
        ),
        "checkpoint_accuracy_frozen": figures.training.checkpoint_accuracy(
            probe[:1].assign(checkpoint=0), 0, "C0", "linear head"
        ),
        "head_curves": figures.training.head_curves(curves, 40),
        "head_curves_one": figures.training.head_curves(curves[:5], 30),
        "head_learning_rates": figures.training.head_learning_rates(rates, 40),
        "runs_accuracy": figures.runs.runs_accuracy(runs),
        "accuracy_against_hours": figures.runs.accuracy_against_hours(
            runs.assign(hours=[0, 0.2, 3, 90], method=["frozen", "supcon", "supcon", "simclr"]),
            {"most frequent class": 0.16, "random by prevalence": 0.08},
        ),
        "accuracy_against_hours_untrained": figures.runs.accuracy_against_hours(
            runs.assign(hours=0, method="frozen"), {}
        ),
        "seeds": figures.runs.seeds(seeds),
        "reliability": figures.confidence.reliability(reliability, (0.0735, 0.0366)),
        "rejection": figures.confidence.rejection(
            pd.DataFrame({"coverage": share, "accuracy": 1 - 0.1 * share, "oracle": 1.0}),
            {"accuracy": 0.95, "oracle": 0.999},
            {"90 %": (1.0, 0.9), "95 %": (0.51, 0.948), "99 %": (0.5, 0.95)},
        ),
        "image_sizes": figures.sizes.image_sizes(sizes),
        "visible_share": figures.sizes.visible_share(visible_shares(sizes), 0.8),
        "no_mistakes": figures.results.mistakes([], []),
        "no_image_pairs": figures.data_set.image_pairs([], "no leaks found"),
    }


def of_many_classes(kind, classes):
    """Draw a confusion matrix or an embedding with a class key, on made-up data."""
    k = len(classes)
    if kind == "confusion_matrix":
        return figures.results.confusion_matrix(
            900 * np.eye(k, dtype=int), classes, normalize=False
        )
    xy = np.random.default_rng(0).random((3 * k, 2))
    true = np.resize(np.array(classes, dtype=object), 3 * k)
    points = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "true": true, "predicted": true})
    return figures.results.embedding(points, classes)


@pytest.fixture(scope="module")
def drawn():
    figures.set_style()
    named = {"few": of_classes(FEW), "many": of_classes(MANY), "hostile": of_classes(HOSTILE)}
    every = {f"{name}-{kind}": f for kind, group in named.items() for name, f in group.items()}
    return every | of_runs()


@cache
def texts(figure):
    """Return (text, extent in pixels) of all texts that a figure actually draws."""
    drawn, draw = [], Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw_without_rendering()
    return [(text, Text.get_window_extent(text)) for text in dict.fromkeys(drawn)]


def pixel_width(path):
    return mpimg.imread(path).shape[1]


def test_saved_width_is_the_text_width(tmp_path):
    figures.set_style(text_width=120)
    png = figures.save(figures.results.mistakes([], []), tmp_path / "plot", SOURCE)[1]
    assert pixel_width(png) / plt.rcParams["savefig.dpi"] * 25.4 == pytest.approx(120, rel=0.01)
    assert plt.rcParams["savefig.dpi"] >= 200


def test_figure_size_is_a_fraction_of_the_text_width():
    assert figures.figure_size(0.5, 2.0) == pytest.approx((80 / 25.4, 160 / 25.4))
    figures.set_style(text_width=100)
    assert figures.figure_size(1.0, 0.5) == pytest.approx((100 / 25.4, 50 / 25.4))


def test_text_width_must_be_positive():
    with pytest.raises(ValueError, match="text_width is 0"):
        figures.set_style(text_width=0)


def test_every_figure_has_the_text_width_and_fits_a_page(drawn):
    for name, figure in drawn.items():
        width, height = figure.get_size_inches() * 25.4
        assert width == pytest.approx(figures.style.TEXT_WIDTH_MM), name
        assert height <= 240, name


@pytest.mark.parametrize(
    ("k", "text_width"),
    [*((k, 160) for k in (2, 10, 87, 92, 140, 500)), *((k, 85) for k in (2, 10, 87, 140))],
)
def test_figures_of_any_number_of_classes_fit_a_page(k, text_width):
    figures.set_style(text_width)
    names = [f"{i:03d}_{'Megalopa larva phase ' * 3}"[:40] for i in range(k)]
    for name, figure in of_classes(names).items():
        width, height = figure.get_size_inches() * 25.4
        assert width == pytest.approx(text_width), name
        assert height <= figures.style.PAGE_HEIGHT_MM + 1, name
        assert not faults_of(name, figure)


@pytest.mark.parametrize("k", [3, 40])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_third_and_two_thirds_of_a_class_differ_in_color_and_a_bar_explains_them(k, normalize):
    counts = 300 * np.eye(k, dtype=int)
    counts[0, :3] = 100, 200, 0
    figure = figures.results.confusion_matrix(counts, [f"class {i}" for i in range(k)], normalize)
    shown = next(axes for axes in figure.axes if axes.collections).collections[0]
    cells, _ = lab(shown.to_rgba(shown.get_array().ravel()[:2])[:, :3])
    assert np.linalg.norm(cells[0] - cells[1]) > 12
    assert figure.axes[-1].get_label() == "<colorbar>"
    assert len(figure.axes[-1].get_yticks()) >= 3


def test_wrapping_breaks_no_word():
    names = ["Actinoptychus", "001_Actinoptychus senarius", "test: a folder/IMG_0123.png", "x" * 60]
    for name, width in product(names, (8, 12, 25)):
        lines = figures.layout.wrap(name, width, 7, max_lines=3)
        assert all(figures.layout.printed_width(line, 7) <= width for line in lines)
        words = re.split("[ _/-]", name)
        for line in lines[:-1]:
            assert all("…" in w or w in words for w in re.split("[ _/-]", line.rstrip("_/-")))
    assert figures.layout.wrap(names[1], 25, 7, 3) == ["001_Actinoptychus", "senarius"]


def test_labels_of_an_embedding_stand_beside_the_clusters():
    rng = np.random.default_rng(0)
    centers = 25 * np.stack(np.meshgrid(range(6), range(5)), -1).reshape(-1, 2)
    names = [f"{i:02d}_class" for i in range(30)]
    xy = np.repeat(centers, 20, axis=0) + rng.normal(0, 2, (600, 2))
    points = pd.DataFrame(xy, columns=["x", "y"]).assign(true=np.repeat(names, 20))
    figure = figures.results.embedding(points.assign(predicted=points["true"]), names)
    axes = figure.subfigs[0].axes[0]
    places = axes.transData.transform(xy)
    labels = [e for text, e in texts(figure) if text.get_text() in {name[:2] for name in names}]
    covered = [e.count_contains(places) for e in labels]
    assert len(labels) == 30 and sum(covered) < 0.05 * 600
    colors = axes.collections[0].get_facecolors()[::20].reshape(5, 6, 4)
    assert not (colors[:, 1:] == colors[:, :-1]).all(axis=-1).any()  # neighbours differ


def test_an_embedding_without_room_for_all_labels_keeps_those_of_the_largest_classes():
    figures.set_style(85)
    names = [f"{i:03d}" for i in range(140)]
    rng = np.random.default_rng(0)
    true = np.repeat(names, [3 if i < 70 else 6 for i in range(140)])
    points = pd.DataFrame(rng.normal(size=(len(true), 2)), columns=["x", "y"]).assign(true=true)
    figure = figures.results.embedding(points.assign(predicted=true), names)
    axes = figure.subfigs[0].axes[0]
    labels = {text.get_text() for text in axes.texts}
    left_out = len(names) - len(labels)
    assert axes.get_xlabel() == f"no room for the labels of {left_out} of the 140 classes"
    large = sum(name >= "070" for name in labels)
    assert 20 < left_out < 120 and large > 0.8 * len(labels)


def test_lines_to_points_cross_no_name():
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"class": [f"{i:03d}_a class with a name" for i in range(140)]})
    table = table.assign(support=rng.integers(50, 200, 140), f1=rng.uniform(0.85, 1, 140))
    table.loc[:7, "f1"] = rng.uniform(0.7, 0.75, 8)
    figure = figures.results.per_class_f1(table)
    extents = {text: extent for text, extent in texts(figure) if "class" in text.get_text()}
    lines = {text: text.arrow_patch for text in extents if getattr(text, "arrow_patch", None)}
    assert lines  # control
    for text, line in lines.items():
        path = line.get_path().transformed(line.get_transform()).interpolated(50).vertices
        others = [extent for other, extent in extents.items() if other is not text]
        assert not any(extent.padded(-1).count_contains(path) for extent in others)


def test_reliability_without_scaling_is_one_diagram():
    edges = np.arange(15) / 15
    bins = pd.DataFrame({"low": edges, "high": edges + 1 / 15, "images": 3, "accuracy": edges})
    for temperature, diagrams in ((1.0, 1), (2.5, 2)):
        table = pd.concat([bins.assign(temperature=t) for t in (1.0, temperature)])
        figure = figures.confidence.reliability(table, (0.07, 0.03))
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert len(titles) == diagrams and len(figure.axes) == 2 * diagrams


def test_ticks_of_detection_rates_do_not_overlap():
    scores = np.repeat(["similarity", "max softmax", "energy"], 5)
    rates = pd.DataFrame({"score": scores, "auroc": np.linspace(0.85, 1, 15), "fpr": 0.3})
    figure = figures.retrieval.ood(rates)
    extents = [extent for text, extent in texts(figure) if text.get_text().endswith(" %")]
    pairs = combinations(extents, 2)
    assert not any(one.overlaps(other) for one, other in pairs)


def test_class_counts_say_which_classes_they_leave_out():
    counts = pd.DataFrame({"train": np.arange(500, 0, -1)}, [f"class {i}" for i in range(500)])
    figure = figures.data_set.class_counts(counts)
    shown = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert shown == [f"class {i}" for i in range(len(shown))]  # the largest
    hidden = counts["train"][len(shown) :]
    words = f"not shown: the {len(hidden)} smallest classes, {hidden.sum():,} images"
    assert figure.get_supxlabel() == words


def test_pdf_embeds_truetype_and_is_the_same_on_every_save(drawn, tmp_path):
    figure = drawn["class_counts-few"]
    first = figures.save(figure, tmp_path / "a", SOURCE)[0].read_bytes()
    time.sleep(1.1)  # a time stamp would differ
    second = figures.save(figure, tmp_path / "b", SOURCE)[0].read_bytes()
    assert first == second
    assert b"/FontFile2" in first  # TrueType; Type 3 has no font file
    assert b"/Type3" not in first


def test_save_makes_folders_and_keeps_dots_in_names(drawn, tmp_path):
    written = figures.save(drawn["no_mistakes"], tmp_path / "a" / "b" / "sp.B-0.5", SOURCE)
    assert [path.name for path in written] == ["sp.B-0.5.pdf", "sp.B-0.5.png"]
    assert sorted(written[0].parent.iterdir()) == sorted(written)


def test_a_failed_save_leaves_the_old_files_and_no_strays(drawn, tmp_path, monkeypatch):
    old = [
        path.read_bytes() for path in figures.save(drawn["no_mistakes"], tmp_path / "plot", SOURCE)
    ]
    figure, real = figures.results.mistakes([], []), matplotlib.figure.Figure.savefig
    figure.text(0, 0, "new")

    def fails_on_png(self, path, **options):
        if options["format"] == "png":
            raise OSError("disk full")
        real(self, path, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fails_on_png)
    with pytest.raises(OSError, match="disk full"):
        figures.save(figure, tmp_path / "plot", SOURCE)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["plot.pdf", "plot.png"]
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == old


def test_no_text_is_smaller_than_five_points(drawn):
    for name, figure in drawn.items():
        for text, _ in texts(figure):
            assert text.get_fontsize() >= 5, (name, text.get_text())


def faults_of(name, figure):
    """Return the texts that leave the figure, and the pairs of texts that overlap."""
    faults, canvas, found = [], figure.bbox.padded(1), texts(figure)
    for text, extent in found:
        inside = canvas.x0 <= extent.x0 and extent.x1 <= canvas.x1
        inside &= canvas.y0 <= extent.y0 and extent.y1 <= canvas.y1
        if not inside:
            faults.append((name, text.get_text(), str(extent)))
    boxes = np.array([extent.extents for _, extent in found]).reshape(-1, 4)
    # One pixel of tolerance, because boxes are as high as the font but letters are not.
    low, high = boxes[:, :2] + 1, boxes[:, 2:] - 1
    overlap = ((low[:, None] <= high) & (low <= high[:, None])).all(axis=-1)
    for i, j in np.argwhere(np.triu(overlap, 1)):
        faults.append((name, found[i][0].get_text(), found[j][0].get_text()))
    return faults


def test_texts_neither_overlap_nor_leave_the_canvas(drawn):
    assert not [fault for name, figure in drawn.items() for fault in faults_of(name, figure)]


@pytest.mark.parametrize("text_width", [85, 120])
def test_figures_of_runs_fit_narrow_columns(text_width):
    figures.set_style(text_width)
    for name, figure in of_runs().items():
        assert figure.get_size_inches()[0] * 25.4 == pytest.approx(text_width), name
        assert not faults_of(name, figure)


@pytest.mark.parametrize("kind", ["confusion_matrix", "embedding"])
@pytest.mark.parametrize("classes", [ONE_LONG, LONG, THREE_HUNDRED], ids=["one", "all", "300"])
def test_long_and_many_names_leave_the_key_on_the_page(kind, classes):
    figure = of_many_classes(kind, classes)
    assert figure.get_size_inches()[1] * 25.4 <= figures.style.PAGE_HEIGHT_MM + 0.1
    assert not faults_of(kind, figure)
    key = [text.get_text() for text, _ in texts(figure) if text.get_va() == "top"]
    if classes is not THREE_HUNDRED:  # with 300 classes all are shortened
        shown = [name for name in classes if any(text.endswith(name) for text in key)]
        assert shown == [name for name in classes if len(name) < 90]


def test_the_only_checkpoint_stands_at_a_whole_epoch(drawn):
    assert drawn["checkpoint_accuracy_frozen"].axes[0].get_xticks().tolist() == [0]


def test_runs_without_training_stand_beside_each_other(drawn):
    axes = drawn["accuracy_against_hours_untrained"].axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    places = [line.get_xdata()[0] for line in dots]
    assert len(places) == 4 and len(set(places)) == 4
    assert axes.get_xlim()[0] < min(places) and max(places) < axes.get_xlim()[1]


def test_many_runs_without_training_stay_on_the_axes():
    runs = pd.DataFrame({"run": [f"run {i}" for i in range(20)], "backbone": "lenet5", "hours": 0})
    runs = runs.assign(method="frozen", accuracy=0.9, low=0.8, high=0.95)
    axes = figures.runs.accuracy_against_hours(runs, {}).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    places = sorted(line.get_xdata()[0] for line in dots)
    assert len(set(places)) == 20
    assert axes.get_xlim()[0] < places[0] and places[-1] < axes.get_xlim()[1]


def test_class_counts_of_many_classes_names_all_in_full(drawn):
    shown = {text.get_text() for text, _ in texts(drawn["class_counts-many"])}
    assert set(MANY) <= shown


def test_many_classes_are_numbered_on_the_axes_and_named_in_a_key(drawn):
    for name in ("confusion_matrix-many", "embedding-many"):
        shown = {text.get_text() for text, _ in texts(drawn[name])}
        assert {name[:3] for name in MANY} <= shown
        assert set(MANY) <= shown


def test_class_numbers():
    assert figures.style.class_numbers(["012_Acartia sp.B", "013_Acartia sp.C"]) == ["012", "013"]
    assert figures.style.class_numbers(["1a", "1b"]) == ["1", "2"]
    assert figures.style.class_numbers(["7_a", "b"]) == ["1", "2"]
    assert figures.style.class_numbers([]) == []


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    figures.set_style()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for figure in of_classes(HOSTILE).values():
            figure.draw_without_rendering()
        figures.save(figure, tmp_path / "hostile", SOURCE)
    figure = figures.data_set.class_counts(pd.DataFrame({"train": range(8)}, HOSTILE))
    shown = {text.get_text(): text for text, _ in texts(figure)}
    assert set(HOSTILE[:7]) <= set(shown)
    assert not shown["$x$ and $y"].get_parse_math()


def test_missing_glyphs_do_not_warn(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        figures.set_style()
        figures.save(
            figures.data_set.class_counts(pd.DataFrame({"train": [3]}, ["中文"])),
            tmp_path / "a",
            SOURCE,
        )
    assert not caught


def test_a_backbone_has_one_color_whatever_else_is_drawn():
    known = ["resnet50", "seresnext50_32x4d", "lenet5"]
    assert len({figures.run_color(name) for name in known}) == 3
    other = figures.run_color("vit_small_patch16_224")
    assert other == "#89025b"  # a literal: Python's own hash differs between processes
    assert other not in map(figures.run_color, known)
    table = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]})
    for runs in (["lenet5"], ["resnet50", "lenet5"], ["lenet5", "resnet50"]):
        same = dict(zip(runs, runs, strict=True))
        drawn = figures.runs.loss_curves(
            dict.fromkeys(runs, table), same, dict.fromkeys(runs, 32), "SupCon loss"
        )
        lines = {line.get_label(): line.get_color() for line in drawn.axes[0].lines}
        assert lines["lenet5"] == figures.run_color("lenet5")


def lab(colors):
    """Convert sRGB to CIELAB (n, 3) under D65, and to the relative luminance (n,) of WCAG."""
    rgb = np.array([to_rgb(color) for color in colors])
    rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = rgb @ np.transpose(to_xyz)
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.0888]).T  # no colour here is near black
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1), xyz[:, 1]


def test_common_backbones_have_colors_that_can_be_told_apart_on_white():
    others = [figures.run_color(name) for name in COMMON_BACKBONES]
    assert (1.05 / (lab(figures.style.OTHER_COLORS)[1] + 0.05) >= 3).all()
    colors, _ = lab([*others, *figures.style.BACKBONE_COLORS.values()])
    apart = [np.linalg.norm(a - b) for a, b in combinations(colors, 2)]  # CIE76
    assert min(apart) > 16 and sum(distance < 20 for distance in apart) <= 6, sorted(apart)[:9]


def test_batch_sizes_differ_by_line_style():
    assert figures.style.run_line_style(32)["linestyle"] == "solid"
    assert figures.style.run_line_style(64)["linestyle"] == "dashed"
    styles = [figures.style.run_line_style(n) for n in (16, 32, 64, 128)]
    for key in ("linestyle", "marker"):
        assert len({style[key] for style in styles}) == 4


def test_a_smoothed_loss_is_drawn_in_full_over_the_pale_raw_one():
    table = pd.DataFrame({"epoch": [1, 2, 3], "loss": [2.0, 1.0, 1.5]})
    smooth = table.assign(smoothed=[1.9, 1.4, 1.3])
    figure = figures.runs.loss_curves(
        {"a": table, "b": smooth}, dict.fromkeys("ab", "lenet5"), {"a": 32, "b": 64}, "loss"
    )
    only, raw, over = figure.axes[0].lines
    assert list(only.get_ydata()) == list(raw.get_ydata()) == [2.0, 1.0, 1.5]
    assert list(over.get_ydata()) == [1.9, 1.4, 1.3]
    assert raw.get_alpha() == 0.3 and only.get_alpha() is None and over.get_alpha() is None
    assert raw.get_linewidth() < over.get_linewidth() and raw.get_zorder() < only.get_zorder()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_runs_that_differ_in_neither_backbone_nor_batch_size_differ_by_marker():
    table = pd.DataFrame({"epoch": [1, 2, 3], "loss": [2.0, 1.0, 1.5]})
    same = {"a": "lenet5", "b": "lenet5", "c": "lenet5", "d": "resnet50"}
    figure = figures.runs.loss_curves(
        dict.fromkeys(same, table), same, dict.fromkeys(same, 32), "SupCon loss"
    )
    markers = [line.get_marker() for line in figure.axes[0].lines]
    assert len(set(markers[:3])) == 3 and markers[0] == markers[3] == "None"


@pytest.mark.parametrize(
    ("low", "high", "decimals"), [(0, 1, 0), (0.5, 0.62, 0), (0.935, 0.944, 1), (0.93, 0.95, 2)]
)
def test_percent_ticks_of_an_axis_have_the_same_few_decimals(low, high, decimals):
    probe = pd.DataFrame({"checkpoint": [30, 40], "val_accuracy": [low, high]})
    probe["val_accuracy_low"] = probe["val_accuracy_high"] = probe["val_accuracy"]
    axes = figures.training.checkpoint_accuracy(probe, 40, "C0", "linear head").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) > 3
    assert {len(label.removesuffix(" %").partition(".")[2]) for label in labels} == {decimals}
    values = [float(label.removesuffix(" %")) / 100 for label in labels]
    assert values == pytest.approx(axes.get_yticks())


def test_normalized_confusion_matrix_has_shares_and_blank_empty_rows():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 5]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = figures.results.confusion_matrix(counts, ["a", "b", "c"], normalize=True).axes[0]
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75.0", (0, 1): "25.0", (2, 2): "100.0"}
    shown = axes.collections[0].get_array()
    assert shown.mask[1].all() and not shown.mask[0, 1]


def test_confusion_matrix_refuses_a_wrong_shape():
    with pytest.raises(ValueError, match="2 classes"):
        figures.results.confusion_matrix(np.eye(3, dtype=int), ["a", "b"], normalize=False)


def test_class_counts_of_zero_have_no_mark():
    counts = pd.DataFrame({"train": [5, 0], "val": [1, 2]}, ["a", "b"])
    axes = figures.data_set.class_counts(counts).axes[0]
    train, val = (line.get_xdata() for line in axes.lines)
    assert train[0] == 5 and np.isnan(train[1]) and val.tolist() == [1, 2]
    assert axes.get_xlim()[0] > 0


def test_no_mistakes_says_so(drawn):
    assert [text.get_text() for text, _ in texts(drawn["no_mistakes"])] == ["no mistakes"]


def test_no_leaks_says_so(drawn):
    assert [text.get_text() for text, _ in texts(drawn["no_image_pairs"])] == ["no leaks found"]


def test_image_pairs_stand_side_by_side_over_their_caption(drawn):
    figure = drawn["image_pairs-few"]
    canvas, captions = figure.axes[0], [text.get_text() for text, _ in texts(figure)]
    assert len(canvas.images) == 24 and len(captions) == 12
    assert all("near-duplicate, 2 of 64 bits\ntest: " in caption for caption in captions)
    assert all("\ntrain: " in caption for caption in captions)
    for left, right in zip(canvas.images[::2], canvas.images[1::2], strict=True):
        assert left.get_extent()[1] < right.get_extent()[0]


@pytest.mark.parametrize("n", [1, 5, 40])
def test_any_number_of_image_pairs_fits_a_page(n):
    images = [np.full((9, 300), 7, dtype=np.uint8)[..., None].repeat(3, axis=2)] * n
    figure = figures.data_set.image_pairs(
        pairs_of(images, np.resize(MANY, n), np.resize(HOSTILE, n)), "none"
    )
    assert figure.get_size_inches()[1] * 25.4 <= 240
    for _, extent in texts(figure):
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1


@pytest.mark.parametrize("shape", [(12, 3000), (3000, 12), (1, 20_000), (1307, 914), (7, 700)])
def test_a_picture_of_any_shape_is_drawn_with_its_aspect_ratio(shape):
    """Chains of plankton are long: with many classes, they become thinner than a dot."""
    image = np.zeros((*shape, 3), dtype=np.uint8)
    image[:, : shape[1] // 2] = 200
    many = {f"class {i}": [image] for i in range(87)}
    figure = figures.data_set.sample_images(many)
    for shown in figure.axes[0].images:
        left, right, bottom, top = shown.get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(shape[1] / shape[0])
        pixels = np.asarray(shown.get_array())
        assert pixels[:, 0].mean() > 150 > 50 > pixels[:, -1].mean() or pixels.shape[1] == 1


def test_captions_keep_their_confidence(drawn):
    captions = [text.get_text() for text, _ in texts(drawn["mistakes-many"])]
    assert len(captions) == 12
    assert all(caption.endswith("99.1 %") for caption in captions)


def test_per_class_f1_names_the_worst_eight():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"class": MANY, "support": rng.integers(9, 3000, 87)})
    table["f1"] = rng.random(87)
    named = {text.get_text() for text in figures.results.per_class_f1(table).axes[0].texts}
    assert named == set(table.nsmallest(8, "f1")["class"])


def test_pyplot_holds_no_figure(drawn):
    assert drawn and not plt.get_fignums()


def test_many_points_make_a_small_pdf(tmp_path):
    rng = np.random.default_rng(0)
    sizes = pd.DataFrame(rng.integers(30, 2000, (47_000, 2)), columns=["width", "height"])
    pdf = figures.save(
        figures.sizes.image_sizes(sizes.assign(split="train")), tmp_path / "sizes", SOURCE
    )[0]
    assert pdf.stat().st_size < 500_000
