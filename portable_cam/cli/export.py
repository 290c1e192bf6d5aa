"""``portable-cam export``: the portable explainer, one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from portable_cam.cli.common import (
    METHODS_HELP,
    LayerOption,
    ModelArgument,
    OutputOption,
    PolicyOption,
    PrecisionOption,
    ProfileOption,
    SaturationOption,
    SignOption,
    TaskOption,
    names,
    note,
    say,
)


def run(
    model: ModelArgument,
    target_file: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = "gradcam",
    layer: LayerOption = None,
    output: OutputOption = None,
    profile: ProfileOption = "paper",
    relu_policy: PolicyOption = "relu",
    saturation: SaturationOption = "pass",
    precision: PrecisionOption = "model",
    sign: SignOption = "positive",
    task: TaskOption = None,
    single_target: Annotated[bool, typer.Option(help="One target per image; no loop operator in the file.")] = False,
    check: Annotated[bool, typer.Option(help="Let the graph prove itself, and say so in its metadata.")] = True,
) -> None:
    """The portable explainer: one ONNX file that any ONNX Runtime runs. Exit status 1 if it fails its own check."""
    from portable_cam.export.assemble.explanation import explanation_model
    from portable_cam.export.deploy.strip_shapes import strip_inner_shapes
    from portable_cam.export.passes.normalized import normalized
    from portable_cam.export.read.weights import save
    from portable_cam.tasks.preprocessing import known_preprocessing
    from portable_cam.tasks.recognize import recognize
    from portable_cam.verify.selfcheck import record, self_check

    known = normalized(model)
    options: dict[str, Any] = {
        "preprocessing": known_preprocessing(known),
        "target": recognize(known, task, output)[1],
        "output": output,
        "profile": profile,
        "relu_policy": relu_policy,
        "saturation": saturation,
        "precision": precision,
        "sign": sign,
    }
    built = explanation_model(known, names(methods), layer, targets_per_image=1 if single_target else None, **options)
    strip_inner_shapes(built)
    if check:
        proof = self_check(known, built, output, options["target"])
        record(built, proof)
        note(f"self-check: {proof.describe()}")
    written = save(built, target_file)
    files, size = " and ".join(map(str, written)), sum(file.stat().st_size for file in written) / 1e6
    inputs, outputs = (", ".join(str(v.name) for v in side) for side in (built.graph.inputs, built.graph.outputs))
    say(f"{files}: {size:.1f} MB, inputs {inputs}, outputs {outputs}")
    if check and not proof.passed:
        raise typer.Exit(1)
