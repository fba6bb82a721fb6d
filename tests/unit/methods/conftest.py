"""Makes the shared tiny run (``tests/tiny_runs.py``) importable."""

import sys
from pathlib import Path

TESTS = str(next(parent for parent in Path(__file__).resolve().parents if parent.name == "tests"))
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)
