"""The named preprocessings: of training recipes, and of families of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: ``imagenet`` as torchvision does it, ``tf`` -1 to 1, ``caffe`` BGR minus the mean pixel, ``unit`` 0 to 1, ``raw``
#: 0 to 255; then those of families of detectors. A mean or std that is one number holds for every channel.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {"color": "rgb", "scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
                 "resize": "shortest+crop", "interpolation": "bilinear"},
    "tf": {"color": "rgb", "scale": 1 / 127.5, "mean": 1.0, "std": 1.0, "resize": "stretch"},
    "caffe": {"color": "bgr", "scale": 1.0, "mean": (104.0, 117.0, 123.0), "std": 1.0, "resize": "stretch"},
    "unit": {"color": "rgb", "scale": 1 / 255, "mean": 0.0, "std": 1.0, "resize": "stretch"},
    "raw": {"color": "rgb", "scale": 1.0, "mean": 0.0, "std": 1.0, "resize": "stretch"},
    "yolox": {"color": "bgr", "scale": 1.0, "mean": 0.0, "std": 1.0, "resize": "letterbox", "pad_value": 114,
              "pad_position": "top-left"},
    "yolo": {"color": "rgb", "scale": 1 / 255, "mean": 0.0, "std": 1.0, "resize": "letterbox", "pad_value": 114,
             "pad_position": "center"},
    "nanodet": {"color": "bgr", "scale": 1.0, "mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395),
                "resize": "stretch"},
    "fastestdet": {"color": "bgr", "scale": 1 / 255, "mean": 0.0, "std": 1.0, "resize": "stretch"},
    "yunet": {"color": "bgr", "scale": 1.0, "mean": 0.0, "std": 1.0, "resize": "letterbox", "pad_value": 0,
              "pad_position": "top-left"},
    "ultraface": {"color": "rgb", "scale": 1.0, "mean": 127.0, "std": 128.0, "resize": "stretch"},
}  # fmt: skip


PRESET_FIELDS = frozenset(
    {"color", "scale", "mean", "std", "resize", "resize_to", "interpolation", "pad_value", "pad_position"}
)
