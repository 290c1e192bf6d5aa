"""One gradient rule per ONNX operator. To add one: find the file of its kind, register a function, add its case
to ``tests/test_rules.py``; ``docs/writing-a-rule.md`` walks through it."""

from portable_cam.export.autodiff.registry import (
    NO_GRADIENT,
    RULES,
    Entry,
    Gradient,
    Vjp,
    differentiable_inputs,
    has_no_gradient,
    key_of,
    register,
    rule_for,
)
from portable_cam.export.autodiff.rules import (  # imported for their registrations
    control,
    conv,
    elementwise,
    index,
    linear,
    loops,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    relu,
    resize,
    sampling,
    scatter,
    shape,
)

__all__ = [
    "NO_GRADIENT", "RULES", "Entry", "Gradient", "Vjp", "control", "conv", "differentiable_inputs", "elementwise",
    "has_no_gradient", "index", "key_of", "linear", "loops", "norm", "pool", "quant", "recurrent", "reduce", "register",
    "relu", "resize", "rule_for", "sampling", "scatter", "shape",
]  # fmt: skip
