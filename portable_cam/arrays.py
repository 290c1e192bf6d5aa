# SPDX-License-Identifier: Apache-2.0
"""Anything that holds numbers to a numpy array: lists, generators, tensors of torch and of what else speaks DLPack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portable_cam.errors import Error, InputError


def as_array(value: Any, what: str, error: type[Error] = InputError) -> NDArray[Any]:
    """An array of the numbers, copied only where it has to be.

    A torch tensor is detached from its graph and brought to the CPU, bfloat16 as float32, which loses nothing. A list
    or an iterator is stacked along a new first axis.

    Args:
        value: The numbers.
        what: What they are, for messages.
        error: What to raise.

    Raises:
        Error: It does not make an array of numbers; of the kind asked for.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        found = _converted(value)
    except Exception as problem:  # whatever a foreign array may raise
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise error(f"{what} does not make an array ({reason}): give a numpy array, or what converts to one") from None
    return found


def _converted(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, list | tuple):
        if any(_is_foreign(one) for one in value):
            return np.stack([_converted(one) for one in value])
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _from_torch(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return np.asarray(value)


def _is_foreign(value: Any) -> bool:
    """Whether numpy has to be helped: with a tensor, what speaks DLPack, or a list of such."""
    if isinstance(value, list | tuple | Iterator):
        return isinstance(value, Iterator) or any(map(_is_foreign, value))
    return not isinstance(value, np.ndarray | np.generic) and (hasattr(value, "detach") or hasattr(value, "__dlpack__"))


def _from_torch(tensor: Any) -> NDArray[Any]:
    there = tensor.detach().cpu()
    try:
        return np.asarray(there.numpy())
    except TypeError:  # bfloat16, which numpy does not have
        return np.asarray(there.float().numpy())
