# SPDX-License-Identifier: Apache-2.0

"""Matrix products and Einsum."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from rule_cases.case import Case, w, x

CASES: list[Case] = []
add = CASES.append

for left, right in [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((2, 5, 4, 2, 3), (1, 4, 3, 2)),
]:
    add(Case("MatMul", [x(*left), x(*right)], {}, torch.matmul, linear=[0, 1]))
    add(Case("MatMul", [x(*left), w(*right)], {}, torch.matmul, linear=[0, 1], note="weights"))
for ta, tb in itertools.product((0, 1), repeat=2):
    a, bb = (4, 2) if ta else (2, 4), (3, 4) if tb else (4, 3)
    for c, alpha, beta in [((3,), 1.0, 1.0), ((2, 1), 0.5, 2.0), ((), 1.5, 0.0), ((2, 3), 1.0, -1.0), (None, 0.7, 1.0)]:
        attributes = {"transA": ta, "transB": tb, "alpha": alpha, "beta": beta}

        def torch_gemm(
            p: Any, q: Any, r: Any = 0.0, ta: int = ta, tb: int = tb, alpha: float = alpha, beta: float = beta
        ) -> Any:
            return alpha * ((p.T if ta else p) @ (q.T if tb else q)) + beta * r

        inputs = [x(*a), w(*bb), *([w(*c)] if c is not None else [])]
        add(Case("Gemm", inputs, attributes, torch_gemm, linear=range(len(inputs))))
for equation, shapes in [
    ("ij,jk->ik", ((2, 3), (3, 4))),
    ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))),
    ("ij,jk", ((2, 3), (3, 4))),
    ("ba,cb", ((2, 3), (4, 2))),
    ("ij->ji", ((2, 3),)),
    ("ijk->i", ((2, 3, 4),)),
    ("ij,kl->il", ((2, 3), (4, 5))),
    ("ij,j,k->ik", ((2, 3), (3,), (4,))),
    ("i,i->", ((3,), (3,))),
    ("bhid,bhjd->bhij", ((2, 3, 4, 5), (2, 3, 6, 5))),
    ("...ij,...jk->...ik", ((5, 2, 3), (5, 3, 4))),
    ("...ij,jk->...ik", ((5, 2, 3), (3, 4))),
    ("...i,...i", ((2, 3), (2, 3))),
    ("ii->i", ((3, 3),)),
    ("bii->b", ((2, 3, 3),)),
    ("bii,bi->bi", ((2, 3, 3), (2, 3))),
    ("ii,jj->ij", ((3, 3), (2, 2))),
    ("iii->", ((3, 3, 3),)),
    ("...ij->...", ((5, 2, 3),)),
    ("...ij,...jk->...ik", ((1, 2, 3), (5, 3, 4))),
]:
    broadcasts = len(shapes) > 1 and shapes[0][0] == 1
    add(
        Case(
            "Einsum",
            [x(*s) for s in shapes],
            {"equation": equation},
            lambda *t, e=equation: torch.einsum(e, *t),
            linear=range(len(shapes)),
            dynamic="static" if broadcasts else "all",
        )
    )
