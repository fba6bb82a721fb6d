"""Systems of ours that Hugging Face ``transformers`` has too: one way to open their directories and to write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openjepa.errors import CheckpointError
from openjepa.hub import ijepa_hf, mae_hf, videomae_hf, vjepa2_hf
from openjepa.hub.hf_directory import CONFIG, Draft, HfDirectory, finish, read_config
from openjepa.hub.hf_vit import Published, write_published
from openjepa.hub.keymaps import KeyMap
from openjepa.hub.model_directory import LoadedModel, Which

Open = Callable[[str | Path, Which], LoadedModel]
Translate = Callable[[HfDirectory], Draft]
Finish = Callable[[HfDirectory, Which], LoadedModel]


@dataclass(frozen=True)
class Native:
    """One of them.

    kind: its ``model_type``. family: as hints call it. open: a directory. draft, finish: one that is read already, in our
    words and as a model. publish: what is written of a model. map_of: whose names the tensors of a directory have.
    """

    kind: str
    family: str
    about: str
    open: Open
    draft: Translate
    finish: Finish
    publish: Callable[[LoadedModel], Published]
    map_of: Callable[[HfDirectory], KeyMap]


def _finish(draft: Translate) -> Finish:
    """Its last step, where nothing is special."""
    return lambda directory, which: finish(directory, draft(directory), which)


NATIVE = {
    native.kind: native
    for native in (
        Native(
            ijepa_hf.KIND,
            "I-JEPA",
            "IJepaModel of Hugging Face: an encoder",
            ijepa_hf.open_ijepa_model,
            ijepa_hf.draft_ijepa,
            _finish(ijepa_hf.draft_ijepa),
            ijepa_hf.publish_ijepa,
            ijepa_hf.map_of,
        ),
        Native(
            mae_hf.KIND,
            "MAE",
            "ViTMAEForPreTraining or ViTMAEModel of Hugging Face: encoder and pixel decoder",
            mae_hf.open_mae_model,
            mae_hf.draft_mae,
            _finish(mae_hf.draft_mae),
            mae_hf.publish_mae,
            mae_hf.map_of,
        ),
        Native(
            videomae_hf.KIND,
            "VideoMAE",
            "VideoMAEForPreTraining or VideoMAEModel of Hugging Face: encoder and pixel decoder",
            videomae_hf.open_videomae_model,
            videomae_hf.draft_videomae,
            videomae_hf.finish_videomae,
            videomae_hf.publish_videomae,
            videomae_hf.map_of,
        ),
        Native(
            vjepa2_hf.KIND,
            "V-JEPA 2",
            "VJEPA2Model or VJEPA2ForVideoClassification of Hugging Face: encoder, predictor, classifier",
            vjepa2_hf.open_vjepa2_model,
            vjepa2_hf.draft_vjepa2,
            _finish(vjepa2_hf.draft_vjepa2),
            vjepa2_hf.publish_vjepa2,
            vjepa2_hf.map_of,
        ),
    )
}


def is_native(folder: str | Path) -> bool:
    """Whether a directory holds a system of ours in transformers' layout, as its configuration says."""
    try:
        config = read_config(Path(folder))
    except CheckpointError:
        return False
    return config.get("model_type") in NATIVE


def open_hf_model(folder: str | Path, which: Which = "deployed") -> LoadedModel:
    """Open a directory that ``transformers`` wrote, as a model of ours.

    Raises:
        CheckpointError: it is none of :data:`NATIVE`, or what its own reader says.
    """
    kind = read_config(Path(folder)).get("model_type")
    if kind not in NATIVE:
        raise CheckpointError(
            f"'{Path(folder) / CONFIG}' says model_type {kind!r}, and ours are {', '.join(sorted(NATIVE))}"
        )
    return NATIVE[kind].open(folder, which)


def kind_for(loaded: LoadedModel) -> str:
    """The ``model_type`` of transformers that a model of ours fits best.

    Raises:
        CheckpointError: none holds it; says why.
    """
    encoder = loaded.encoder
    if not encoder.video:
        return mae_hf.KIND if encoder.num_prefix_tokens else ijepa_hf.KIND
    if encoder.positions.kind == "rope3d" and encoder.positions.pairing == "tiled":
        return vjepa2_hf.KIND
    if encoder.positions.kind == "sinusoid":
        return videomae_hf.KIND
    kind = encoder.positions.kind + (" interleaved" if encoder.positions.rotary else "")
    raise CheckpointError(
        f"transformers has no encoder of clips with positions {kind}: it knows rope3d with rope_pairing tiled (V-JEPA 2) "
        "and sinusoid (VideoMAE)"
    )


def save_hf_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """Write a model of ours as a directory of the ``transformers`` system that it fits (:func:`kind_for`).

    Raises:
        CheckpointError: transformers has no such model. RunError: it cannot be written.
    """
    return write_published(folder, NATIVE[kind_for(loaded)].publish(loaded))
