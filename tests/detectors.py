"""Small detectors as ONNX text: a convolution per stride, boxes decoded around the cells, a sigmoid for the classes."""

import numpy as np

from portable_cam.tasks.detect.head import grid

SIZE = (64, 32)  # cells of strides 8, 16, 32: 8 x 4, 4 x 2, 2 x 1
CELLS = 32 + 8 + 2
IMAGE = "float[1,3,64,32] x"


def scales(numbers: int, strides: tuple[int, ...] = (8, 16, 32), seed: int = 0) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes and weights of a convolution for each stride, s8, s16, s32 (1, numbers, h, w)."""
    body, weights, random = "", {}, np.random.default_rng(seed)
    for s in strides:
        body += f"s{s} = Conv<strides = [{s}, {s}]>(x, w{s}) "
        weights[f"w{s}"] = random.standard_normal((numbers, 3, s, s)).astype(np.float32) / s
    return body, weights


def joined(numbers: int, last: str) -> tuple[str, dict[str, np.ndarray]]:
    """The three scales as (1, numbers, cells) in the tensor ``z``, then more nodes."""
    body, weights = scales(numbers)
    weights["flat"] = np.array([1, numbers, -1], np.int64)
    for s in (8, 16, 32):
        body += f"f{s} = Reshape(s{s}, flat) "
    return body + "z = Concat<axis = 2>(f8, f16, f32) " + last, weights


def dense(classes: int, last: str, extras: int = 0) -> tuple[str, dict[str, np.ndarray]]:
    """A dense detector, each tensor (1, cells, numbers): centre ``xy`` and size ``wh`` in pixels, the sides ``left``,
    ``top``, ``right``, ``bottom``, the class scores ``p``, raw extras ``e``; then more nodes."""
    decode = """
        t = Transpose<perm = [0, 2, 1]>(z) c, w, q, e = Split<axis = 2>(t, parts)
        c1 = Sigmoid(c) c2 = Add(c1, places) xy = Mul(c2, strides) w1 = Exp(w) wh = Mul(w1, strides)
        h = Mul(wh, half) lt = Sub(xy, h) rb = Add(xy, h) p = Sigmoid(q)
        left, top = Split<axis = 2>(lt) right, bottom = Split<axis = 2>(rb)
    """
    extras = extras or 1
    body, weights = joined(4 + classes + extras, decode + last)
    places, strides = (value[None] for value in grid(SIZE, (8, 16, 32)))
    weights |= {"places": places, "strides": strides, "half": np.float32(0.5)}
    return body, weights | {"parts": np.array([2, 2, classes, extras], np.int64)}
