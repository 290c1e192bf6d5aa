"""An exported explanation proves itself on random pixels: the checks of :mod:`portable_cam.verify.checks`, of the file
as it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from portable_cam.export.format import EXPLAINED, TARGETS, ExplanationMetadata
from portable_cam.export.options import Options
from portable_cam.export.passes.normalized import AnyModel, NormalizedModel, normalized
from portable_cam.runtime.session import Session
from portable_cam.verify.bench import random_feeds
from portable_cam.verify.check import Check, describe
from portable_cam.verify.check_rounding import rounds
from portable_cam.verify.check_subject import Subject
from portable_cam.verify.checks import check_subject

#: Under which key a file's metadata has the outcome.
METADATA_KEY = "portable_cam.self_check"
_SAME = 1e-3  # of the greatest value of an output: the same integers give the same numbers


@dataclass(frozen=True)
class Proof:
    """The checks of a file on random pixels.

    Attributes:
        checks: By :func:`~portable_cam.verify.checks.check_explanation`. That a map of noise disagrees with occlusion
            says nothing, so that check is not among them.
    """

    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def forward(self) -> float:
        """The greatest difference of the model's outputs, relative to their greatest value."""
        return next((check.value or 0.0 for check in self.checks if check.name == "outputs"), 0.0)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def describe(self) -> str:
        """One line for a person."""
        return f"{'passed' if self.passed else 'FAILED'}: {describe(self.checks)}"


def self_check(model: AnyModel, explanation: onnx.ModelProto | ir.Model, options: Options | None = None) -> Proof:
    """Run the explanation next to the original on random pixels.

    Args:
        model: The original.
        explanation: What ``build_explanation`` or ``explanation_model`` made of it.
        options: As it was built with; None: what its metadata says, and a class as target.

    Raises:
        ModelError: It is not what ``build_explanation`` makes.
    """
    known = normalized(model)
    if isinstance(explanation, onnx.ModelProto):
        explanation = ir.from_proto(explanation)
    metadata = ExplanationMetadata.read(explanation.metadata_props)
    if options is None:
        options = replace(
            metadata.options,
            layer=metadata.layer or None,
            axes=metadata.axes,
            output=metadata.output.split(", ") if metadata.output else None,
            row=metadata.row,
            as_is=bool(metadata.as_is),
        )
    proof = _proof(known, explanation, metadata, options)
    if any(rounds(node) for node in known.graph) and proof.forward >= _SAME:
        # which operators ONNX Runtime fuses to integer kernels alone moves the logits of an int8 model by several
        # steps: then node by node, as both graphs are written, they must agree
        proof = _proof(known, explanation, metadata, options, as_written=True)
        if proof.forward >= _SAME:
            return Proof([replace(check, passed=False) if check.name == "outputs" else check for check in proof.checks])
    return proof


def _proof(
    model: NormalizedModel,
    explanation: ir.Model,
    metadata: ExplanationMetadata,
    options: Options,
    *,
    as_written: bool = False,
) -> Proof:
    session = Session(explanation, as_written=as_written)
    fixed = session.inputs[metadata.image].shape[0]
    batch = fixed if isinstance(fixed, int) else 1
    asked = {**session.inputs, **session.optional}[TARGETS].shape[1]
    count = asked if isinstance(asked, int) else 1
    feeds = random_feeds(session, batch) | {TARGETS: np.full((batch, count), -1, np.int64)}
    for name in metadata.inputs:  # one target: its further inputs of an index are 0, the first class or token
        given = feeds[name][:, :1]
        feeds[name] = np.zeros_like(given) if given.dtype.kind in "iu" else np.abs(given)
    values = session.run(feeds)
    explained = {**feeds, TARGETS: values[EXPLAINED]}
    subject = Subject(model, options, metadata, explained, values, as_written=as_written)
    return Proof([check for check in check_subject(subject) if check.name != "occlusion"])


def record(explanation: ir.Model, proof: Proof) -> None:
    """Write the outcome into the file's metadata."""
    content = {"passed": proof.passed, "checks": [check.to_dict() for check in proof.checks]}
    explanation.metadata_props[METADATA_KEY] = json.dumps(content)
