# SPDX-License-Identifier: Apache-2.0
"""Marks in pictures: points, and labels that stay inside and apart."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable_cam.image.geometry import fit
from portable_cam.image.marks import Mark
from portable_cam.report.annotate import draw, place_labels
from portable_cam.report.style import MARKS
from portable_cam.tasks.segment import _mark_of

SIZE = (200, 120)
corner = st.tuples(st.floats(-20, 220), st.floats(-20, 140))


@given(st.lists(corner, max_size=6))
def test_labels_stay_inside_and_apart(corners: list[tuple[float, float]]) -> None:
    placed = place_labels([(x, y, x + 50, y + 10) for x, y in corners], SIZE)
    for x0, y0, x1, y1 in placed:
        assert (x0 >= 0, y0 >= 0, x1 < SIZE[0], y1 < SIZE[1]) == (True,) * 4
        assert (x1 - x0, y1 - y0) == pytest.approx((50, 10))
    for a, b in itertools.combinations(placed, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_labels_stay_where_they_belong_if_they_can() -> None:
    wanted = [(10.0, 10.0, 60.0, 20.0), (100.0, 10.0, 150.0, 20.0)]
    assert place_labels(wanted, SIZE) == wanted
    assert place_labels([wanted[0], wanted[0]], SIZE)[1] == (10, 21, 60, 31), "the second goes right below the first"
    assert place_labels([(190.0, 115.0, 240.0, 125.0)], SIZE) == [(149, 109, 199, 119)]


def test_more_labels_than_there_is_room_for() -> None:
    assert len(place_labels([(0, 0, 150, 50)] * 9, SIZE)) == 9


@pytest.mark.parametrize("at", [(60.5, 40.5), (0.5, 0.5), (119.5, 79.5)])
def test_a_point_is_ringed_and_its_middle_left_free(at: tuple[float, float]) -> None:
    grey = np.full((80, 120, 3), 90, np.uint8)
    picture = draw(grey, [None, Mark(point=at)], ["", "x"])
    rows, columns = np.nonzero((picture == MARKS[1]).all(2))
    distance = np.hypot(rows + 0.5 - at[1], columns + 0.5 - at[0])
    assert distance.min() < 8
    assert (picture[int(at[1]), int(at[0])] == 90).all(), "what the map shows there stays seen"


def test_a_label_does_not_cover_a_small_box() -> None:
    grey = np.full((120, 200, 3), 90, np.uint8)
    box = (60.0, 40.0, 70.0, 50.0)
    picture = draw(grey, [Mark(box=box)], ["spoon (not found)"])
    assert (picture[40:50, 60:70] == draw(grey, [Mark(box=box)])[40:50, 60:70]).all()
    assert (picture[50:75, 60:70] == 0).all(2).any(), "it stands below"
    large = draw(grey, [Mark(box=(10.0, 10.0, 190.0, 110.0))], ["cat"])
    assert (large[11:30, 11:40] == 0).all(2).any(), "a large box has it inside"


def test_a_single_pixel_and_what_vanishes_become_points() -> None:
    weights = np.zeros((10, 20), np.float32)
    weights[2, 5] = 1
    assert _mark_of(weights, (100, 100)).point == (27.5, 25.0)
    weights[2, 6] = 1
    mark = _mark_of(weights, (100, 100))
    assert mark.point is None
    assert mark.mask is not None
    assert mark.mask.any()
    thin = np.zeros((100, 100), np.float32)
    thin[50, 50:52] = 0.4
    assert _mark_of(thin, (10, 10)).point == pytest.approx((5.1, 5.05))


def test_a_point_in_the_photo() -> None:
    geometry = fit((200, 400), (100, 100), "stretch", None, "center")
    assert Mark(point=(25.0, 50.0)).on_photo(geometry).point == (100, 100)
