"""What can be explained; see :mod:`portable_cam.export.targets`."""

from portable_cam.export.targets import Class, ClassSet, Contrast, Dense, Extra, Similarity, Target, Tokens

__all__ = ["Class", "ClassSet", "Contrast", "Dense", "Extra", "Similarity", "Target", "Tokens"]
