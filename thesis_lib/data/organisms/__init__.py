"""Find the organism in an image, and measure its size, shape, grey values and texture."""

from thesis_lib.lazy import face

HOMES = {
    "border_color": "finding",
    "find_organism": "finding",
    "organism_alone": "regions",
    "region_properties": "regions",
}
__getattr__, __dir__, __all__ = face(__name__, HOMES)
