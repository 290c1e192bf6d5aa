"""From the signed maps of layers to the heat map of a method, where its layers look at, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from portable_cam.errors import OptionError
from portable_cam.export import format
from portable_cam.export.assemble.plan import Plan, emit
from portable_cam.export.layers.placement import ViewPlacement
from portable_cam.export.layers.view_maps import PlacedViews, place_views
from portable_cam.export.methods import profiles
from portable_cam.export.methods.method import Method


def put_back(plan: Plan, size: ir.Value) -> dict[str, PlacedViews]:
    """Write where the views of each layer lie, and that as outputs, by the layer's name."""
    b, image = plan.builder, plan.image
    pairs = list(zip(plan.layers, plan.places, plan.maps, strict=True))
    if plan.cam is not None:
        pairs.append((plan.cam.end.activation, plan.cam.places[0], plan.cam.map))
    found: dict[str, PlacedViews] = {}
    for layer, there, maps in pairs:
        name = str(layer.name)
        if isinstance(there, ViewPlacement) and name not in found:
            views = found[name] = place_views(b, there, maps, size, image)
            lead = {"per_target": False, "of_images": views.several is not None}
            dims = [2, 3] if views.several is None else [views.several, 2, 3]
            emit(plan, f"{format.VIEWS}{name}", views.places(b), dims, **lead)
            emit(plan, f"{format.UNSEEN}{name}", views.unseen(b), [], per_target=False)
    return found


def heat_maps(
    plan: Plan, method: Method, signed: list[ir.Value], size: ir.Value, views: Mapping[str, PlacedViews]
) -> ir.Value:
    """Write the outputs of one method of maps; returns the map that a product multiplies with."""
    b, profile = plan.builder, plan.options.profile
    if profile == "captum" and len(signed) > 1:
        names = ", ".join(str(layer.name) for layer in plan.layers)
        raise OptionError(f"the profile captum gives a map per layer, not one of {names}: explain one layer at a time")
    raw = signed if profile == "captum" else [b.op("Relu", maps) for maps in signed]
    cam = plan.cam if method.classifier else None
    layers, places = (plan.layers, plan.places) if cam is None else ([cam.end.activation], cam.places)
    if profile == "captum" and any(there is not None and there.parts for there in places):
        raise OptionError(
            f"the profile captum leaves a map at its layer's size, but '{layers[0].name}' looks at several parts of "
            "the image or at places that are known at run time: choose another profile"
        )
    pairs = zip(layers, places, strict=True)
    where = [views[str(v.name)] if isinstance(there, ViewPlacement) else there for v, there in pairs]
    final, wide = profiles.heat_map(b, raw, size, profile, where)
    if not plan.shown(method):
        return wide
    small = [list(axes.size) for axes in (plan.axes if cam is None else [cam.axes])]
    shape = small[0] if profile == "captum" else plan.image_size
    emit(plan, format.output_of(method.name), final, shape)
    for i, maps in enumerate(raw):
        layer, there = None if len(raw) == 1 else str(layers[i].name), where[i]
        if isinstance(there, PlacedViews) and there.several != 1:
            if there.several is not None:
                of_views = there.by_image(b, maps, rank=4, behind=2)
                emit(plan, format.raw_output(method.name, layer), of_views, [there.several, *small[i]])
            continue
        emit(plan, format.raw_output(method.name, layer), maps, small[i])
    one = signed[0] if len(signed) == 1 else final
    if len(signed) == 1 and isinstance(where[0], PlacedViews) and where[0].several != 1:
        one = where[0].place(b, signed[0])
    emit(plan, f"{format.RANGE}{method.name}", profiles.value_range(b, one), [2])
    if method.classifier:
        emit(plan, format.CAM, final, shape)
    return wide
