# SPDX-License-Identifier: Apache-2.0
"""The table of cases for the gradient rules, in parts as ``export/rules`` has them."""

from rule_cases import arithmetic, conv, elementwise, index, linear, norm, pool, reduce, resize, sampling, shape
from rule_cases.case import Case

CASES: list[Case] = [
    case
    for table in (elementwise, arithmetic, conv, linear, norm, pool, reduce, shape, index, resize, sampling)
    for case in table.CASES
]
