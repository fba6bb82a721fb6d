"""Durations in any unit, converted once to steps.

``"40 epochs"``, ``"500 steps"``, ``"1e6 samples"``, ``"10 %"``, or a bare number (steps).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic_core import core_schema

from openjepa.errors import ConfigError

UNITS = ("steps", "epochs", "samples", "percent")
_FORMS = {"step": "steps", "epoch": "epochs", "ep": "epochs", "sample": "samples", "%": "percent"}
_PATTERN = re.compile(r"^\s*((?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*([a-z%]*)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Duration:
    """A length of training. ``value`` in ``unit`` (one of :data:`UNITS`)."""

    value: float
    unit: str = "steps"

    @classmethod
    def parse(cls, raw: Any) -> Duration:
        """Read ``"40 epochs"``, ``"10%"``, ``500`` (steps) or a Duration.

        Raises:
            ConfigError: not a number with a known unit.
        """
        if isinstance(raw, Duration):
            return raw
        match = None if isinstance(raw, bool) else _PATTERN.match(str(raw))
        if match is None:
            raise ConfigError(f"'{raw}' is not a duration: write a number and one of steps, epochs, samples, %")
        unit = match[2].lower() or "steps"
        unit = _FORMS.get(unit, _FORMS.get(unit.rstrip("s"), unit))
        if unit not in UNITS:
            raise ConfigError(f"'{raw}' has no known unit: use steps, epochs, samples or %")
        value = float(match[1].replace("_", ""))
        if not math.isfinite(value):
            raise ConfigError(f"'{raw}' is not a duration: the number is too large")
        return cls(value, unit)

    def steps(self, *, total: int | None, steps_per_epoch: int, batch_size: int) -> int:
        """Length in optimizer steps, rounded to the nearest (at least 0). ``total`` is needed for percent only."""
        if self.unit == "percent":
            if total is None:
                raise ConfigError(f"'{self}' needs a total length: give steps, epochs or samples here")
            return round(self.value / 100 * total)
        if self.unit == "epochs":
            return round(self.value * steps_per_epoch)
        if self.unit == "samples":
            return math.ceil(self.value / batch_size)
        return round(self.value)

    def __str__(self) -> str:
        """Exact: :meth:`parse` of it gives an equal duration."""
        number = int(self.value) if self.value == int(self.value) and self.value < 1e15 else repr(self.value)
        return f"{number} {'%' if self.unit == 'percent' else self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        def validate(raw: Any) -> Duration:
            try:
                return cls.parse(raw)
            except ConfigError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": ["string", "integer"], "description": "a number and one of steps, epochs, samples, %"}
