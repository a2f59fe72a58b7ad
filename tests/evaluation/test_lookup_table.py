"""Test the look-up table: neighbours, votes, leaving out an image, and its file."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.neighbors import KNeighborsClassifier

from thesis_lib.errors import InputError
from thesis_lib.evaluation.knn import LookupTable, unit_vectors
from thesis_lib.evaluation.lookup_table import StoredTable

CLASSES = ["012_Acartia sp.B", "δύο γάτες", "090_Bubbles"]


def random_table(n: int = 60, d: int = 8, seed: int = 0) -> LookupTable:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), n)
    files = [f"train/{CLASSES[label]}/{row}.jpg" for row, label in enumerate(labels)]
    return LookupTable(unit_vectors(rng.standard_normal((n, d))), labels, files, CLASSES)


def stored_table() -> StoredTable:
    table = random_table()
    return StoredTable(
        table,
        thresholds=np.array([0.8, 0.9, 1.0]),
        kept=np.arange(60) % np.array([[3], [2], [1]]) == 0,
        threshold=0.9,
        neighbours=5,
        known_similarity=np.linspace(0.5, 0.99, 50),
        checkpoint=4,
        fingerprint="0123456789abcdef",
    )


def assert_same(found: LookupTable, expected: LookupTable) -> None:
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.files, found.classes) == (expected.files, expected.classes)


@pytest.mark.parametrize("k", [1, 5])
def test_leaving_an_image_out_is_searching_a_table_without_it(k):
    table = random_table()
    rows = np.arange(len(table))
    similarity, neighbours = table.search(table.vectors, k, exclude=rows)
    for row in rows:
        others = np.delete(rows, row)
        without = table.only(rows != row)
        expected, expected_rows = without.search(table.vectors[row : row + 1], k)
        np.testing.assert_array_equal(neighbours[row], others[expected_rows[0]])
        np.testing.assert_array_equal(similarity[row], expected[0])


def test_an_image_with_many_identical_ones_is_left_out_too():
    """The image may not be among its own nearest, as ties are in the order of the rows."""
    vectors = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    table = LookupTable(vectors, np.zeros(40, dtype=int), [""] * 40, CLASSES)
    neighbours = table.search(vectors, 2, exclude=np.arange(40))[1]
    assert neighbours[:3].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert neighbours[19].tolist() == [0, 1] and neighbours[20].tolist() == [21, 22]


def test_queries_that_are_in_the_table_and_others_go_together():
    table = random_table()
    own = np.where(np.arange(60) % 2, np.arange(60), -1)
    similarity, neighbours = table.search(table.vectors, 3, own)
    assert (neighbours[::2, 0] == np.arange(0, 60, 2)).all()
    assert (neighbours[1::2] != np.arange(1, 60, 2)[:, None]).all()
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_there_are_no_more_neighbours_than_images():
    table = random_table(4)
    queries = random_table(7, seed=1).vectors
    assert table.search(queries, 9)[1].shape == (7, 4)
    assert table.search(table.vectors, 9, exclude=np.arange(4))[1].shape == (4, 3)


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_votes_are_scikit_learns_where_there_is_no_tie(k):
    table, queries = random_table(200), random_table(300, seed=1).vectors
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    reference.fit(table.vectors, table.labels)
    shares = np.sort(reference.predict_proba(queries), axis=1)
    clear = shares[:, -1] > shares[:, -2]
    found = table.vote(table.search(queries, k)[1])
    assert clear.sum() > 100
    np.testing.assert_array_equal(found[clear], reference.predict(queries)[clear])


def test_of_equal_votes_the_nearest_ones_class_wins():
    labels = np.array([2, 0, 0, 2, 1])
    table = LookupTable(np.eye(5, dtype=np.float32), labels, [""] * 5, CLASSES)
    ties = [[3, 1], [1, 3], [4, 0], [0, 4]]
    assert table.vote(np.array(ties)).tolist() == [2, 0, 1, 2]
    # two classes with two votes each; the nearest image is of a third class
    assert table.vote(np.array([[4, 1, 3, 0, 2], [4, 3, 1, 2, 0]])).tolist() == [0, 2]


def test_only_keeps_vectors_labels_and_files_together():
    table = random_table()
    kept = np.arange(60) % 7 == 3
    part = table.only(kept)
    assert len(part) == kept.sum() == 9 and part.classes == CLASSES
    for row, original in enumerate(np.flatnonzero(kept)):
        np.testing.assert_array_equal(part.vectors[row], table.vectors[original])
        assert part.labels[row] == table.labels[original]
        assert part.files[row] == table.files[original]
    assert table.mib == pytest.approx(60 * 8 * 4 / 2**20)


def test_stored_table_comes_back_as_it_was(tmp_path):
    stored, file = stored_table(), tmp_path / "new folder" / "table.safetensors"
    stored.save(file)
    loaded = StoredTable.load(file)
    assert_same(loaded.table, stored.table)
    for name in ("thresholds", "kept", "known_similarity"):
        found, expected = getattr(loaded, name), getattr(stored, name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    for name in ("threshold", "neighbours", "checkpoint", "fingerprint"):
        assert getattr(loaded, name) == getattr(stored, name)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_table_is_as_pruned_at_each_threshold():
    stored = stored_table()
    for row, threshold in enumerate((0.8, 0.9, 1.0)):
        assert_same(stored.at(threshold), stored.table.only(stored.kept[row]))
    assert_same(stored.at(0.1 + 0.8), stored.table.only(stored.kept[1]))  # 0.9000000000000001
    assert_same(stored.chosen, stored.at(0.9))
    assert len(stored.chosen) == 30


def test_pruned_holds_the_chosen_table_alone(tmp_path):
    stored = stored_table()
    stored.pruned().save(tmp_path / "table.safetensors")
    pruned = StoredTable.load(tmp_path / "table.safetensors")
    assert_same(pruned.table, stored.chosen)
    assert_same(pruned.chosen, stored.chosen)
    assert pruned.thresholds.tolist() == [0.9]
    for name in ("threshold", "neighbours", "checkpoint", "fingerprint"):
        assert getattr(pruned, name) == getattr(stored, name)
    assert pruned.unlike_below(0.05) == stored.unlike_below(0.05)


@pytest.mark.parametrize("share", [0, 0.01, 0.02, 0.05, 0.13, 0.5, 1])
def test_at_most_a_share_of_the_known_images_is_unlike(share):
    """A higher threshold would flag too many."""
    stored = stored_table()
    below = (stored.known_similarity < stored.unlike_below(share)).sum()
    assert below <= share * 50
    assert below + 1 > share * 50 or share == 1


def test_a_missing_table_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"there is no look-up table .*none\.safetensors") as error:
        StoredTable.load(tmp_path / "none.safetensors")
    assert "\n" not in str(error.value) and "thesis retrieve" in str(error.value)


def damage_none(file) -> None:
    file.write_bytes(b"")


def damage_text(file) -> None:
    file.write_text("not a table\n" * 50)


def damage_end(file) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def damage_head(file) -> None:
    content = bytearray(file.read_bytes())
    content[20:40] = bytes(20)
    file.write_bytes(content)


def other_file(file) -> None:
    save_file({"weight": np.zeros(3)}, file)


def without(name):
    """Write the file without one of its tensors or metadata entries."""

    def damage(file) -> None:
        with safe_open(file, "numpy") as opened:
            facts = {key: text for key, text in opened.metadata().items() if key != name}
            names = [key for key in opened.keys() if key != name]  # noqa: SIM118
            tensors = {key: opened.get_tensor(key) for key in names}
        save_file(tensors, file, facts)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_none, damage_text, damage_end, damage_head, other_file),
        *map(without, ("vectors", "kept", "known_similarity", "files", "threshold")),
    ],
)
def test_a_damaged_table_is_one_clear_line(tmp_path, damage):
    file = tmp_path / "table.safetensors"
    stored_table().save(file)
    damage(file)
    with pytest.raises(InputError, match=r"the look-up table .* cannot be read \(.+\)") as error:
        StoredTable.load(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)
