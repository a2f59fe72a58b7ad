"""Split a source into train, val and test: by a recipe, by groups, or as it was published."""

from thesis_lib.lazy import face

HOMES = {
    "RECIPES": "recipes",
    "SplitOptions": "recipes",
    "split_dataset": "recipes",
    "split_files": "recipes",
    "split_listing": "recipes",
    "grouping_of": "recipes",
    "describe_groups": "description",
    "describe_split": "description",
    "check_places": "writer",
    "is_number": "sizes",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
