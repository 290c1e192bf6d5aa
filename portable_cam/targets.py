"""What can be explained; see :mod:`portable_cam.export.targets`."""

from portable_cam.export.targets import Class, Target

__all__ = ["Class", "Target"]
