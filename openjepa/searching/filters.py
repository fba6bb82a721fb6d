"""Which rows may answer: ``label=cat``, ``path~=holiday``, ``start>=30``, read once and applied to whole columns.

A condition is COLUMN OPERATOR VALUE. ``=`` and ``!=`` compare as numbers where the column holds numbers and else as text;
``<``, ``<=``, ``>``, ``>=`` are for numbers; ``~=`` is a regular expression found anywhere in the text. Several conditions
all have to hold. A row that has no value in the column matches only ``!=``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import ConfigError, nearest

_WORDS = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(~=|!=|<=|>=|=|<|>)\s*(.*?)\s*$", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARRAYS: dict[str, Callable[[Any, float], Any]] = {**_ORDERS, "=": operator.eq, "!=": operator.ne}


@dataclass(frozen=True)
class Condition:
    """One condition as written. column: of the index. sign: ``=``, ``!=``, ``~=``, ``<``, ``<=``, ``>`` or ``>=``."""

    column: str
    sign: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.value}"


def parse_condition(text: str) -> Condition:
    """``"label=cat"`` as a condition.

    Raises:
        ConfigError: it has no column or operator, a regular expression that is none, or an order without a number.
    """
    match = _WORDS.match(text)
    if match is None:
        raise ConfigError(f"--where '{text}' is no condition: write label=cat, path~=holiday or start>=30")
    found = Condition(match[1], match[2], match[3])
    if found.sign == "~=":
        try:
            re.compile(found.value)
        except re.error as error:
            raise ConfigError(f"--where '{text}': '{found.value}' is no regular expression ({error})") from error
    if found.sign in _ORDERS and _number(found.value) is None:
        raise ConfigError(f"--where '{text}': {found.sign} compares numbers, and '{found.value}' is none")
    return found


def allowed(
    where: Sequence[str], columns: Mapping[str, Sequence[object] | NDArray[Any]], rows: int
) -> NDArray[np.bool_]:
    """Which of the ``rows`` rows meet every condition: ``(rows,)`` bool.

    Args:
        where: conditions as text. columns: values per row; ``None`` (or not-a-number) where a row has none.

    Raises:
        ConfigError: a condition that cannot be read, or a column the index has not (the nearest one is named).
    """
    keep = np.ones(rows, dtype=np.bool_)
    for text in where:
        condition = parse_condition(text)
        if condition.column not in columns:
            hint = nearest(condition.column, columns) or f": it has {', '.join(columns)}"
            raise ConfigError(f"--where {condition}: the index has no column '{condition.column}'{hint}")
        keep &= _meets(condition, columns[condition.column], rows)
    return keep


def _meets(condition: Condition, values: Sequence[object] | NDArray[Any], rows: int) -> NDArray[np.bool_]:
    """Which values meet one condition. Each distinct value is looked at once: a million labels are few words."""
    number, holds = _number(condition.value), _test(condition)
    if (
        isinstance(values, np.ndarray)
        and values.dtype.kind in "iuf"
        and condition.sign in _ARRAYS
        and number is not None
    ):
        met: NDArray[np.bool_] = _ARRAYS[condition.sign](values, number)  # not-a-number meets != alone
        return met
    values = values.tolist() if isinstance(values, np.ndarray) else values
    table = {value: holds(None if _absent(value) else value) for value in set(values)}
    return np.fromiter(map(table.__getitem__, values), np.bool_, count=rows)


def _test(condition: Condition) -> Callable[[object], bool]:
    """The condition as a question to one value."""
    sign, text, number = condition.sign, condition.value, _number(condition.value)
    if sign == "~=":
        pattern = re.compile(text)
        return lambda value: value is not None and pattern.search(str(value)) is not None
    if sign in _ORDERS:
        order = _ORDERS[sign]
        assert number is not None  # parse_condition has seen to it
        return lambda value: (found := _number(value)) is not None and order(found, number)

    def equal(value: object) -> bool:
        if value is None or isinstance(value, str):
            return value == text
        if isinstance(value, bool | np.bool_):
            return str(value).lower() == text.lower()
        return number is not None and _number(value) == number

    return equal if sign == "=" else lambda value: not equal(value)


def _number(value: object) -> float | None:
    """A finite number, or text that is one; else None."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))
