"""``python -m openjepa`` is the command line."""

from openjepa.cli import console_main

console_main()
