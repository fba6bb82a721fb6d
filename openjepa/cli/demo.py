"""``openjepa demo``: the whole job on built-in images in a few minutes: train, judge, report."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from openjepa.cli.console import say_result

app = typer.Typer(add_completion=False, rich_markup_mode=None)
# With scores and report under five minutes on two cores: about 600 images/s with fast bfloat16, 200 without.
STEPS_FAST, STEPS_SLOW = 1500, 700
# One thread: a model this small gains little from a second one, and loses a lot when another program wants that core.
DEMO_CHANGES = ("probe.every=none", "train.threads=1")


@app.command()
def demo(
    out: Annotated[Optional[str], typer.Option(help="run directory; default runs/demo-DATE")] = None,  # noqa: UP045
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help=f"training steps; default {STEPS_FAST}, or {STEPS_SLOW} on a CPU without fast bfloat16"
        ),
    ] = None,
) -> None:
    """Train an I-JEPA on procedural images, score it beside raw pixels and its random start, and write the report."""
    import time

    import torch

    from openjepa import api
    from openjepa.training.engine import fast_bf16

    place = out or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    if steps is None:
        steps = STEPS_FAST if torch.cuda.is_available() or fast_bf16(torch.device("cpu"))[0] else STEPS_SLOW
    typer.echo(
        f"An I-JEPA looks at built-in scenes, without labels, for {steps} steps; then it is scored and reported.\n"
    )
    result = api.pretrain("scenes", api.DEFAULT_RECIPE, steps=steps, out=place, overrides=DEMO_CHANGES)
    say_result(result)
    typer.echo(f"\n{learned(result)}")
    if result.report is not None:
        typer.echo(f"Open {result.report.resolve()} in a browser.")


def learned(result: object) -> str:
    """Whether the encoder beats raw pixels and its random initialisation beyond the 95 % intervals, in one sentence."""
    from openjepa.api import PretrainResult

    assert isinstance(result, PretrainResult)
    scores = {(score.subject, score.name): score for score in result.scores}
    rivals = [subject for subject in dict.fromkeys(s.subject for s in result.scores) if subject != "trained"]
    behind = [
        f"{rival} ({name})"
        for (subject, name), ours in scores.items()
        if subject == "trained"
        for rival in rivals
        if ours.interval[0] <= scores[rival, name].interval[1]
    ]
    if not result.scores:
        return "Nothing was scored."
    if behind:
        return f"It has not clearly passed {', '.join(behind)} yet: more steps help."
    return f"It learned: kNN and linear scores are above {' and '.join(rivals)}, beyond the 95 % intervals."
