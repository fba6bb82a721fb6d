"""The command line. This file knows the verbs and imports nothing heavy: ``openjepa --help`` loads neither torch nor typer.

Each verb is one small file with a typer ``app``; its functions mirror :mod:`openjepa.api` argument for argument.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence

from openjepa import __version__
from openjepa.errors import OpenJepaError, nearest

VERBS: dict[str, tuple[str, str]] = {  # verb → module, one-line help
    "demo": ("openjepa.cli.demo", "train, judge and report on built-in images in a few minutes"),
    "pretrain": ("openjepa.cli.pretrain", "train an encoder on a folder of images, no labels needed"),
    "evaluate": ("openjepa.cli.evaluate", "score any encoder: knn, linear, attentive, low-shot, finetune, …"),
    "classify": ("openjepa.cli.classify", "the class of every file, by a fine-tuned classifier"),
    "ablate": ("openjepa.cli.ablate", "test claims on your data: recipes x seeds, intervals, verdicts"),
    "visualize": ("openjepa.cli.visualize", "look inside: masks, pca, attention, decode, curves, report"),
    "embed": ("openjepa.cli.embed", "features of every image or clip in one file, resumable"),
    "search": ("openjepa.cli.search", "what is most like an image or clip, moments, near duplicates"),
    "data": ("openjepa.cli.data", "inspect, verify or convert a data folder"),
    "recipes": ("openjepa.cli.recipes", "list, show and compare recipes, search their keys"),
    "export": ("openjepa.cli.export", "for transformers, timm, ONNX, torch.export; checked at once"),
    "models": ("openjepa.cli.models", "published weights by name: list, show, get; inspect a weight file"),
    "runs": ("openjepa.cli.runs", "list, show and compare runs; which checkpoint to keep"),
    "doctor": ("openjepa.cli.doctor", "what this machine can do; doctor RUN: what ails a run"),
}
_DOTTED = re.compile(r"^--([a-z_]+(?:\.[a-z0-9_]+)+)(?:=(.*))?$", re.DOTALL)


def help_text() -> str:
    """What ``openjepa --help`` prints."""
    width = max(map(len, VERBS)) + 2
    rows = "\n".join(f"  {verb:<{width}}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        f"openjepa {__version__}: train, judge and look inside JEPA models.\n\n"
        "Usage: openjepa VERB … [key.sub=value …]\n\n"
        f"Verbs:\n{rows}\n\n"
        "Options:\n"
        "  -h, --help      this page; 'openjepa VERB --help' explains one verb\n"
        "  -v, --verbose   show the trace when something goes wrong\n"
        "  --version       the version\n\n"
        "Start here:\n"
        "  openjepa demo\n"
        "  openjepa pretrain path/to/images --recipe ijepa-tiny\n"
    )


def dotted_options(arguments: Sequence[str]) -> list[str]:
    """Rewrite ``--optim.lr 3e-4`` and ``--optim.lr=3e-4`` as ``optim.lr=3e-4``, the form recipes use."""
    rewritten: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        match = _DOTTED.match(word)
        if match is None:
            rewritten.append(word)
        elif match[2] is not None or not rest:
            rewritten.append(f"{match[1]}={match[2] or ''}")
        else:
            rewritten.append(f"{match[1]}={rest.pop(0)}")
    return rewritten


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 found something bad, 2 wrong input, 3 training stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbose = any(word in ("-v", "--verbose") for word in words)
    words = [word for word in words if word not in ("-v", "--verbose")]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"openjepa {__version__}\n")
        return 0
    try:
        return _run(words[0], dotted_options(words[1:]))
    except OpenJepaError as error:
        return _fail(" ".join(str(error).split()), error.exit_code, verbose)
    except BrokenPipeError:  # `openjepa … | head`: nobody reads any more, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT, verbose)
    except MemoryError as error:
        return _fail(f"out of memory: {error or 'lower train.batch_size or data.image_size'}", 2, verbose)
    except Exception as error:  # our bug, still said in one line
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return _fail("the device ran out of memory: lower train.micro_batch or data.image_size", 2, verbose)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"unexpected {reason[:300]} (a bug: run again with -v and report the trace)", 70, verbose)


def _run(verb: str, words: list[str]) -> int:
    """Import one verb's file and run its typer app."""
    if verb not in VERBS:
        raise OpenJepaError(f"no verb '{verb}'{nearest(verb, VERBS)}: choose from {', '.join(VERBS)}")
    module = importlib.import_module(VERBS[verb][0])
    try:
        code = module.app(args=words, prog_name=f"openjepa {verb}", standalone_mode=False)
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of typer's parser
        if message is None:
            raise
        hint = f"see 'openjepa {verb} --help'"
        raise OpenJepaError(f"{message().rstrip('.') or f'openjepa {verb} needs a command'}; {hint}") from error
    return code if isinstance(code, int) else 0


def _fail(sentence: str, code: int, verbose: bool) -> int:
    """Say what went wrong in one line; with ``-v`` after the trace."""
    if verbose:
        traceback.print_exc()
    sys.stderr.write(f"openjepa: {sentence}\n")
    return code


def console_main() -> None:
    """Entry point of the ``openjepa`` program."""
    sys.exit(main())
