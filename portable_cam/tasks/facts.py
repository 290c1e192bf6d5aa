"""What a page says of a model and of how it was explained."""

from __future__ import annotations

from portable_cam.explainer import Explainer
from portable_cam.export.format import ExplanationMetadata
from portable_cam.report.wording import title_of


def facts_of(explainer: Explainer, task: str) -> dict[str, str]:
    """By name, in the order in which they are shown; what does not apply is left out."""
    known, path = ExplanationMetadata.read(explainer.metadata), explainer.model_path
    guided = bool(explainer.guided_nodes)
    found = {
        "model": "" if path is None else path.name,
        "SHA-256": known.source_sha256[:16],
        "task": task,
        "classes": str(known.classes or "") if task in {"classify", "segment"} else "",
        "methods": ", ".join(title_of(method, guided) for method in explainer.methods),
        "layer": ", ".join(known.layer),
        "score": known.scores + (f", before the final {known.cut}" if known.cut else ""),
        "conventions": known.options.profile,
        "ReLU policy": known.options.relu_policy if explainer.guided_nodes else "",
        "explained by": f"portable_cam {known.version}",
    }
    return {name: text for name, text in found.items() if text}
