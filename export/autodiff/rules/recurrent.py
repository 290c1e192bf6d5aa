"""LSTM, GRU and RNN: the gradient through the recurrence of each.

The forward node stays as it is. Its output Y holds the hidden state of every step, so that the pre-activations of all
steps are one matrix product, and everything but the recurrence itself is computed for all steps at once: gates,
slopes, and their products, the factors k by which a gradient is multiplied on its way. What remains
sequential is a Scan from the last step to the first, whose body is one matrix product and a few multiplications.
Measured against unrolling: ``docs/adr/0008-recurrent-layers.md``.

Equations, layouts and the order of the gates are those of the operators' definitions,
https://onnx.ai/onnx/operators/onnx__LSTM.html and beside it. A padded step (beyond ``sequence_lens``) passes the
state on: its factors are zero, but for that from state to state, which is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.recurrent_activations import Activation
from portable_cam.export.autodiff.rules.recurrent_node import CellGradients, Direction, carry, present, recurrent
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.scan import Tensors, write_recurrence


@register("LSTM")
def lstm(v: Vjp) -> Sequence[Gradient]:
    coupled = bool(v.int_attr("input_forget", 0))
    return recurrent(v, ("Sigmoid", "Tanh", "Tanh"), 4, lambda d, functions: _lstm(d, functions, coupled))


@register("GRU")
def gru(v: Vjp) -> Sequence[Gradient]:
    return recurrent(v, ("Sigmoid", "Tanh"), 3, _gru_after if v.int_attr("linear_before_reset", 0) else _gru_before)


@register("RNN")
def rnn(v: Vjp) -> Sequence[Gradient]:
    return recurrent(v, ("Tanh",), 1, _rnn)


def _rnn(d: Direction, functions: Sequence[Activation]) -> CellGradients:
    """h = f(a)."""
    b, (f,) = d.b, functions
    _, slope = f(b, b.op("Add", d.from_x(), d.linear(d.before, d.r, d.r_bias)))
    k = [d.masked(slope), *present(d.padding)]

    def step(b: Builder, states: Tensors, k: Tensors) -> tuple[Tensors, Tensors]:
        da = b.op("Mul", states[0], k[0])
        return [carry(b, b.op("MatMul", da, d.r), states[0], k[1:])], [da]

    first, (da,) = d.scan_back(step, k)
    return CellGradients(da, da, first)


def _lstm(d: Direction, functions: Sequence[Activation], coupled: bool) -> CellGradients:
    """c' = f c + i g, h' = o act(c'); with ``coupled``, f = 1 - i. Gates in the order i, o, f, g."""
    b, (f_act, g_act) = d.b, functions[:2]
    h_act = replace(functions[2], clip=None)  # ONNX Runtime does not clip the cell state
    a_i, a_o, a_f, a_g = d.split(b.op("Add", d.from_x(), d.linear(d.before, d.r, d.r_bias)), 4)
    p_i, p_o, p_f = [None] * 3 if d.peepholes is None else d.split(d.peepholes, 3, axis=0)
    g, slope_g = g_act(b, a_g)
    cell = _cells(d, f_act, (a_i, a_f, g), (p_i, p_f), coupled)
    i, slope_i = f_act(b, _peep(b, a_i, p_i, cell))
    forget, slope_f = f_act(b, _peep(b, a_f, p_f, cell))
    if coupled:
        forget = b.op("Sub", b.number(1, i), i)
    new = b.op("Add", b.op("Mul", forget, cell), b.op("Mul", i, g))
    o, slope_o = f_act(b, _peep(b, a_o, p_o, new))
    h, slope_h = h_act(b, new)

    k_i = b.op("Mul", b.op("Sub", g, cell) if coupled else g, slope_i)
    k_f = b.op("Mul", b.op("Mul", cell, slope_f), 0 if coupled else 1)
    k_o = b.op("Mul", h, slope_o)
    k_cell = b.op("Mul", o, slope_h)  # from the hidden to the cell state
    k_carry = forget  # from a cell state to the one before
    if p_i is not None and p_o is not None and p_f is not None:
        k_cell = b.op("Add", k_cell, b.op("Mul", k_o, p_o))
        k_carry = b.op("Add", k_carry, b.op("Add", b.op("Mul", k_i, p_i), b.op("Mul", k_f, p_f)))
    k_gates = b.op("Concat", k_i, k_o, k_f, b.op("Mul", i, slope_g), axis=-1)

    def step(b: Builder, states: Tensors, k: Tensors) -> tuple[Tensors, Tensors]:
        dh, dc = states
        dc = b.op("Add", dc, b.op("Mul", dh, k[0]))
        da = b.op("Mul", b.op("Concat", dc, dh, dc, dc, axis=-1), k[2])
        return [carry(b, b.op("MatMul", da, d.r), dh, k[3:]), b.op("Mul", dc, k[1])], [da]

    k = [d.masked(k_cell), d.kept(k_carry), d.masked(k_gates), *present(d.padding)]
    first, (da,) = d.scan_back(step, k)
    if d.peepholes is None:
        return CellGradients(da, da, first)
    da_i, da_o, da_f, _ = d.split(da, 4)
    to_peepholes = [b.op("Mul", da_i, cell), b.op("Mul", da_o, new), b.op("Mul", da_f, cell)]
    return CellGradients(da, da, first, to_peepholes=to_peepholes)


def _cells(d: Direction, act: Activation, gates: Tensors, peepholes: Sequence[Gradient], coupled: bool) -> ir.Value:
    """The cell state that each step starts from, (T, N, H): the only state that Y does not hold."""
    (p_i, p_f), (a_i, a_f, g) = peepholes, gates

    def kept_and_added(b: Builder, cell: ir.Value, a_i: ir.Value, a_f: ir.Value, g: ir.Value) -> Tensors:
        i = act.value(b, _peep(b, a_i, p_i, cell))
        one = b.number(1, i)
        forget = b.op("Sub", one, i) if coupled else act.value(b, _peep(b, a_f, p_f, cell))
        return forget, b.op("Mul", i, g)

    def step(b: Builder, states: Tensors, inputs: Tensors) -> tuple[Tensors, Tensors]:
        (cell,) = states
        if p_i is None:
            forget, added = inputs
        else:
            forget, added = kept_and_added(b, cell, *inputs[:3])
            if d.mask is not None:
                forget, added = b.op("Add", b.op("Mul", forget, inputs[3]), inputs[4]), b.op("Mul", added, inputs[3])
        return [b.op("Add", b.op("Mul", forget, cell), added)], [cell]

    if p_i is None:  # nothing but the sum itself is sequential
        forget, added = kept_and_added(d.b, d.first_cell, a_i, a_f, g)
        inputs = [d.kept(forget), d.masked(added)]
    else:
        inputs = [a_i, a_f, g, *present(d.mask), *present(d.padding)]
    _, (cell,) = write_recurrence(d.b, step, [d.first_cell], inputs, reverse=d.backwards)
    return cell


def _gru_after(d: Direction, functions: Sequence[Activation]) -> CellGradients:
    """h' = (1 - z) g(a) + z h with a = X W^T + r * u, u = h R^T + Rb. Gates in the order z, r, h."""
    b, (f_act, g_act) = d.b, functions
    x_z, x_r, x_h = d.split(d.from_x(), 3)
    h_z, h_r, u = d.split(d.linear(d.before, d.r, d.r_bias), 3)
    z, slope_z = f_act(b, b.op("Add", x_z, h_z))
    r, slope_r = f_act(b, b.op("Add", x_r, h_r))
    new, slope_h = g_act(b, b.op("Add", x_h, b.op("Mul", r, u)))
    k_h, k_z = _gru_k(d, z, new, slope_z, slope_h)
    k_r, k_u = b.op("Mul", b.op("Mul", k_h, u), slope_r), b.op("Mul", k_h, r)

    def step(b: Builder, states: Tensors, k: Tensors) -> tuple[Tensors, Tensors]:
        (dh,) = states
        da = b.op("Mul", b.op("Concat", dh, dh, dh, axis=-1), k[1])
        return [b.op("Add", b.op("MatMul", da, d.r), b.op("Mul", dh, k[0]))], [dh]

    k = [d.kept(z), d.masked(b.op("Concat", k_z, k_r, k_u, axis=-1))]
    first, (dh,) = d.scan_back(step, k)
    to_z, to_r = (d.masked(b.op("Mul", dh, k)) for k in (k_z, k_r))
    to_x = b.op("Concat", to_z, to_r, d.masked(b.op("Mul", dh, k_h)), axis=-1)
    to_state = b.op("Concat", to_z, to_r, d.masked(b.op("Mul", dh, k_u)), axis=-1)
    return CellGradients(to_x, to_state, first)


def _gru_before(d: Direction, functions: Sequence[Activation]) -> CellGradients:
    """h' = (1 - z) g(a) + z h with a = X W^T + (r * h) R^T + Rb. Gates in the order z, r, h."""
    b, (f_act, g_act) = d.b, functions
    x_z, x_r, x_h = d.split(d.from_x(), 3)
    r_z, r_r, r_h = d.split(d.r, 3, axis=0)
    bias_z, bias_r, bias_h = [None] * 3 if d.r_bias is None else d.split(d.r_bias, 3, axis=0)
    z, slope_z = f_act(b, b.op("Add", x_z, d.linear(d.before, r_z, bias_z)))
    r, slope_r = f_act(b, b.op("Add", x_r, d.linear(d.before, r_r, bias_r)))
    reset = b.op("Mul", r, d.before)
    new, slope_h = g_act(b, b.op("Add", x_h, d.linear(reset, r_h, bias_h)))
    k_h, k_z = _gru_k(d, z, new, slope_z, slope_h)
    gates = b.op("Concat", r_z, r_r, axis=0)

    def step(b: Builder, states: Tensors, k: Tensors) -> tuple[Tensors, Tensors]:
        (dh,), (k_carry, k_h, k_z, k_r, r) = states, k
        da_h = b.op("Mul", dh, k_h)
        d_reset = b.op("MatMul", da_h, r_h)
        da = b.op("Concat", b.op("Mul", dh, k_z), b.op("Mul", d_reset, k_r), axis=-1)
        carried = b.op("Add", b.op("Mul", dh, k_carry), b.op("Mul", d_reset, r))
        return [b.op("Add", b.op("MatMul", da, gates), carried)], [b.op("Concat", da, da_h, axis=-1)]

    k_r = b.op("Mul", d.before, slope_r)
    first, (da,) = d.scan_back(step, [d.kept(z), d.masked(k_h), d.masked(k_z), k_r, r])
    return CellGradients(da, da, first, reset=reset)


def _gru_k(d: Direction, z: ir.Value, new: ir.Value, slope_z: ir.Value, slope_h: ir.Value) -> tuple[ir.Value, ir.Value]:
    b = d.b
    k_h = b.op("Mul", b.op("Sub", b.number(1, z), z), slope_h)
    return k_h, b.op("Mul", b.op("Sub", d.before, new), slope_z)


def _peep(b: Builder, a: ir.Value, peephole: Gradient, cell: ir.Value) -> ir.Value:
    return a if peephole is None else b.op("Add", a, b.op("Mul", peephole, cell))
