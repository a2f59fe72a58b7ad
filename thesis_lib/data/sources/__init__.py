"""The forms in which plankton images come: each reader lists the images of a source by class."""

from thesis_lib.lazy import face

FORMATS = ("class-folders", "ecotaxa", "learning-set", "groups", "split", "table")
# Of the annotations in EcoTaxa; for the last, EcoTaxa writes an empty text.
STATUSES = ("validated", "predicted", "dubious", "unclassified")

HOMES = {
    "Listing": "listing",
    "Columns": "labelled_table",
    "Reading": "recognition",
    "apply_class_map": "class_map",
    "read_source": "recognition",
    "unpacked": "archives",
    "Taxonomy": "taxonomy",
    "read_taxonomy": "taxonomy",
    "split_by_manifest": "manifests",
    "manifest_counts": "manifests",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
