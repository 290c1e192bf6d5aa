# SPDX-License-Identifier: Apache-2.0
"""The table of rules knows an operator by its domain and its name."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.assemble.differentiate import differentiate
from portable_cam.export.autodiff.rules import RULES, key_of, register


def test_a_name_alone_is_the_standards() -> None:
    assert key_of("", "Conv") == key_of("ai.onnx", "Conv") == "Conv"
    assert key_of("com.microsoft", "Gelu") == "com.microsoft::Gelu"


def test_an_operator_is_registered_once_in_each_domain() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register("Relu", rule=lambda v: v.g)
    with pytest.raises(ValueError, match="registered twice"):
        register("Relu", rule=lambda v: v.g, domain="ai.onnx")


def _model_of_domain(domain: str) -> onnx.ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"], "odd", domain=domain)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_a_rule_of_another_domain_is_found_and_the_standards_rule_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model_of_domain("own.domain")
    with pytest.raises(UnsupportedOperatorError, match=r"own\.domain::Relu"):
        differentiate(model, "y", ["x"])
    monkeypatch.setitem(RULES, "own.domain::Relu", RULES["Neg"])
    nodes = [(node.domain, node.op_type) for node in differentiate(model, "y", ["x"]).graph.node]
    assert ("", "Neg") in nodes
    assert [n for n in nodes if n[0]] == [("own.domain", "Relu")]
