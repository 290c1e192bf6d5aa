# SPDX-License-Identifier: Apache-2.0
"""Every choice of an explanation, declared and validated here and nowhere else.

``Explainer``, ``build_explanation``, the command line and the metadata of a file read :class:`Options`. To add one: a
field here, with its help text, and its line in :class:`Keywords`; whoever acts on it reads the field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from portable_cam.checked import check_fields
from portable_cam.errors import OptionError, TargetError
from portable_cam.export.autodiff.backward import Saturation
from portable_cam.export.autodiff.relu_policy import ReluPolicy
from portable_cam.export.layers.placement import Alignment
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.profiles import Profile
from portable_cam.export.methods.registry import METHODS, check_methods, help_text, with_factors
from portable_cam.export.passes.precision import Precision
from portable_cam.export.targets import Class, Target
from portable_cam.spelling import option

Sign: TypeAlias = Literal["positive", "negative"]


def _choice(allowed: Any, help: str) -> dict[str, Any]:
    """What is known of a field that holds one of the words of a Literal and is written into the metadata of a file."""
    return {"allowed": get_args(allowed), "help": help, "stored": True}


@dataclass(frozen=True)
class Options:
    """What is explained, and how.

    Attributes:
        methods: Names of :data:`~portable_cam.export.methods.registry.METHODS`; none for the scores alone.
        layer: A tensor or node by name, a list of them, or None: chosen, and reported in the result.
        target: What is explained; None for :class:`~portable_cam.export.targets.Class`.
        output: The tensor that holds the scores (for some targets, several): an output, where there are several, or
            any tensor inside. None: the model's scores. Both are cut before a final softmax or sigmoid.
        row: Of several rows of scores, as of crops, regions or queries, the one that is explained, from 0; None where
            each image has one (``docs/reading.md``).
        profile: ``paper``, ``pytorch_grad_cam`` or ``captum``: whose conventions the maps follow (``docs/methods.md``).
        relu_policy: ``relu``, ``relu+clip`` or ``all``: the nodes that guided methods treat as a ReLU.
        saturation: ``pass``: in a quantised model the gradient goes straight through where a range cuts a value off;
            ``mask``: it is zero there (``docs/quantised.md``).
        sign: ``positive``, or ``negative`` for counterfactual maps: the regions that speak against the target.
        precision: ``model`` for the types of the model, or ``float32`` to compute a float16 or float64 model in
            float32, inputs and outputs included. A bfloat16 model always is.
        alignment: ``stretch``: the map is stretched over the image, as other tools do; ``field``: each cell lies where
            the centre of its receptive field is. Where the two differ by more than a cell, as behind a crop inside the
            model, it is always ``field`` (``docs/reading.md``).
        axes: What the axes of the image or of layers are, where the operators do not tell: by the tensor's name the
            letters N (images), C (channels), H (rows) and W (columns) in order, as ``{"x": "NHWC"}``.
        as_is: Explain the scores as they come out, or what ``output`` names as it is: a probability instead of its
            logit.
        details: Also give the activations (N, C, h, w) and gradients (N, K, C, h, w) of the layers.
        words: Also give a score for each token of an input of token ids (N, T) that a Gather embeds: gradient times
            embedding, (N, K, T).

    Raises:
        OptionError: A value is not one of those allowed.
    """

    methods: tuple[str, ...] = field(default=("gradcam",), metadata={"help": help_text, "stored": True})
    layer: str | Sequence[str] | None = field(
        default=None, metadata={"help": "Tensor or node to explain; several to average over.", "several": True}
    )
    target: Target | None = None
    output: str | Sequence[str] | None = field(
        default=None, metadata={"help": "Tensor that holds the scores; cut before a final softmax or sigmoid."}
    )
    row: int | None = field(
        default=None,
        metadata={
            "help": "Of several rows of scores (crops, regions, queries) the one to explain, from 0.",
            "number": True,
        },
    )
    profile: Profile = field(
        default="paper", metadata=_choice(Profile, "paper, pytorch_grad_cam or captum: whose conventions to follow.")
    )
    relu_policy: ReluPolicy = field(
        default="relu",
        metadata=_choice(ReluPolicy, "Which nodes guided methods treat as a ReLU: relu, relu+clip or all."),
    )
    saturation: Saturation = field(
        default="pass",
        metadata=_choice(
            Saturation, "Where the range of a quantised model cuts a value off: pass the gradient on, or mask it."
        ),
    )
    sign: Sign = field(
        default="positive", metadata=_choice(Sign, "positive, or negative for what speaks against the target.")
    )
    precision: Precision = field(
        default="model",
        metadata=_choice(
            Precision, "model: the types of the model; float32: a float16 or float64 model computed in float32."
        ),
    )
    alignment: Alignment = field(
        default="stretch",
        metadata=_choice(Alignment, "stretch maps over the image, or field: put them where the layer looks at."),
    )
    axes: Mapping[str, str] | None = field(
        default=None,
        metadata={"help": "TENSOR=NCHW: what the axes of the image or of a layer are, several times.", "pairs": True},
    )
    as_is: bool = field(
        default=False,
        metadata={"help": "Explain the scores, or the --output, as they are: a probability, not its logit."},
    )
    details: bool = False
    words: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.methods, str | list):
            object.__setattr__(self, "methods", check_methods(self.methods))
        for choice in fields(self):
            allowed, value = choice.metadata.get("allowed"), getattr(self, choice.name)
            if allowed is not None and not (isinstance(value, str) and value in allowed):
                raise OptionError(f"{option(choice.name)} is one of {', '.join(allowed)}, not {value!r}")
        check_fields(self)
        if is_dataclass(self.target):
            check_fields(self.target, TargetError)
        object.__setattr__(self, "methods", check_methods(self.methods))
        either = [name for name in self.methods if METHODS[name].activation_map is not None]
        if self.negated and either:
            raise OptionError(
                f"{', '.join(either)} is the same for every target: there is no map of what speaks against one"
            )
        if self.row is not None:
            self.explained  # noqa: B018 - a row that is none is refused here

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """From keyword arguments.

        Raises:
            OptionError: There is no such option, or it has an impossible value.
        """
        known = [choice.name for choice in fields(cls)]
        for name in given:
            if name not in known:
                if name == "targets":
                    raise OptionError(
                        f"{option('targets', [281])} says in a call which one is explained; the explainer is made for "
                        f"all of them, and takes {option('target')} for another kind of thing than a class: a value of "
                        "portable_cam.targets"
                    )
                close = difflib.get_close_matches(name, known, n=1)
                hint = f": is '{close[0]}' meant?" if close else f"; the options are {', '.join(known)}"
                raise OptionError(f"there is no option '{name}'{hint}")
        chosen = cls(**given)
        if not chosen.methods and not chosen.words:
            raise OptionError(f"no method was given; the methods are {', '.join(METHODS)}")
        return chosen

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(choice.name for choice in fields(cls))

    @classmethod
    def stored(cls) -> tuple[str, ...]:
        """The names of the fields that a file's metadata keeps as they are."""
        return tuple(choice.name for choice in fields(cls) if choice.metadata.get("stored"))

    @property
    def explained(self) -> Target:
        """The target, a class where none was given, of the row that was chosen."""
        target = self.target or Class()
        return target if self.row is None else target.of_row(self.row)

    @property
    def computed(self) -> list[Method]:
        """The records of the methods, and of those that they are products of."""
        return with_factors(self.methods)

    @property
    def negated(self) -> bool:
        """The maps show what speaks against the target: -g takes the place of the gradient g."""
        return self.sign == "negative"


class Keywords(TypedDict, total=False):
    """The fields of :class:`Options` as keyword arguments, but for ``methods``, ``layer`` and ``target``, which come
    first and may be given by position."""

    output: str | Sequence[str] | None
    row: int | None
    profile: Profile
    relu_policy: ReluPolicy
    saturation: Saturation
    sign: Sign
    precision: Precision
    alignment: Alignment
    axes: Mapping[str, str] | None
    as_is: bool
    details: bool
    words: bool
