# SPDX-License-Identifier: Apache-2.0
"""Tensors of a model as it runs, for tasks that decode them before they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.runtime.session import Session


def raw_session(model: AnyModel, names: Sequence[str], **options: Any) -> Session:
    """A session that gives these tensors of a model, whether they are its outputs or not.

    Args:
        model: The model.
        names: The tensors.
        **options: As for :class:`~portable_cam.runtime.session.Session`.
    """
    plain = normalized(model).copy()
    graph = plain.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    passes.RemoveUnusedNodesPass()(plain)
    apply_ort_workarounds(graph)
    return Session(plain, **options)


def session_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an explainer's options that say where and how a session runs."""
    return {name: options[name] for name in ("device", "providers", "threads") if name in options}
