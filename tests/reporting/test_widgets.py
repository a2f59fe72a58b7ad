"""Test the widgets on a small run with hand-made predictions and look-up table."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from thesis_lib import figures
from thesis_lib.config import RunConfig
from thesis_lib.data.cache import Images
from thesis_lib.data.datasets import open_dataset
from thesis_lib.errors import InputError
from thesis_lib.evaluation.features import FrozenBackbone
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable
from thesis_lib.models import create_backbone
from thesis_lib.reporting import widgets
from thesis_lib.reporting.results import results_of_run
from thesis_lib.reporting.widgets import front_end, nearest, pictures, pruned
from thesis_lib.runs.directory import RunDirectory
from thesis_lib.system.files import write_csv, write_json
from thesis_lib.training import checkpoints

CLASSES = ("001_zero with blank", "002_<img src=x onerror=y>", "003_δύο & $x$", "004_never")
TRAIN, TEST = 12, 30  # images per class; the last class has no test image
MEAN = STD = (0.5, 0.5, 0.5)
WIDGET, PNG = "application/vnd.jupyter.widget-view+json", "image/png"
# Metadata of execute requests from front ends, and from nbclient.
JUPYTERLAB = {"deletedCells": [], "recordTiming": False, "cellId": "pictures", "trusted": True}
VS_CODE = {"cellId": "vscode-notebook-cell:/home/a/04_final_test.ipynb#W5sZmlsZQ%3D%3D"}
COLAB = {"colab": {"cell_id": "Zx3"}}
NBCLIENT = {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A tested run in which 26 images of the first class were classified as the second."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, images in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES if split == "train" else CLASSES[:3]:
            folder = tmp_path / "data" / "hand" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = random.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    config = RunConfig(data="data/hand", backbone="lenet5", batch_size=8, image_size=32)
    run = RunDirectory(config)
    run.write_config()
    dataset = open_dataset("data/hand", ("train", "test"))
    test = dataset.splits["test"]
    predicted = np.where((test.labels == 0) & (np.arange(len(test)) >= 4), 1, test.labels)
    predicted[-2:] = 0  # of the third class
    classes = np.array(dataset.classes)
    columns = {"path": test.files, "true": classes[test.labels], "predicted": classes[predicted]}
    predictions = pd.DataFrame(columns)
    predictions["confidence"] = random.permutation(len(test)) / 100
    write_csv(run.predictions_file, predictions)
    write_json(run.test_file, {"classes": dataset.classes})
    return run


@pytest.fixture
def tabled(run, monkeypatch):
    """The same run with a tested look-up table of three thresholds."""
    torch.manual_seed(0)
    backbone = create_backbone("lenet5", run.config.small_images, 32)
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    content = {"config": run.config.to_dict(), "model": weights, "optimizer": {}}
    run.checkpoints.mkdir(parents=True)
    checkpoints.save(checkpoints.checkpoint_path(run, 7), content | {"mean": MEAN, "std": STD})
    dataset = open_dataset("data/hand", ("train", "test"))
    train = dataset.splits["train"]
    table = LookupTable(vectors_of(run, backbone, "train"), train.labels, train.files, CLASSES)
    thresholds = [*np.quantile(table.vectors @ table.vectors.T, (0.3, 0.7)).tolist(), 1.0]
    kept = np.stack([kept_by_loops(table, threshold) for threshold in thresholds])
    facts = {"neighbours": 1, "known_similarity": np.ones(1), "checkpoint": 7}
    stored = StoredTable(table, np.array(thresholds), kept, thresholds[1], fingerprint="", **facts)
    for module in (nearest, pruned):
        monkeypatch.setattr(module, "stored_table", lambda run: stored)
    rows = {"threshold": thresholds, "split": "val", "images": kept.sum(1)}
    rows |= {"accuracy": [0.5, 0.75, 0.875], "accuracy_low": 0.25, "accuracy_high": 0.9375}
    rows |= {"index_mib": [1.5, 2.5, 3.5], "seconds_per_image": 0.004}
    curve = pd.DataFrame(rows)
    write_csv(run.retrieval_file, pd.concat([curve, curve[1:2].assign(split="test")]))
    tested = pd.read_csv(run.predictions_file).rename(columns={"confidence": "similarity"})
    write_csv(run.retrieval_predictions_file, tested.assign(nearest=train.files[0]))
    return stored


def vectors_of(run, backbone, split):
    images = Images(open_dataset("data/hand").splits[split])
    frozen = FrozenBackbone(backbone, MEAN, STD, run.config.updated(workers=0))
    return unit_vectors(frozen.features(images)[0].numpy())


def kept_by_loops(table, threshold):
    kept = []
    for i in range(len(table)):
        rivals = [j for j in kept if table.labels[j] == table.labels[i]]
        if all(table.vectors[i] @ table.vectors[j] < threshold for j in rivals):
            kept.append(i)
    return np.isin(np.arange(len(table)), kept)


def sent_by(monkeypatch, metadata):
    """Pretend that the current cell was sent with this metadata."""
    kernel = SimpleNamespace(get_parent=lambda: {"metadata": metadata})
    monkeypatch.setattr(front_end, "get_ipython", lambda: SimpleNamespace(kernel=kernel))


@pytest.fixture
def in_jupyterlab(monkeypatch):
    sent_by(monkeypatch, JUPYTERLAB)
    yield
    ipywidgets.Widget.close_all()


@pytest.fixture
def no_widget(monkeypatch):
    """Fail if a widget is created: its state would be saved in the executed notebook."""

    def refuse(*_, **__):
        raise AssertionError("a widget was made")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)


def part(widget, kind, number=0):
    """Return one of a widget's descendants of a given type."""
    found, waiting = [], [widget]
    while waiting:
        one = waiting.pop(0)
        found += [one] if isinstance(one, kind) else []
        waiting = [*getattr(one, "children", ()), *waiting]
    return found[number]


def cells_of(widget):
    """Return the buttons of a confusion matrix, by row and column."""
    buttons = [b for b in part(widget, ipywidgets.GridBox).children if hasattr(b, "click")]
    return {
        tuple(int(name.split("-")[1]) for name in button._dom_classes[:2]): button
        for button in buttons
    }


def groups_in(html):
    """Parse HTML of pictures into (heading, [(file, caption)]) for each group."""
    soup = BeautifulSoup(html, "html.parser")
    headings = [heading.text for heading in soup.select(".thesis-heading")]
    shown = [
        [
            (Path(f["title"]).name, f.figcaption.get_text("\n", strip=True).replace("_\n", "_"))
            for f in group.select("figure")
        ]
        for group in soup.select(".thesis-pictures")
    ]
    return list(zip(headings, shown, strict=True))


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_front_end_is_known_by_what_it_sends(monkeypatch):
    for metadata in (JUPYTERLAB, VS_CODE, COLAB):
        sent_by(monkeypatch, metadata)
        assert front_end.has_front_end()
    sent_by(monkeypatch, NBCLIENT)
    assert not front_end.has_front_end()
    for shell in (None, SimpleNamespace()):  # plain Python, IPython in a terminal
        monkeypatch.setattr(front_end, "get_ipython", lambda shell=shell: shell)
        assert not front_end.has_front_end()


@pytest.mark.parametrize("name", ["confusion", "thresholds", "neighbours"])
class TestEach:
    def test_is_a_figure_without_a_front_end(self, run, tabled, no_widget, name):
        figure = getattr(widgets, name)(results_of_run(run, "test"))
        assert isinstance(figure, Figure)
        assert figure.axes[0].images

    def test_is_a_widget_that_carries_the_figure_in_one(self, run, tabled, in_jupyterlab, name):
        widget = getattr(widgets, name)(results_of_run(run, "test"))
        bundle = widget._repr_mimebundle_()
        assert bundle[WIDGET]["model_id"] == widget.model_id
        assert bundle[PNG].startswith("iVBORw0KGgo")  # a PNG's first bytes in base64


class TestConfusion:
    def test_figure_is_of_the_pair_confused_most(self, run):
        figure = widgets.confusion(results_of_run(run, "test"))
        heading, *captions = texts_of(figure)
        assert heading == (
            f"true: {CLASSES[0]}, predicted: {CLASSES[1]} (1 to 24 of 26, most confident first)"
        )
        assert len(figure.axes[0].images) == 24
        assert len([caption for caption in captions if ".png" in caption]) == 24

    def test_run_without_mistakes_says_so(self, run):
        predictions = pd.read_csv(run.predictions_file)
        write_csv(run.predictions_file, predictions.assign(predicted=predictions["true"]))
        assert texts_of(widgets.confusion(results_of_run(run, "test")))[0] == (
            "No test image was misclassified."
        )

    def test_there_is_a_button_for_each_cell_that_holds_images(self, run, in_jupyterlab):
        predictions = pd.read_csv(run.predictions_file)
        expected = pd.crosstab(predictions["true"], predictions["predicted"]).stack()
        cells = cells_of(widgets.confusion(results_of_run(run, "test")))
        found = {
            (CLASSES[row], CLASSES[column]): int(button.description)
            for (row, column), button in cells.items()
        }
        assert found == expected[expected > 0].to_dict()
        told = cells[0, 1].tooltip.split("\n")
        assert told == [f"true: {CLASSES[0]}", f"predicted: {CLASSES[1]}", "26 images, 86.7 %"]

    def test_click_shows_the_pictures_of_a_cell_most_confident_first(self, run, in_jupyterlab):
        widget = widgets.confusion(results_of_run(run, "test"))
        cells_of(widget)[2, 0].click()
        predictions = pd.read_csv(run.predictions_file).sort_values("confidence")[::-1]
        row = (predictions["true"] == CLASSES[2]) & (predictions["predicted"] == CLASSES[0])
        expected = [
            (Path(path).name, f"{Path(path).name}\n{100 * confidence:.1f} %")
            for path, confidence in predictions.loc[row, ["path", "confidence"]].to_numpy()
        ]
        ((heading, shown),) = groups_in(part(widget, ipywidgets.HTML, -1).value)
        assert (
            heading
            == f"true: {CLASSES[2]}, predicted: {CLASSES[0]} (1 to 2 of 2, most confident first)"
        )
        assert shown == expected

    def test_pages_hold_every_picture_once(self, run, in_jupyterlab):
        widget = widgets.confusion(results_of_run(run, "test"))
        html, (back, on) = part(widget, ipywidgets.HTML, -1), part(widget, ipywidgets.HBox).children
        assert back.disabled and not on.disabled
        (first,) = groups_in(html.value)
        on.click()
        (second,) = groups_in(html.value)
        assert not back.disabled and on.disabled
        assert "(25 to 26 of 26" in second[0]
        names = [name for name, _ in first[1] + second[1]]
        assert sorted(names) == [f"{number:02d}.png" for number in range(4, 30)]
        back.click()
        assert groups_in(html.value) == [first]

    def test_class_names_are_text_and_not_tags(self, run, in_jupyterlab):
        widget = widgets.confusion(results_of_run(run, "test"))
        cells_of(widget)[1, 1].click()
        everything = "".join(html.value for html in all_html(widget))
        soup = BeautifulSoup(everything, "html.parser")
        assert {image["src"][:23] for image in soup.select("img")} == {"data:image/jpeg;base64,"}
        for side in ("side", "top"):
            names = [heading.text for heading in soup.select(f".name.{side}")]
            assert names == ["001_zero with blank", "002_<img src… onerror=y>", *CLASSES[2:]]
            titles = [heading["title"] for heading in soup.select(f".name.{side}")]
            told = zip(titles, CLASSES, strict=True)
            assert all(title.startswith(f"{name}: ") for title, name in told)

    def test_picture_that_cannot_be_read_says_why(self, run, in_jupyterlab):
        folder = run.path.parents[2] / "data" / "hand" / "test" / CLASSES[2]
        results = results_of_run(run, "test")
        widget = widgets.confusion(results)
        (folder / "28.png").write_bytes(b"")
        os.remove(folder / "29.png")
        cells_of(widget)[2, 0].click()
        html = part(widget, ipywidgets.HTML, -1).value
        assert sorted(name for name, _ in groups_in(html)[0][1]) == ["28.png", "29.png"]
        reasons = BeautifulSoup(html, "html.parser").select(".missing")
        assert sorted(reason.text for reason in reasons) == [
            "cannot be read: No such file or directory",
            "cannot be read: it is empty",
        ]
        group = pictures.Group("", [pictures.Picture(folder / "28.png", "28.png")])
        figure = pictures.figure_of([group])
        assert not figure.axes[0].images
        assert "28.png cannot be read: it is empty" in [
            " ".join(t.split()) for t in texts_of(figure)
        ]

    def test_colours_are_those_of_the_figure(self):
        counts = np.array([[1, 5, 0], [0, 40, 3], [7, 0, 900]])
        axes = figures.results.confusion_matrix(counts, CLASSES[:3], normalize=False).axes[0]
        axes.figure.draw_without_rendering()
        drawn = axes.collections[0].get_facecolors().reshape(3, 3, 4)[counts > 0]
        inks = {text.get_text(): text.get_color() for text in axes.texts}
        colors, found = figures.results.cell_colors(counts[counts > 0])
        assert colors == [to_hex(color) for color in drawn]
        assert dict(zip(map(str, counts[counts > 0]), found, strict=True)) == inks


def all_html(widget):
    own = [widget] if isinstance(widget, ipywidgets.HTML) else []
    return own + [html for child in getattr(widget, "children", ()) for html in all_html(child)]


class TestThresholds:
    def test_slider_shows_what_was_measured(self, run, tabled, in_jupyterlab):
        widget = widgets.thresholds(results_of_run(run, "retrieve"))
        slider, line = part(widget, ipywidgets.SelectionSlider), part(widget, ipywidgets.HTML, 1)
        curve = part(widget, ipywidgets.Image)
        assert slider.value == 1
        told = BeautifulSoup(line.value, "html.parser").text
        assert told == (
            "accuracy on val 75.0 % (95 % interval 25.0 to 93.8) · "
            f"{tabled.kept[1].sum()} images kept · 2.5 MiB · 4 ms per image · selected threshold"
        )
        before = curve.value
        slider.value = 2
        told = BeautifulSoup(line.value, "html.parser").text
        assert told.startswith("accuracy on val 87.5 %")
        assert told.endswith(f"{4 * TRAIN} images kept · 3.5 MiB · 4 ms per image")
        assert curve.value != before

    def test_dropped_pictures_are_above_the_most_similar_kept_ones(
        self, run, tabled, in_jupyterlab
    ):
        widget = widgets.thresholds(results_of_run(run, "retrieve"))
        slider, choice = part(widget, ipywidgets.SelectionSlider), part(widget, ipywidgets.Dropdown)
        table = tabled.table
        for number, label in ((0, 1), (1, 2)):
            slider.value, choice.value = number, label
            kept, own = tabled.kept[number], table.labels == label
            (heading, dropped), (_, standing) = groups_in(part(widget, ipywidgets.HTML, -1).value)
            assert f"{(own & ~kept).sum()} of {TRAIN} images are dropped" in heading
            assert len(dropped) == len(standing) == min(6, (own & ~kept).sum())
            for (file, _), (other, told) in zip(dropped, standing, strict=True):
                row = table.files.index(f"train/{CLASSES[label]}/{file}")
                twin = table.files.index(f"train/{CLASSES[label]}/{other}")
                assert not kept[row]
                cosines = np.where(own & kept, table.vectors @ table.vectors[row], -2)
                assert cosines.argmax() == twin
                assert told.endswith(f"cosine {cosines.max():.3f}")
                assert cosines.max() >= tabled.thresholds[number]

    def test_begins_with_the_class_that_is_dropped_most(self, run, tabled, in_jupyterlab):
        widget = widgets.thresholds(results_of_run(run, "retrieve"))
        dropped = np.bincount(tabled.table.labels[~tabled.kept[1]], minlength=4)
        assert dropped[part(widget, ipywidgets.Dropdown).value] == dropped.max()

    def test_class_without_dropped_images_shows_kept_ones(self, run, tabled, in_jupyterlab):
        widget = widgets.thresholds(results_of_run(run, "retrieve"))
        part(widget, ipywidgets.SelectionSlider).value = 2
        ((heading, shown),) = groups_in(part(widget, ipywidgets.HTML, -1).value)
        assert heading.endswith(f": none of {TRAIN} images is dropped at 1.00")
        assert len(shown) == 6


class TestNeighbours:
    def expected(self, run, tabled, file):
        """Return the names of the eight nearest images, computed by scikit-learn."""
        backbone, _ = checkpoints.load_backbone(checkpoints.checkpoint_path(run, 7))
        split = file.split("/")[0]
        query = vectors_of(run, backbone, split)[
            open_dataset("data/hand").splits[split].files.index(file)
        ]
        kept = tabled.kept[1]
        files = [f for f, keep in zip(tabled.table.files, kept, strict=True) if keep and f != file]
        rows = [tabled.table.files.index(f) for f in files]
        search = NearestNeighbors(n_neighbors=8, metric="cosine")
        distances, found = search.fit(tabled.table.vectors[rows]).kneighbors(query[None])
        return [
            (
                Path(files[i]).name,
                f"{Path(files[i]).parent.name}\n{Path(files[i]).name}\ncosine {1 - distance:.3f}",
            )
            for i, distance in zip(found[0], distances[0], strict=True)
        ]

    def test_begins_with_the_worst_mistake(self, run, tabled, in_jupyterlab):
        predictions = pd.read_csv(run.predictions_file)
        wrong = predictions[predictions["true"] != predictions["predicted"]]
        worst = wrong.loc[wrong["confidence"].idxmax(), "path"]
        widget = widgets.neighbours(results_of_run(run, "retrieve"))
        choice = part(widget, ipywidgets.Dropdown)
        assert choice.value == worst == part(widget, ipywidgets.Text).value
        paths = [path for _, path in choice.options]
        assert set(paths[: len(wrong)]) == set(wrong["path"])
        assert sorted(paths) == sorted(predictions["path"])

    def test_chosen_image_is_shown_with_its_nearest_neighbours(self, run, tabled, in_jupyterlab):
        widget = widgets.neighbours(results_of_run(run, "retrieve"))
        file = f"test/{CLASSES[2]}/11.png"
        part(widget, ipywidgets.Dropdown).value = file
        (told, image), (_, shown) = groups_in(part(widget, ipywidgets.HTML, -1).value)
        expected = self.expected(run, tabled, file)
        assert shown == expected
        assert image == [("11.png", "11.png")]
        first = expected[0][1].split("\n")[0]
        assert told == f"true: {CLASSES[2]}, predicted by the table: {first}"

    def test_image_of_the_table_is_not_its_own_neighbour(self, run, tabled, in_jupyterlab):
        file = tabled.chosen.files[3]
        for named in (file, f"data/hand/{file}", str(Path("data/hand", file).absolute())):
            widget = widgets.neighbours(results_of_run(run, "retrieve"), named)
            _, (_, shown) = groups_in(part(widget, ipywidgets.HTML, -1).value)
            assert shown == self.expected(run, tabled, file)

    def test_small_table_is_shown_whole(self, run, tabled, in_jupyterlab, monkeypatch):
        kept = np.isin(np.arange(len(tabled.table)), (0, TRAIN, 2 * TRAIN))
        small = replace(tabled, kept=np.stack([kept] * 3))
        monkeypatch.setattr(nearest, "stored_table", lambda run: small)
        widget = widgets.neighbours(results_of_run(run, "retrieve"))
        _, (heading, shown) = groups_in(part(widget, ipywidgets.HTML, -1).value)
        assert heading.startswith("Nearest of the 3 training images") and len(shown) == 3

    def test_all_voters_vote_however_few_are_shown(self, run, tabled, in_jupyterlab, monkeypatch):
        voting = replace(tabled, neighbours=8)
        monkeypatch.setattr(nearest, "stored_table", lambda run: voting)
        for number in range(8):
            file = f"test/{CLASSES[1]}/{number:02d}.png"
            widget = widgets.neighbours(results_of_run(run, "retrieve"), file, k=2)
            (told, _), (_, shown) = groups_in(part(widget, ipywidgets.HTML, -1).value)
            expected = self.expected(run, tabled, file)
            assert shown == expected[:2]
            votes = Counter(caption.split("\n")[0] for _, caption in expected)
            # In a tie, Counter returns the first class, which is that of the nearest image.
            assert (
                told == f"true: {CLASSES[1]}, predicted by the table: {votes.most_common(1)[0][0]}"
            )

    def test_any_image_file_can_be_named(self, run, tabled, in_jupyterlab, tmp_path):
        source = Path("data/hand/test", CLASSES[0], "05.png")
        (tmp_path / "new one.png").write_bytes(source.read_bytes())
        widget = widgets.neighbours(results_of_run(run, "retrieve"))
        part(widget, ipywidgets.Text).value = "new one.png"
        (told, _), (_, shown) = groups_in(part(widget, ipywidgets.HTML, -1).value)
        assert told.startswith("predicted by the table: ")
        assert shown == self.expected(run, tabled, f"test/{CLASSES[0]}/05.png")

    def test_missing_image_is_reported_in_its_place(self, run, tabled, in_jupyterlab):
        widget = widgets.neighbours(results_of_run(run, "retrieve"))
        part(widget, ipywidgets.Text).value = "<b>no.png"
        html = part(widget, ipywidgets.HTML, -1).value
        assert "<b>" not in html and "no.png" in html
        assert "No such file or directory" in html

    def test_table_that_was_not_tested_is_refused(self, run, tabled):
        run.retrieval_predictions_file.unlink()
        with pytest.raises(InputError, match="was not tested yet; run notebook 05"):
            widgets.neighbours(results_of_run(run, "retrieve"))


@pytest.mark.parametrize("pictures_of_a_group", [0, 1, 8, 24])
def test_figure_of_groups_fits_page_and_width(pictures_of_a_group):
    figures.set_style()
    images = [np.full((9, 300, 3), 7, dtype=np.uint8)] * pictures_of_a_group
    names = [f"true: {'n' * 90}\n{CLASSES[i % 4]}_{i}.png" for i in range(pictures_of_a_group)]
    figure = figures.data_set.picture_groups([("a heading " * 30, images, names)])
    width, height = figure.get_size_inches() * 25.4
    assert width == pytest.approx(figures.style.TEXT_WIDTH_MM) and height <= 240
    figure.draw_without_rendering()
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(extent.x0 >= 0 and extent.x1 <= figure.bbox.x1 for extent in extents)
    assert all(extent.y0 >= 0 and extent.y1 <= figure.bbox.y1 for extent in extents)


def test_threshold_is_marked_on_the_curve():
    curve = pd.DataFrame({"threshold": [0.8, 0.9, 1.0], "images": [20, 30, 900]})
    curve = curve.assign(accuracy=[0.5, 0.7, 0.8], accuracy_low=0.4, accuracy_high=0.9)
    panels = figures.data_set.threshold_curve(curve, 0.9).axes
    marks = [line.get_xydata().tolist() for axes in panels for line in axes.lines[-1:]]
    assert marks == [[[0.9, 0.7]], [[0.9, 30]]]
