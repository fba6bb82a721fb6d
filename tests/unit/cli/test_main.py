"""The front door: light, and typed options that mean recipe keys."""

from __future__ import annotations

import subprocess
import sys

from openjepa.cli import VERBS, dotted_options, help_text


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from openjepa.cli import main; main(['--help']); "
        "heavy = {'torch', 'typer', 'pydantic', 'rich', 'numpy', 'yaml', 'PIL'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


def test_every_verb_explains_itself_without_torch() -> None:
    code = (
        "import sys; from openjepa.cli import main, VERBS\n"
        "codes = [main([verb, '--help']) for verb in VERBS]\n"
        "sys.exit(3 if 'torch' in sys.modules else max(codes))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_both_spellings_of_a_recipe_key() -> None:
    words = ["data", "--optim.lr", "3e-4", "--mask.targets=2", "--steps", "5", "a.b=c"]
    assert dotted_options(words) == ["data", "optim.lr=3e-4", "mask.targets=2", "--steps", "5", "a.b=c"]


def test_help_fits_a_terminal() -> None:
    assert max(map(len, help_text().splitlines())) <= 100
