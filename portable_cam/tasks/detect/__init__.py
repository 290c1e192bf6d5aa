"""Object detection at run time: which family a detector is of, its boxes, and which of them are left.

One file per family of heads, each with ``recognize_head`` (from the graph) and a head that decodes outputs to boxes.
"""

from portable_cam.tasks.detect.described import read_head
from portable_cam.tasks.detect.families import find_head
from portable_cam.tasks.detect.head import Head
from portable_cam.tasks.detect.nms import Detection, best, iou, suppress

__all__ = ["Detection", "Head", "best", "find_head", "iou", "read_head", "suppress"]
