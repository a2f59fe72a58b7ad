"""Find images that leak from one split into another: duplicates, near-duplicates and groups."""

from thesis_lib.lazy import face

HOMES = {
    "ANY": "leaks",
    "KINDS": "leaks",
    "TELLS_LITTLE": "leaks",
    "example_pairs": "leaks",
    "find_leaks": "leaks",
    "split_files_of": "leaks",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
