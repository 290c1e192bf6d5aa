"""Every choice of an explanation is declared once."""

import dataclasses
import inspect
from typing import get_type_hints

import pytest

import portable_cam as pcam
from portable_cam import assets
from portable_cam.errors import OptionError
from portable_cam.export import build_explanation, save_explanation
from portable_cam.export.format import ExplanationMetadata
from portable_cam.export.options import Keywords, Options

BY_POSITION = ("methods", "layer", "target")


def test_keywords_are_the_fields() -> None:
    fields = get_type_hints(Options)
    assert get_type_hints(Keywords) == {name: kind for name, kind in fields.items() if name not in BY_POSITION}


@pytest.mark.parametrize("function", [pcam.Explainer, build_explanation, save_explanation])
def test_signatures_name_no_other_option(function: object) -> None:
    """What is a field of Options comes by keyword from there; nothing of it is listed again."""
    names = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    assert {field.name for field in dataclasses.fields(Options)} & names == set(BY_POSITION)
    assert "options" in names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profil": "paper"}, "there is no option 'profil': is 'profile' meant?"),
        ({"xyz": 1}, "there is no option 'xyz'; the options are methods, layer, target, output, row, profile"),
        ({"saturation": "cut"}, "saturation= is one of mask, pass, not 'cut'"),
        ({"methods": ()}, "no method was given"),
        ({"methods": "scorecams"}, "method 'scorecams' does not exist; the methods are cam, gradcam"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pcam.Explainer(assets.model(), **given)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=message):
        build_explanation(assets.model(), **given)  # type: ignore[arg-type]


def test_a_file_keeps_what_was_chosen() -> None:
    built = build_explanation(
        assets.model(), ("layercam", "gradient"), profile="pytorch_grad_cam", sign="negative", relu_policy="all"
    )
    found = ExplanationMetadata.read({prop.key: prop.value for prop in built.metadata_props}).options
    chosen = Options(("layercam", "gradient"), profile="pytorch_grad_cam", sign="negative", relu_policy="all")
    assert {name: getattr(found, name) for name in Options.stored()} == {
        name: getattr(chosen, name) for name in Options.stored()
    }
