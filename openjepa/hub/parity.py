"""``python -m openjepa.hub.parity DIR…``: check our code against golden directories (DESIGN §3).

For every tensor of ``io.safetensors`` that is an output, gradient or trained weight, prints the largest error relative
to the largest absolute value of the reference. Exit status: 0 all within 1e-5 and every tensor checked; 1 not so; 2 a
directory is malformed or of an unknown family (one line says what).
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

import openjepa.hub.parity_ac
import openjepa.hub.parity_ijepa
import openjepa.hub.parity_point_jepa
import openjepa.hub.parity_vjepa
import openjepa.hub.parity_vjepa21  # noqa: F401
from openjepa.errors import OpenJepaError
from openjepa.hub.golden import TOLERANCE, Ledger, check_golden


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every directory, print tables, and return the exit status (the worst over directories)."""
    parser = argparse.ArgumentParser(prog="python -m openjepa.hub.parity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "directories", nargs="+", metavar="DIR", help="golden directory: meta.json, io.safetensors, checkpoint.pt"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the trace of an error")
    options = parser.parse_args(arguments)
    return max(_check(path, options.verbose) for path in options.directories)


def _check(path: str, verbose: bool) -> int:
    """Check one directory and print its table."""
    try:
        ledger = check_golden(path)
    except Exception as error:  # a directory is somebody else's data: whatever it breaks is said in one line
        lines = str(error).strip().splitlines() or [type(error).__name__]
        known = isinstance(error, OpenJepaError)
        sys.stderr.write(f"error: {lines[0] if known else f'{path}: {type(error).__name__}: {lines[0]}'}\n")
        if verbose:
            traceback.print_exception(error)
        return 2
    sys.stdout.write(render(ledger))
    return 0 if ledger.passed else 1


def render(ledger: Ledger) -> str:
    """The table of one directory as text, worst news last."""
    golden = ledger.golden
    names = [row.name for row in ledger.rows] + ledger.unchecked
    width = max((len(name) for name in names), default=0)
    lines = [f"{golden.path} ({golden.meta['family']})"]
    for row in ledger.rows:
        lines.append(f"  {row.name:<{width}}  {row.error:8.1e}  {'ok' if row.ok else 'FAILED'} {row.note}".rstrip())
    lines += [f"  {name:<{width}}  {'':8}  NOT CHECKED" for name in ledger.unchecked]
    lines.append(f"  {len(ledger.inputs)} inputs: {', '.join(ledger.inputs)}")
    failed = [row for row in ledger.rows if not row.ok]
    verdict = "passed" if ledger.passed else "FAILED"
    worst = max(ledger.rows, key=lambda row: row.error if row.error == row.error else float("inf"), default=None)
    tail = f"largest error {worst.error:.1e} ({worst.name})" if worst else "nothing was compared"
    lines.append(
        f"  {verdict}: {len(ledger.rows)} compared, {len(failed)} above {TOLERANCE:g}, "
        f"{len(ledger.unchecked)} not checked; {tail}"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
