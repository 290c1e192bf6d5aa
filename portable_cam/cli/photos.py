# SPDX-License-Identifier: Apache-2.0
"""Photo after photo: each explained, written and told, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable_cam.cli.common import fail, note, progress, say
from portable_cam.errors import ImageError, InputError, OptionError, RegionError

if TYPE_CHECKING:
    from portable_cam.explanation import Explanation
    from portable_cam.image.find import Found

#: What a single file of results may be, by its suffix.
FIGURES = frozenset({".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp", ".tif", ".tiff"})
PAGES = frozenset({".html", ".htm"})
#: Where results go if nothing else is said.
_FOLDER = Path("explained")
#: Suffixes that name a file, and none that is written here.
_OTHERS = frozenset({".npy", ".npz", ".gif", ".bmp", ".eps", ".csv", ".txt", ".zip", ".ppm", ".avif", ".heic", ".md"})


@dataclass(frozen=True)
class Place:
    """Where results go.

    Attributes:
        path: A folder, or the file of a single photo's results.
        formats: What is written into a folder.
        single: It is a file.
        report: A page of all photos; None for none.
    """

    path: Path
    formats: tuple[str, ...]
    single: bool = False
    report: Path | None = None

    @classmethod
    def of(cls, out: Path | None, formats: str | None, report: Path | None = None) -> Place:
        """As ``-o``, ``--format`` and ``--report`` say.

        Raises:
            OptionError: The file is of no kind that is written, or both a file and formats are named.
        """
        from portable_cam.report.write import check_formats

        if report is not None and (report.suffix.lower() not in PAGES or report.is_dir()):
            raise OptionError(f"--report {report} is no HTML file: give a name that ends in .html")
        path = out or _FOLDER
        suffix = path.suffix.lower()
        single = suffix in FIGURES | PAGES | {".json"} and not path.is_dir()
        if str(path) == "-":
            raise OptionError("results are files: -o takes a folder or a file; --json prints what was explained")
        if not single and suffix in _OTHERS and not path.is_dir():
            known = ", ".join(sorted(FIGURES | PAGES | {".json"}))
            raise OptionError(f"-o {path}: no {suffix} is written; give a folder, or a file with one of {known}")
        if single and formats is not None:
            raise OptionError(
                f"--format says what goes into a folder, but -o {path} is one file: leave one of them out"
            )
        alone = report is not None and out is None and formats is None
        return cls(path, () if alone else check_formats(formats or "png"), single, report)

    def write(self, explanation: Explanation, stem: str) -> dict[str, Any]:
        """Write one photo's results; its record, with the files."""
        from portable_cam.report.files import save_document
        from portable_cam.report.write import write_explanation

        if not self.single:
            return write_explanation(explanation, self.path, stem, self.formats)
        if self.path.suffix.lower() == ".json":
            files = [save_document(explanation.to_dict(), self.path)]
        else:
            files = explanation.save(self.path)
        return {**explanation.to_dict(), "files": [str(file) for file in files]}


@dataclass
class Outcome:
    """What became of the photos: the records of those that were explained, and why others were not."""

    records: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    unsound: int = 0

    @property
    def failed(self) -> int:
        """How many photos have no result, or one that is not to be trusted."""
        return len(self.errors) + self.unsound


def explain_photos(
    explainer: Any, found: Found, target: str | None, asked: Mapping[str, Any], place: Place, silent: bool
) -> Outcome:
    """Explain and write photos; one that cannot be read, or that an option does not fit, fails alone.

    Args:
        explainer: Of the task.
        found: The photos.
        target: As it was typed.
        asked: Options of a call.
        place: Where results go.
        silent: Print no results, as they are printed together later.

    Raises:
        OptionError: There are several photos for one file.
    """
    from portable_cam.report.files import save_text
    from portable_cam.report.naming import stems_of
    from portable_cam.report.page import Report

    if place.single and len(found.photos) > 1:
        raise OptionError(f"-o {place.path} is one file, but there are {len(found.photos)} images: give a folder")
    outcome, stems = Outcome(), stems_of(found.photos)
    many = f"{len(found.photos)} photo{'s' * (len(found.photos) != 1)}"
    page = None if place.report is None else Report(len(found.photos), many)
    with progress(len(found.photos)) as advance:
        for (path, relative), stem in zip(found.photos, stems, strict=True):
            try:
                explanation = explainer(path, target, **asked)
                if page is not None:
                    page.add(explanation)
                record = {"image": str(path), **place.write(explanation, stem)}
            except (ImageError, InputError, RegionError) as error:
                text = str(error) if str(path) in str(error) else f"{path}: {error}"
                outcome.errors.append({"image": str(path), "error": text})
                if page is not None:
                    page.add_failure(text)
                fail(text)
            else:
                if not outcome.records and record["checks"]:
                    note(f"checked: {_verdicts(record['checks'])}")
                for text in record["notes"]:
                    if text not in explainer.notes:
                        note(f"{relative}: {text}")
                outcome.records.append(record)
                if not silent:
                    for line in lines(record):
                        say(f"{relative}: {line}")
                if wrong := [line["label"] for line in record["explained"] if "nan" in line["flags"]]:
                    outcome.unsound += 1
                    fail(f"{path}: the map or score of {', '.join(wrong)} is not finite, and shows nothing")
            advance()
    if page is not None and place.report is not None:
        save_text(page.html(), place.report)
    return outcome


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What was explained in a photo, a line each."""
    if "said" in record:
        yield record["said"]
    if not record["found"]:
        yield f"nothing found: {record['nothing_found']}"
    for line in record["explained"]:
        yield described(line)


def described(line: Mapping[str, Any]) -> str:
    """One target in a line: its label and score, and where it is."""
    from portable_cam.report.wording import how_much, number, part_explained

    flags = f" [{', '.join(line['flags'])}]" if line["flags"] else ""
    class_number = line.get("class", line.get("target"))
    label = line["label"] if class_number is None else f"{line['label']} ({class_number})"
    if "box" in line:
        box = ", ".join(f"{edge:.0f}" for edge in line["box"])
        return f"{label} {number(line['detection'])} at {box}{part_explained(line)}{flags}"
    score = how_much(line) if {"share", "probability"} & set(line) else number(line["score"])
    return f"{label} {score}{flags}"


def _verdicts(checks: Sequence[dict[str, Any]]) -> str:
    """The checks of a record in a line."""
    from portable_cam.verify.check import Check, describe

    return describe([Check.from_dict(check) for check in checks])
