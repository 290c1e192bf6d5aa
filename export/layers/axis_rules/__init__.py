"""The table of what operators make of the axes of their inputs: one rule each, derived forwards from the image.

``docs/reading.md`` shows it. A rule is registered by operator, as the gradient's are; an operator without one loses all
axes, and is named as what lost them.
"""

from portable_cam.export.layers.axis_rules import control, indices, mixes, moves, views, windows
from portable_cam.export.layers.axis_rules.at import AXIS_RULES, At, AxesOf, Rule, rule
from portable_cam.export.layers.axis_rules.walk import follow

__all__ = [
    "AXIS_RULES",
    "At",
    "AxesOf",
    "Rule",
    "control",
    "follow",
    "indices",
    "mixes",
    "moves",
    "rule",
    "views",
    "windows",
]
