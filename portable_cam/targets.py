"""What can be explained; see :mod:`portable_cam.export.targets`."""

from portable_cam.export.targets import Class, Extra, Target

__all__ = ["Class", "Extra", "Target"]
