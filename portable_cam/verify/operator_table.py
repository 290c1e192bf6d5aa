"""``docs/operators.md``: every operator of the ONNX standard, how it is treated, and how that was checked.

``python -m portable_cam.verify.operator_table docs/operators.md`` writes the file; a test compares it with the
registry.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from portable_cam.export.autodiff.rules import NO_GRADIENT, RULES
from portable_cam.export.graph.operators import OPSET
from portable_cam.export.graph.refusals import REFUSED
from portable_cam.export.passes.contrib import DECOMPOSITIONS
from portable_cam.export.passes.opset import BODIES
from portable_cam.export.passes.quantized.qoperator import REWRITES
from portable_cam.export.passes.static import RESOLVED
from portable_cam.verify.conformance import LEFT_OUT, matching, node_cases

_FLOATS = {"tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"}

#: Operators that the converter replaces before the walk, and their replacement.
CONVERTED = {"Scatter": "ScatterElements", "Upsample": "Resize"}

#: Operators with a floating-point path through them that is not differentiated, and the reason.
WITHOUT_RULE = {
    "DFT": "spectra do not occur in vision models",
    "MaxRoiPool": "superseded by RoiAlign",
    "MelWeightMatrix": "audio",
    "STFT": "audio",
}

_HEADER = """# Operators

For whoever wants to know whether an operator can be differentiated, and how that was checked.

Every operator of the ONNX standard (onnx {version}, opset {opset}), and what becomes of it when a model is
differentiated. `python -m portable_cam.verify.operator_table docs/operators.md` writes this file; a test compares it
with the registry.

- **rule**: it has a gradient rule in `export/autodiff/rules/`. Every rule has cases of its own, checked against torch
  autograd, finite differences and, where linear, the adjoint identity (`tests/test_rules.py` and the tables it names).
- **body**: it is replaced by a function of other operators before the walk, the standard's own or one from
  `export/passes/opset.py` for operators newer than opset {target}.
- **converted**: it becomes another operator when the model is brought to opset {target}.
- **resolved**: it builds or reads a sequence or an optional. Where the content is known before running, what is read is
  the tensor that was put in, and the operator is gone before the walk; else it is refused.
- **rewritten**: a quantised operator, written as DequantizeLinear, the operator on floats and QuantizeLinear, or with
  the standard's integer products ([quantised.md](quantised.md)).
- **zero**: its outputs do not vary smoothly with its inputs. The gradient is zero by definition; the walk stops there.
- **no floats**: it has no floating-point input, or no floating-point output.
- **refused**: an error that names the node, if it stands on the path from the score to what is differentiated for.

*Node tests*: how many of ONNX's own tests of the operator have been checked, of all that have a floating-point input
and output which the schema does not call non-differentiable. In all: {passed} of {total} over {operators} operators.
Each is compared with finite differences through ONNX Runtime, and its forward pass with the outputs that the test
expects (`tests/test_onnx_backend.py`).
"""


_IN_STANDARD = "in the standard's own operators"


def state(schema: Any) -> tuple[str, str]:
    """How an operator is treated, as a keyword of the table, and a remark."""
    name = schema.name
    if name in RULES:
        passed = RULES[name].inputs
        names = [schema.inputs[i].name for i in passed or ()]
        return "rule", f"for {', '.join(names)}" if passed else ""
    if name in NO_GRADIENT:
        return "zero", ""
    if ("", name) in REWRITES:
        return "rewritten", _IN_STANDARD
    if name in RESOLVED:
        return "resolved", ""
    if name in CONVERTED:
        return "converted", f"to {CONVERTED[name]}"
    has_body = name in BODIES or schema.has_function or schema.has_context_dependent_function
    if has_body and name not in WITHOUT_RULE:
        return "body", ""
    if not (_takes_floats(schema.inputs) and _takes_floats(schema.outputs)):
        return "no floats", ""
    return "refused", WITHOUT_RULE[name]


def _takes_floats(formal: Any) -> bool:
    return any(_FLOATS & set(parameter.types) for parameter in formal)


def table() -> str:
    """The whole document."""
    newest: dict[str, Any] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version >= getattr(newest.get(schema.name), "since_version", 0):
            newest[schema.name] = schema
    every, checked = (
        Counter(case.op_type for case in node_cases() if everything or case.left_out is None)
        for everything in (True, False)
    )
    text = _HEADER.format(
        version=onnx.__version__,
        opset=onnx.defs.onnx_opset_version(),
        target=OPSET,
        passed=checked.total(),
        total=every.total(),
        operators=len(every),
    )
    rows = []
    for name, schema in sorted(newest.items()):
        kind, remark = state(schema)
        tests = f"{checked[name]} of {every[name]}" if every[name] else ""
        rows.append((name, kind, remark, tests))
    counts = Counter(kind for _, kind, _, _ in rows)
    text += "\n" + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) + ".\n\n"
    text += _markdown(("operator", "state", "remark", "node tests"), rows)
    others = {key: ("refused", reason) for key, reason in REFUSED.items()}
    others |= dict.fromkeys(DECOMPOSITIONS, ("decomposed", "into operators of the standard"))
    others |= {f"{domain}::{name}": ("rewritten", _IN_STANDARD) for domain, name in REWRITES if domain}
    others |= {key: ("rule", "") for key in RULES if "::" in key}
    others |= {key: ("zero", "") for key in NO_GRADIENT if "::" in key}
    text += "\n## Operators of other domains\n\n"
    text += _markdown(("operator", "state", "remark"), [(key, *others[key]) for key in sorted(others)])
    text += "\n## Node tests that are not checked\n\n"
    left = [(pattern, str(len(matching(pattern))), why) for pattern, why in LEFT_OUT.items()]
    return text + _markdown(("tests", "how many", "reason"), left)


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
