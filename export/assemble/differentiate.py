"""``portable_cam.export.assemble.differentiate``: a model and its vector-Jacobian product in one ONNX file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.checked import checked
from portable_cam.errors import LayerError, OptionError, TargetError
from portable_cam.export.autodiff.backward import ReluRule, Saturation, backward, check_saturation, depends_on
from portable_cam.export.autodiff.relu_policy import ReluPolicy, guided_nodes
from portable_cam.export.deploy.ort_workarounds import apply_ort_workarounds
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.passes.normalized import AnyModel, normalized


@checked
def differentiate(
    model: AnyModel,
    of: str,
    wrt: Sequence[str],
    relu_rule: ReluRule = "standard",
    relu_policy: ReluPolicy = "relu",
    saturation: Saturation = "pass",
) -> onnx.ModelProto:
    """The model with the gradient of one of its tensors.

    Args:
        model: A path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        of: The tensor to differentiate: an output, or any tensor inside.
        wrt: The tensors to differentiate for: inputs, weights, or any tensors inside.
        relu_rule: ``"standard"``, ``"guided"`` or ``"deconvnet"``, for the nodes that ``relu_policy`` names.
        relu_policy: ``"relu"``, ``"relu+clip"`` or ``"all"``; see :mod:`portable_cam.export.autodiff.relu_policy`.
        saturation: ``"pass"`` for a gradient that goes straight through where a quantisation range cuts a value off,
            ``"mask"`` for none there.

    Returns:
        A model with the old inputs and one more, ``seed`` (shape and type of ``of``: the gradient with respect to
        it), and with the old outputs and more, ``gradient.<tensor>`` for each of ``wrt``, in its shape and type
        (float32 for a tensor of integers: the gradient of its dequantised values). Names that the model has already
        get an underscore more, so that a gradient can be differentiated again.
        Standard ONNX operators only.

    Raises:
        UnsupportedOperatorError: An operator on the path has no rule; the message names the node and the path.
        TargetError, LayerError: There is no such tensor, or it is not of a floating-point type.
    """
    if relu_rule not in {"standard", "guided", "deconvnet"}:
        raise OptionError(f"relu_rule is 'standard', 'guided' or 'deconvnet', not {relu_rule!r}")
    check_saturation(saturation)
    if isinstance(wrt, str):
        wrt = [wrt]
    normal = normalized(model).copy()
    graph = normal.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    if of not in values or values[of].dtype not in FLOATS:
        raise TargetError(f"'{of}' {_not_a_tensor(of, values)}: it cannot be differentiated")
    for name in wrt:
        floats = name in values and values[name].dtype in FLOATS
        # an integer image, or a quantised tensor, has the gradient of its dequantised values
        if not floats and (name not in values or values[of] not in depends_on(list(graph), [values[name]])):
            raise LayerError(f"'{name}' {_not_a_tensor(name, values)}: nothing can be differentiated for it")
    score, sources = values[of], [values[name] for name in wrt]
    builder = Builder(graph)
    seed = ir.Value(name=_free_name("seed", values), type=score.type, shape=score.shape)
    graph.inputs.append(seed)
    guided = guided_nodes(graph, relu_policy)
    gradients = backward(graph, builder, {score: seed}, sources, relu_rule, guided, saturation)
    for source, gradient in zip(sources, gradients, strict=True):
        name = _free_name(f"gradient.{source.name}", values)  # taken where a gradient is differentiated
        add_output(graph, builder, gradient, name, source.shape)
    passes.RemoveUnusedNodesPass()(normal)
    apply_ort_workarounds(graph)
    return ir.to_proto(normal)


def add_output(graph: ir.Graph, builder: Builder, value: ir.Value, name: str, shape: ir.Shape | None) -> ir.Value:
    """Make a value a graph output under this name."""
    out = builder.op("Identity", value)
    out.name, out.shape = name, shape
    graph.outputs.append(out)
    return out


def _free_name(name: str, values: dict[str, ir.Value]) -> str:
    while name in values:
        name += "_"
    return name


def _not_a_tensor(name: str, values: dict[str, ir.Value]) -> str:
    if name in values:
        return f"is of type {values[name].dtype}, not floating point"
    import difflib

    close = difflib.get_close_matches(name, list(values), n=3)
    hint = f"; near it: {', '.join(close)}" if close else ""
    return f"is no tensor of the model{hint}"
