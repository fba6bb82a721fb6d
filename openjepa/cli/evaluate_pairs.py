"""``openjepa evaluate cka`` and ``openjepa evaluate contamination``: two encoders, or two sets of images, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openjepa.cli.clip_options import with_clips

_Encoder = "run, checkpoint or model directory; timm:NAME; hf:ORG/NAME"
_SHOWN = 10  # pairs of files listed; all go to --json


def add_to(app: typer.Typer) -> None:
    """Add both commands to ``openjepa evaluate``."""
    app.command("cka")(with_clips(cka))
    app.command("contamination")(contamination)


def cka(
    model: Annotated[str, typer.Option("--model", "-m", help=_Encoder)],
    other: Annotated[str, typer.Option("--other", "-o", help=f"the second encoder: {_Encoder}")],
    data: Annotated[str, typer.Option("--data", help="folder of images, list file or 'scenes'; labels are not used")],
    unbiased: Annotated[bool, typer.Option("--unbiased", help="correct for few images")] = False,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="also all layers of one beside all of the other")
    ] = False,
    layers: Annotated[Literal["last", "last4"], typer.Option(help="last layer, or the last four joined")] = "last",
    cache: Annotated[str, typer.Option(help="folder for features, auto or none")] = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="also write scores and matrix to this file")] = None,
    baselines: Annotated[bool, typer.Option(help="also each encoder beside its own random initialisation")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="images encoded at once")] = 64,
    seed: Annotated[int, typer.Option(help="of the interval's groups")] = 0,
    clips: dict[str, Any] | None = None,
) -> None:
    """How alike two encoders see the same images: linear centred kernel alignment, 0 to 1."""
    from rich.table import Table

    from openjepa import api
    from openjepa.cli.evaluate import make_console, show_scores
    from openjepa.features import ClipOptions

    found = api.cka(
        model=model,
        other=other,
        data=data,
        unbiased=unbiased,
        per_layer=per_layer,
        layers=layers,
        cache=cache,
        baselines=baselines,
        device=device,
        batch_size=batch_size,
        seed=seed,
        clips=ClipOptions(**(clips or {})),
    )
    console = make_console()
    show_scores(found.scores, console)
    if found.matrix:
        table = Table("layer of the first", *(str(i) for i in range(len(found.matrix[0]))), box=None, pad_edge=False)
        for i, row in enumerate(found.matrix):
            table.add_row(str(i), *(f"{value:.2f}" for value in row))
        console.print(table)
    if json is not None:
        matrix = [list(row) for row in found.matrix]
        payload = {"scores": [score.to_dict() for score in found.scores], "matrix": matrix}
        console.print(f"wrote {_write(json, payload)}", markup=False, soft_wrap=True)


def contamination(
    train: Annotated[str, typer.Option("--train", help="the images of pretraining: folder or list file")],
    val: Annotated[str, typer.Option("--val", help="the images of evaluation: folder or list file")],
    threshold: Annotated[
        float, typer.Option(help="cosine of thumbnails from which two images are near duplicates")
    ] = 0.97,
    json: Annotated[Path | None, typer.Option("--json", help="also write all pairs to this file")] = None,
) -> None:
    """Evaluation images that are copies, or near copies, of pretraining images. Ends with code 1 when there are any."""
    from openjepa import api
    from openjepa.cli.evaluate import make_console

    found = api.contamination(train=train, val=val, threshold=threshold)
    console = make_console()
    console.print(found.sentence, markup=False, soft_wrap=True)
    pairs = [("copy", match) for match in found.exact] + [("near", match) for match in found.near]
    for kind, match in pairs[:_SHOWN]:
        console.print(f"  {kind}  {match.cosine:.3f}  {match.val}  =  {match.train}", markup=False, soft_wrap=True)
    if len(pairs) > _SHOWN:
        console.print(f"  and {len(pairs) - _SHOWN:,} more{'' if json else ' (--json FILE writes all)'}", markup=False)
    if found.unreadable:
        console.print(f"{found.unreadable:,} files could not be read and were left out", markup=False)
    if json is not None:
        console.print(f"wrote {_write(json, found.to_dict())}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if pairs else 0)


def _write(path: Path, payload: object) -> Path:
    """Write JSON. Raises DataError when the file cannot be written."""
    import json

    from openjepa.errors import DataError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(payload, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"'{path}' cannot be written: {error.strerror}") from error
    return path
