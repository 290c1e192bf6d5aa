"""Rules for operators with subgraphs: through their bodies."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.layers.axes import Axis, Known, channels, lost
from portable_cam.export.layers.axis_rules.at import At, AxesOf, rule, spatial_of
from portable_cam.export.layers.axis_rules.join import joined
from portable_cam.export.layers.axis_rules.walk import follow


@rule("If")
def if_(at: At) -> list[Known | None]:
    """What both branches agree on."""
    branches = [at.node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    inside = [follow(branch, dict(at.known)) for branch in branches]
    found: list[Known | None] = []
    for i in range(len(at.node.outputs)):
        ends = [known.get(branch.outputs[i]) for branch, known in zip(branches, inside, strict=True)]
        there = [end for end in ends if end is not None]
        if not there:
            found.append(None)
        elif len(there) == 1 or there[0] == there[1]:
            found.append(there[0])
        elif any(end.axes is None for end in there) or len(there[0].axes or ()) != len(there[1].axes or ()):
            found.append(at.all_lost(i, "its branches differ"))
        else:
            pairs = zip(there[0].axes or (), there[1].axes or (), strict=True)
            found.append(Known(tuple(joined(at, a, b) for a, b in pairs), there[0].wide | there[1].wide))
    return found


@rule("Scan")
def scan(at: At) -> list[Known | None]:
    """Step by step: the axis that is scanned comes back in the outputs, each step of it seen from all."""
    body, count = at.node.attributes["body"].as_graph(), at.int_attr("num_scan_inputs", 0)
    states = len(at.node.inputs) - count
    ways_in, ways_out = at.ints_attr("scan_input_directions"), at.ints_attr("scan_output_directions")
    axes_in = at.ints_attr("scan_input_axes") or [0] * count
    axes_out = at.ints_attr("scan_output_axes") or [0] * (len(at.node.outputs) - states)
    given, scanned = dict(at.known), None
    wide = at.wide
    for i, inner in enumerate(body.inputs):
        value = at.node.inputs[i]
        known = at.known.get(value) if value is not None else None
        if known is None:
            continue
        if i >= states and known.axes is not None:
            axis = axes_in[i - states] % len(known.axes)
            scanned = known.axes[axis] if scanned is None else joined(at, scanned, known.axes[axis])
            known = Known((*known.axes[:axis], *known.axes[axis + 1 :]), known.wide)
        given[inner] = known
    if scanned is not None:
        wide |= spatial_of(scanned)
    if any(ways_in) or any(ways_out):
        scanned = None if scanned is None else lost(None, f"{at.name}: it scans backwards")
    return _ends(
        at,
        body.inputs[:states],
        body,
        body.outputs,
        given,
        wide,
        [(axis, scanned or channels(None)) for axis in axes_out],
    )


@rule("Loop")
def loop(at: At) -> list[Known | None]:
    """What the iterations leave as it is; what they stack has an axis of iterations."""
    body, given = at.node.attributes["body"].as_graph(), dict(at.known)
    for inner, value in zip(body.inputs[2:], at.node.inputs[2:], strict=True):
        known = at.known.get(value) if value is not None else None
        if known is not None:
            given[inner] = known
    stacked = [(0, channels(None))] * (len(body.outputs) - len(body.inputs) + 1)
    return _ends(at, body.inputs[2:], body, body.outputs[1:], given, at.wide, stacked)


def _ends(
    at: At,
    states: Sequence[ir.Value],
    body: ir.Graph,
    outputs: Sequence[ir.Value],
    given: AxesOf,
    wide: frozenset[int],
    stacked: Sequence[tuple[int, Axis]],
) -> list[Known | None]:
    """What is known of the outputs of a loop: its states behind the last iteration, if an iteration leaves what their
    axes are, and what it stacks along a new axis."""
    inside = follow(body, given)
    found: list[Known | None] = []
    for i, end in enumerate(outputs):
        known = inside.get(end)
        start = given.get(states[i]) if i < len(states) else None
        if known is None and start is None:
            found.append(None)
        elif known is None or known.axes is None:
            found.append(at.all_lost(i))
        elif i >= len(states):
            axis, new = stacked[i - len(states)]
            axis %= len(known.axes) + 1
            found.append(Known((*known.axes[:axis], new, *known.axes[axis:]), known.wide | wide))
        elif start is None or known.axes == start.axes:
            found.append(Known(known.axes, known.wide | wide))
        else:
            found.append(at.all_lost(i, "its iterations change what the axes are"))
    return found
