"""Run state without pickle: any tree of plain values and tensors becomes JSON plus a flat dict of tensors, and back.

What an optimizer, a sampler, a generator or a loop counter has to say fits in such a tree; nothing in it can run code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from openjepa.errors import CheckpointError

_TAG = "__"  # a JSON object with one key that starts with this stands for something JSON has no word for


def pack_state(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree into JSON and tensors.

    tree: dicts with str, int, float or bool keys, lists, tuples, scalars, None, tensors. Tensors are named by their
    path in the tree (``state.0.exp_avg``). Tuples, integer keys, infinities and NaN survive.

    Raises:
        CheckpointError: a value that is none of these, named by its path.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "", tensors), tensors


def unpack_state(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild the tree of :func:`pack_state`.

    Raises:
        CheckpointError: a tensor the JSON speaks of is not there.
    """
    if isinstance(packed, list):
        return [unpack_state(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        ((tag, value),) = packed.items()
        if tag == "__tensor__":
            if value not in tensors:
                raise CheckpointError(f"saved state is incomplete: tensor '{value}' is missing")
            return tensors[value]
        if tag == "__tuple__":
            return tuple(unpack_state(item, tensors) for item in value)
        if tag == "__float__":
            return float(value)
        if tag == "__dict__":
            return {_key(key): unpack_state(item, tensors) for key, item in value}
    return {key: unpack_state(value, tensors) for key, value in packed.items()}


def _key(key: Any) -> Any:
    return float(key["__float__"]) if isinstance(key, dict) else key


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = path or "value"
        while name in tensors:  # "1" and 1 may be keys of one dict
            name += "'"
        tensors[name] = value
        return {"__tensor__": name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if isinstance(value, list):
        return [_pack(item, _join(path, i), tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"__tuple__": [_pack(item, _join(path, i), tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return _pack_dict(value, path, tensors)
    raise CheckpointError(f"cannot save '{path or 'state'}': a {type(value).__name__} is not plain data")


def _pack_dict(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON object where possible; pairs when keys are not strings or could be taken for a tag."""
    wrong = [key for key in value if not isinstance(key, bool | int | float | str)]
    if wrong:
        raise CheckpointError(f"cannot save '{path or 'state'}': key {wrong[0]!r} is no string or number")
    if all(isinstance(key, str) and not key.startswith(_TAG) for key in value):
        return {key: _pack(item, _join(path, key), tensors) for key, item in value.items()}
    return {"__dict__": [[_pack(key, "", {}), _pack(item, _join(path, key), tensors)] for key, item in value.items()]}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
