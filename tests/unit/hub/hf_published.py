"""Names and shapes of published Hugging Face files (official.md §6.5), written down without our models or transformers."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def block(name: str, dim: int, hidden: int, *, key_bias: bool = True) -> Shapes:
    attention = f"{name}.attention.attention"
    shapes: Shapes = {f"{attention}.{part}.weight": (dim, dim) for part in ("query", "key", "value")}
    if key_bias:
        shapes |= {f"{attention}.{part}.bias": (dim,) for part in ("query", "key", "value")}
    else:
        shapes |= {f"{attention}.{part}_bias": (dim,) for part in "qv"}
    shapes |= linear(f"{name}.attention.output.dense", dim, dim)
    shapes |= linear(f"{name}.intermediate.dense", hidden, dim) | linear(f"{name}.output.dense", dim, hidden)
    return shapes | norm(f"{name}.layernorm_before", dim) | norm(f"{name}.layernorm_after", dim)


def encoder(config: dict[str, int], prefix: str, *, token: bool) -> Shapes:
    """IJepaModel; behind ``vit.`` and with a class token ViTMAEModel."""
    dim, patch, places = (
        config["hidden_size"],
        config["patch_size"],
        (config["image_size"] // config["patch_size"]) ** 2,
    )
    shapes: Shapes = {f"{prefix}embeddings.position_embeddings": (1, places + token, dim)}
    shapes |= {f"{prefix}embeddings.cls_token": (1, 1, dim)} if token else {}
    shapes[f"{prefix}embeddings.patch_embeddings.projection.weight"] = (dim, 3, patch, patch)
    shapes[f"{prefix}embeddings.patch_embeddings.projection.bias"] = (dim,)
    for number in range(config["num_hidden_layers"]):
        shapes |= block(f"{prefix}encoder.layer.{number}", dim, config["intermediate_size"])
    return shapes | norm(f"{prefix}layernorm", dim)


def ijepa(config: dict[str, int]) -> Shapes:
    return encoder(config, "", token=False)


def mae(config: dict[str, int]) -> Shapes:
    dim, wide, patch = config["hidden_size"], config["decoder_hidden_size"], config["patch_size"]
    shapes = encoder(config, "vit.", token=True)
    shapes["decoder.mask_token"] = (1, 1, wide)
    shapes["decoder.decoder_pos_embed"] = (1, (config["image_size"] // patch) ** 2 + 1, wide)
    shapes |= linear("decoder.decoder_embed", wide, dim) | linear("decoder.decoder_pred", 3 * patch * patch, wide)
    for number in range(config["decoder_num_hidden_layers"]):
        shapes |= block(f"decoder.decoder_layers.{number}", wide, config["decoder_intermediate_size"])
    return shapes | norm("decoder.decoder_norm", wide)


def videomae(config: dict[str, int]) -> Shapes:
    dim, wide, patch = config["hidden_size"], config["decoder_hidden_size"], config["patch_size"]
    stem = "videomae.embeddings.patch_embeddings.projection"
    shapes: Shapes = {f"{stem}.weight": (dim, 3, 2, patch, patch), f"{stem}.bias": (dim,), "mask_token": (1, 1, wide)}
    for number in range(config["num_hidden_layers"]):
        shapes |= block(f"videomae.encoder.layer.{number}", dim, config["intermediate_size"], key_bias=False)
    shapes |= norm("videomae.layernorm", dim) | {"encoder_to_decoder.weight": (wide, dim)}
    for number in range(config["decoder_num_hidden_layers"]):
        name, hidden = f"decoder.decoder_layers.{number}", config["decoder_intermediate_size"]
        shapes |= block(name, wide, hidden, key_bias=False)
    return shapes | norm("decoder.norm", wide) | linear("decoder.head", 2 * 3 * patch * patch, wide)


NAMES = {"ijepa": ijepa, "vit_mae": mae, "videomae": videomae}


def numbers(dim: int, depth: int, heads: int, hidden: int, patch: int, size: int, **decoder: int) -> dict[str, int]:
    """A configuration; decoder: ``wide``, ``deep``, ``heads`` of it."""
    found = {
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "patch_size": patch,
        "image_size": size,
    }
    if decoder:
        found["decoder_hidden_size"], found["decoder_num_hidden_layers"] = decoder["wide"], decoder["deep"]
        found["decoder_num_attention_heads"] = decoder["head"]
        found["decoder_intermediate_size"] = 4 * decoder["wide"]
    return found


_MAE = {"wide": 512, "deep": 8, "head": 16}
SIZES: dict[
    str, tuple[str, dict[str, int], float]
] = {  # kind, configuration, the encoder's parameters in millions (official.md §1.1)
    "facebook/ijepa_vith14_1k": ("ijepa", numbers(1280, 32, 16, 5120, 14, 224), 630.43),
    "facebook/ijepa_vith16_1k": ("ijepa", numbers(1280, 32, 16, 5120, 16, 448), 630.66),
    "facebook/ijepa_vitg16_22k": ("ijepa", numbers(1408, 40, 16, 6144, 16, 224), 1011.09),
    "facebook/vit-mae-base": ("vit_mae", numbers(768, 12, 12, 3072, 16, 224, **_MAE), 85.65),
    "facebook/vit-mae-large": ("vit_mae", numbers(1024, 24, 16, 4096, 16, 224, **_MAE), 303.1),
    "facebook/vit-mae-huge": ("vit_mae", numbers(1280, 32, 16, 5120, 14, 224, **_MAE), 630.43),
    "MCG-NJU/videomae-base": ("videomae", numbers(768, 12, 12, 3072, 16, 224, wide=384, deep=4, head=6), 86.24),
    "MCG-NJU/videomae-large": ("videomae", numbers(1024, 24, 16, 4096, 16, 224, wide=512, deep=12, head=8), 303.89),
}
