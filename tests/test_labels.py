# SPDX-License-Identifier: Apache-2.0
"""Names of classes: every form of file, and finding one class by what a user types."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_cam.errors import LabelError, TargetError
from portable_cam.labels import Labels, parse_rows, parse_targets, read_labels
from portable_cam.targets import Class

NAMES = ("tench, Tinca tinca", "goldfish", "great white shark")
LABELS = Labels(("tabby, tabby cat", "Tiger Cat", "tiger", "crane", "crane", "maillot", "maillot, tank suit"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "tench, Tinca tinca\ngoldfish\ngreat white shark\n\n"),
        ("bom.txt", "\ufefftench, Tinca tinca\r\ngoldfish\r\ngreat white shark"),
        ("synset_words.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850 great white shark\n"),
        ("list.json", json.dumps(NAMES)),
        ("dict.json", json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]})),
        ("keras.json", json.dumps({str(i): [f"n{i:08}", name] for i, name in enumerate(NAMES)})),
        ("config.json", json.dumps({"id2label": dict(enumerate(NAMES)), "hidden_size": 3})),
        ("a.csv", '0,"tench, Tinca tinca"\n1,goldfish\n2,great white shark\n'),
        ("header.csv", 'index,name\n2,great white shark\n0,"tench, Tinca tinca"\n\n1,goldfish\n'),
    ],
)
def test_forms_agree(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    labels = read_labels(path)
    assert labels.names == NAMES
    assert labels[0] == "tench"
    assert len(labels) == 3


def test_gaps_are_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text('{"1": "person", "3": "car"}')
    assert read_labels(path).names == ("class 0", "person", "class 2", "car")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "holds no labels"),
        ("a.txt", b"\xff\xfe\x00bad", "cannot read"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"3", "does not hold labels"),
        ("a.json", b'{"cat": 3}', "does not hold labels"),
        ("a.json", b'{"0": 3}', "is not a class name"),
        ("a.json", b'{"99999999999": "cat"}', "too large"),
        ("a.json", b'{"0": "cat", "00": "dog"}', "twice"),
        ("a.csv", b"0,cat\nx,dog\n", "x,dog"),
    ],
)
def test_bad_file(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LabelError, match=says) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot read the labels"):
        read_labels(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tabby, tabby cat", 0),
        ("Tabby", 0),
        ("tabby_cat", 0),
        ("tiger cat", 1),
        ("tiger", 2),  # a whole name goes before the beginning of another
        ("Tiger_Cat", 1),
        ("maillot", 5),
        ("TANK", 6),
    ],
)
def test_find(text: str, wanted: int) -> None:
    assert LABELS.find(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crane", r"3 \(crane\); 4 \(crane\)"),
        ("cat", "may mean any of"),
        ("tigre", "close to it are: tiger"),
        ("tiger c", "close to it are: tiger cat"),  # the beginning of a word may be that of another
        ("zzzzz", "give the number"),
        (" ", "is empty"),
    ],
)
def test_find_says_why_not(text: str, says: str) -> None:
    with pytest.raises(LabelError, match=says):
        LABELS.find(text)


@pytest.mark.parametrize(
    "given", [True, 1.5, [None], b"tabby", {"a": 1}, [[1]], -1, [], "top0", "top-1", Class(), [1, Class()]]
)
def test_what_is_no_target(given: Any) -> None:
    with pytest.raises((TargetError, LabelError)):
        parse_targets(given, LABELS)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("tabby", [[0], [0]]),
        ("top2, tiger", [[-1, -2, 2]] * 2),
        (["tabby", 3], [[0], [3]]),
        ([["tabby", 3], [2, "top1"]], [[0, 3], [2, -1]]),
    ],
)
def test_targets_of_several_images(given: Any, rows: list[list[int]]) -> None:
    assert parse_rows(given, LABELS, 2) == rows
    with pytest.raises(TargetError, match="the images have 1 and 2 targets"):
        parse_rows([["tabby"], ["tabby", 1]], LABELS, 2)


def test_imagenet() -> None:
    labels = Labels.default(1000)
    assert labels is not None
    assert labels.check(1000) is labels
    assert (labels[0], labels[282], labels[999]) == ("tench", "tiger cat", "toilet tissue")
    assert labels.find("Egyptian cat") == 285
    assert labels.find("tabby") == 281
    with pytest.raises(LabelError, match=r"134.*517"):
        labels.find("crane")  # the bird and the machine have one name
    with_background = Labels.default(1001)
    assert with_background is not None
    assert (with_background[0], with_background[244]) == ("background", "bull mastiff")
    assert Labels.default(999) is None
    assert Labels.default(None) is None


def test_length_mismatch_is_not_guessed() -> None:
    with pytest.raises(LabelError, match=r"7 classes, but the model has 8.*background"):
        LABELS.check(8)
    with pytest.raises(LabelError, match="7 classes, but the model has 5"):
        LABELS.check(5)
    assert LABELS.check(None) is LABELS


def test_parse_targets() -> None:
    assert parse_targets(None, LABELS) is None
    assert parse_targets("top3", LABELS) == [-1, -2, -3]
    assert parse_targets("tiger, top2,2,top1", LABELS) == [2, -1, -2]
    assert parse_targets(np.array([3, 1]), None) == [3, 1]
    assert parse_targets(np.int64(4), None) == [4]
    assert parse_targets("tabby,2", LABELS) == [0, 2]
    assert parse_targets(5, None) == [5]
    with pytest.raises(LabelError, match="have no names"):
        parse_targets("tabby", None)
