"""What is explained: small ONNX subgraphs that reduce scores to one number per image and target.

One file per kind of output: ``classes``, ``dense`` (a score per pixel), ``boxes``, ``sequence``, ``embedding``.
Everything downstream (gradients, methods, self-check) starts from the number and does not know the task. How to add
one: ``docs/writing-a-target.md``.
"""

from portable_cam.export.targets.box_layout import AXES, Columns
from portable_cam.export.targets.boxes import Boxes
from portable_cam.export.targets.classes import Class, ClassSet, Contrast
from portable_cam.export.targets.dense import Dense
from portable_cam.export.targets.embedding import Similarity
from portable_cam.export.targets.protocol import Extra, Target
from portable_cam.export.targets.sequence import Tokens

__all__ = [
    "AXES",
    "Boxes",
    "Class",
    "ClassSet",
    "Columns",
    "Contrast",
    "Dense",
    "Extra",
    "Similarity",
    "Target",
    "Tokens",
]
