"""Which format a name means, by its ending."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from openjepa.embedding import arrays, tables
from openjepa.embedding.rows import Layout, Parts, Table
from openjepa.errors import ConfigError, nearest, require


@dataclass(frozen=True)
class Format:
    """How features lie on disk. needs: modules of extra ``tables`` it is written with. folder: the store is a directory."""

    name: str
    write: Callable[[Path, Layout, Parts], None]
    read: Callable[[Path], Table]
    needs: tuple[str, ...] = ()
    folder: bool = False

    def check(self) -> None:
        """Raise MissingExtra now, not after hours of work, where a library is not installed."""
        for module in self.needs:
            if find_spec(module) is None:  # not imported yet: Lance does not like the forks of loader processes
                require(module, "tables")


FORMATS = {
    ".parquet": Format("parquet", tables.write_parquet, tables.read_parquet, ("pyarrow",)),
    ".npz": Format("npz", arrays.write_npz, arrays.read_npz),
    ".safetensors": Format("safetensors", arrays.write_safetensors_rows, arrays.read_safetensors_rows),
    ".lance": Format("lance", tables.write_lance, tables.read_lance, ("pyarrow", "lance"), folder=True),
    ".zarr": Format("zarr", arrays.write_zarr, arrays.read_zarr, ("zarr",), folder=True),
}


def format_of(path: str | Path) -> Format:
    """The format of a name. Raises ConfigError for an ending that is none."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        known = ", ".join(FORMATS)
        raise ConfigError(
            f"'{path}' should end in one of {known}: the ending says the format{nearest(ending, FORMATS)}"
        )
    return FORMATS[ending]
