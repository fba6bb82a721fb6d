"""What an export made, and the words that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openjepa.exporting.verify import TOLERANCE, Check

Format = Literal["safetensors", "hf", "timm", "onnx", "pt2"]


@dataclass(frozen=True)
class Exported:
    """A verified export.

    path: the file or directory. format: of it. error: largest difference from the source over its largest value, over all
    checks. inputs: what the graph or network takes, in words. output: what it gives. files: all that was written, with
    their sizes in bytes. checks: the inputs it was compared on. notes: what a user should know.
    """

    path: Path
    format: Format
    error: float
    inputs: str
    output: str
    files: tuple[tuple[Path, int], ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Several lines: where it is, what goes in and comes out, how well it agrees."""
        size = sum(count for _, count in self.files)
        shapes = ", ".join("×".join(map(str, check.shape)) for check in self.checks)
        lines = [
            f"wrote    {self.path} ({self.format}, {size / 1e6:,.1f} MB)",
            f"takes    {self.inputs}",
            f"gives    {self.output}",
            f"error    {self.error:.1e} relative to the source, on inputs {shapes} (limit {TOLERANCE:g})",
            *(f"note     {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def files_at(path: Path) -> tuple[tuple[Path, int], ...]:
    """Every file of an export with its size; external data beside an ONNX file is a part of it."""
    found = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    beside = path.with_name(f"{path.name}.data")
    found += [beside] if beside.is_file() else []
    return tuple((item, item.stat().st_size) for item in found)
