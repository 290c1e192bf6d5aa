"""What can be explained; see :mod:`portable_cam.export.targets`."""

from portable_cam.export.targets import (
    Boxes,
    Class,
    ClassSet,
    Columns,
    Contrast,
    Dense,
    Extra,
    Similarity,
    Target,
    Tokens,
)

__all__ = ["Boxes", "Class", "ClassSet", "Columns", "Contrast", "Dense", "Extra", "Similarity", "Target", "Tokens"]
