"""Names of files: injective, and the same for the same result whatever else is there."""

import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable_cam.export.methods.registry import METHODS
from portable_cam.report.naming import WORDS, parts_of, stem_of, stems_of

# few letters, so that names meet; and everything that a file system or this scheme gives a meaning
_CHARACTERS = st.sampled_from([*"aAb_- .%~", "é", "日", "\udcff", "\n", ":", "*"])
_NAMES = st.text(_CHARACTERS, min_size=1, max_size=5).filter(lambda text: text not in {".", ".."})
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(parts))
_WORDS = st.sampled_from([*WORDS, *METHODS, "cat/dog", "cat dog", "cat_dog", "", "x" * 300, "x" * 301])
_LABELS = st.lists(_WORDS | st.text(_CHARACTERS, max_size=4), max_size=6)


def _tails(labels: list[str]) -> list[str]:
    """Every file that a photo with these labels may have."""
    methods = ["gradcam", "against.gradcam"]
    overlays = [f"{part}.{method}.png" for part in parts_of(labels) for method in methods]
    figures = ["sheet.png"]
    return [*overlays, *figures, *(f"{method}.npy" for method in methods), "json"]


@given(st.lists(_PATHS, min_size=1, max_size=6, unique_by=os.path.abspath), _LABELS)
def test_no_two_files_share_a_name(paths: list[str], labels: list[str]) -> None:
    photos = [(Path(path), PurePath(path)) for path in paths]
    names = [f"{stem}.{tail}" for stem in stems_of(photos) for tail in _tails(labels)]
    assert len({name.casefold() for name in names}) == len(names) == len(photos) * len(_tails(labels))
    for name in names:
        parts = name.split("/")
        assert all(0 < len(os.fsencode(part)) <= 255 and part not in {".", ".."} for part in parts)
        assert not set(name) & set('\\:*?"<>|\n\udcff')


@given(st.lists(_PATHS, min_size=1, max_size=6, unique_by=os.path.abspath), st.randoms())
def test_the_order_of_photos_does_not_matter(paths: list[str], random: object) -> None:
    photos = [(Path(path), PurePath(path)) for path in paths]
    named = dict(zip(paths, stems_of(photos), strict=True))
    shuffled = photos[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {str(path): stem for (path, _), stem in zip(shuffled, stems_of(shuffled), strict=True)} == {
        str(Path(path)): stem for path, stem in named.items()
    }


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["photos/a.png"], ["a"]),
        (["a b.jpg", "a_b.webp"], ["a b", "a_b"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["A.png", "a.png"], ["A.png~", "a.png~"]),
        (["a.png", "a.b.png"], ["a.png", "a.b.png"]),
        (["a:b*?.png", "-x.png", ".png"], ["a%3Ab%2A%3F", "%2Dx", "%2Epng"]),
    ],
)
def test_names_are_those_of_the_photos(paths: list[str], stems: list[str]) -> None:
    found = stems_of([(Path(path), PurePath(Path(path).name)) for path in paths])
    assert [name[: len(stem)] if stem.endswith("~") else name for name, stem in zip(found, stems, strict=True)] == stems


def test_photos_of_the_same_name_keep_their_folders() -> None:
    files = [(Path("x/a.png"), PurePath("a.png")), (Path("y/a.png"), PurePath("a.png"))]
    assert stems_of(files) == ["x/a.png", "y/a.png"]
    below = [(Path("in/a.png"), PurePath("a.png")), (Path("in/deep/a.png"), PurePath("deep/a.png"))]
    assert stems_of(below) == ["a", "deep/a"]


def test_labels() -> None:
    assert parts_of(["cat/dog", "cat dog", "cat dog"]) == ["cat%2Fdog", "cat dog", "cat dog~2"]
    assert parts_of(["v1.5", "gradcam", ""]) == ["v1%2E5", "%67radcam", "%"]
    assert stem_of(PurePath("folder/my.photo.png")) == "my.photo"
