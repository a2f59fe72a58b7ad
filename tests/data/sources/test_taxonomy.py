"""The tree of taxa: from taxonomy.csv, from exports, and what cannot be understood."""

from pathlib import Path

import pytest

from thesis_lib.data.sources.taxonomy import read_taxonomy, split_lineage
from thesis_lib.errors import InputError

CLASSES = ["Calanoida", "Cyclopoida", "egg_other", "detritus"]


def written(folder: Path, text: str, name: str = "taxonomy.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_lineages_of_a_table(tmp_path):
    folder = written(
        tmp_path,
        "class,lineage,living,aphia_id\n"
        "Calanoida,living>Metazoa>Copepoda>Calanoida,,1100\n"
        "Cyclopoida,living > Metazoa > Copepoda,yes,\n"
        "detritus,not-living>detritus,,\n"
        "not in this data set,living>other,,5\n",
    )
    found = read_taxonomy(folder, CLASSES)
    assert found.lineages == {
        "Calanoida": ("living", "Metazoa", "Copepoda", "Calanoida"),
        "Cyclopoida": ("living", "Metazoa", "Copepoda", "Cyclopoida"),
        "egg_other": ("egg_other",),
        "detritus": ("not-living", "detritus"),
    }
    assert found.living == {"Calanoida": True, "Cyclopoida": True, "detritus": False}
    assert found.aphia_ids == {"Calanoida": "1100"} and found.source == "taxonomy.csv"
    assert found.depth == 4 and found.taxon("detritus", 1) == ("not-living",)
    assert found.taxon("detritus", 3) == ("not-living", "detritus")
    assert found.distance("Calanoida", "Cyclopoida") == 2
    assert found.distance("Calanoida", "detritus") == 6
    assert found.distance("Calanoida", "Calanoida") == 0


def test_parents_of_a_table(tmp_path):
    folder = written(
        tmp_path,
        "class;parent;living\nCalanoida;Copepoda;1\nCyclopoida;Copepoda;\nCopepoda;Metazoa;\n"
        "detritus;;no\nMetazoa;;\negg_other;eggs\n",
    )
    found = read_taxonomy(folder, CLASSES)
    assert found.lineages["Cyclopoida"] == ("Metazoa", "Copepoda", "Cyclopoida")
    assert found.lineages["egg_other"] == ("eggs", "egg_other")
    assert found.lineages["detritus"] == ("detritus",)
    assert found.living == {"Calanoida": True, "detritus": False}


def test_hierarchy_of_an_export(tmp_path):
    """A merged class stands below what its categories have in common."""
    folder = written(
        tmp_path,
        "split,class,file,object_annotation_hierarchy\n"
        "train,Calanoida,1.png,living>Metazoa>Copepoda>Calanoida\n"
        "val,Calanoida,2.png,living>Metazoa>Copepoda>Calanoida\n"
        "train,egg_other,1.png,living>Metazoa>other>egg\n"
        "train,Cyclopoida,1.png,living>Metazoa>Copepoda>Cyclopoida\n"
        "train,Cyclopoida,2.png,living>Metazoa>Cladocera>Podon\n"
        "test,detritus,1.png,not-living>detritus\n",
        "manifest.csv",
    )
    found = read_taxonomy(folder, CLASSES)
    assert found.lineages == {
        "Calanoida": ("living", "Metazoa", "Copepoda", "Calanoida"),
        "Cyclopoida": ("living", "Metazoa", "Cyclopoida"),
        "egg_other": ("living", "Metazoa", "other", "egg_other"),
        "detritus": ("not-living", "detritus"),
    }
    assert found.living == {n: n != "detritus" for n in CLASSES}
    newer = (tmp_path / "manifest.csv").read_text().replace("living>Metazoa", "Biota>Animalia")
    assert read_taxonomy(written(tmp_path, newer, "manifest.csv"), CLASSES).living == found.living
    written(tmp_path, "class,lineage\nCalanoida,own\n")  # one's own table is preferred
    assert read_taxonomy(folder, CLASSES).lineages["Calanoida"] == ("own", "Calanoida")


@pytest.mark.parametrize(
    "text", ["split,class,file\n", "split,class,file,lineage\ntrain,a,1.png,\n"]
)
def test_without_lineages_there_is_no_taxonomy(tmp_path, text):
    assert read_taxonomy(tmp_path, ["a"]) is None
    assert read_taxonomy(written(tmp_path, text, "manifest.csv"), ["a"]) is None


def test_the_class_is_the_last_taxon_however_it_is_written():
    for text in ("Biota>other>egg", "Biota; other ;egg", "/#/Biota/other/egg", "Biota>other"):
        assert split_lineage(text, "egg_other", "egg") == ("Biota", "other", "egg_other")
    assert split_lineage("", "a", "a") == ("a",)


def test_a_sex_or_stage_stands_below_its_taxon(tmp_path):
    """In one's own table, the last taxon is the class only if it has the same name."""
    folder = written(
        tmp_path, "class,lineage\nCalanoida_female,Copepoda>Calanoida\nCalanoida,Copepoda\n"
    )
    found = read_taxonomy(folder, ["Calanoida", "Calanoida_female"])
    assert found.lineages["Calanoida_female"] == ("Copepoda", "Calanoida", "Calanoida_female")
    assert found.lineages["Calanoida"] == ("Copepoda", "Calanoida")
    assert found.distance("Calanoida", "Calanoida_female") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class,order\nCalanoida,x\n", "needs a column 'lineage' or 'parent'"),
        ("name,lineage\nCalanoida,x\n", "class"),
        ("class,lineage\ncalanoid,x\n", "names none of the 4 classes.*'calanoid'.*Calanoida"),
        ("class,lineage\n", "names none of the 4 classes"),
        (
            "class,lineage,living\nCalanoida,x,perhaps\n",
            "'living' of 'Calanoida' must be yes or no",
        ),
        ("class,parent\nCalanoida,x\nx,y\ny,Calanoida\n", "'Calanoida' is its own ancestor"),
    ],
)
def test_a_table_that_cannot_be_understood_is_one_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as raised:
        read_taxonomy(written(tmp_path, text), CLASSES)
    assert "\n" not in str(raised.value)
