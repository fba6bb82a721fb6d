"""Features of JPEG files and of video files, end to end, beside the obvious scripts: same backbone, same weights, one run.

    python benchmarks/embed.py [--arch vit_tiny] [--images 256] [--batch 32] [--workers 2] [--device cpu] [--photos FOLDER]
    python benchmarks/embed.py --clips 24 --frames 16

Images: ``openjepa.embed`` into an .npz; ``transformers`` (IJepaModel, its image processor, a Dataset of PIL images, DataLoader,
``last_hidden_state.mean(1)``, np.save); timm (VisionTransformer, its own evaluation transform, DataLoader). Clips: ``openjepa.embed``
beside VJEPA2Model with its video processor, PyAV and a DataLoader. Weights are random and the same in all: before anything is
timed, features of one normalised batch must agree to 1e-4 of their largest. 'outside' is the share of a run's time in which
the main process is not in the forward pass. Aims: 1.0 times on a CPU with at most 10 % outside, 1.2 times on a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Times, console, describe, machine, paired_ratio, pin, save, show, take_turns
from PIL import Image
from torch import Tensor

import openjepa
from openjepa.embedding import encoding
from openjepa.features import ClipOptions
from openjepa.models.sizes import size_named

AGREE = 1e-4


class Clock:
    """Seconds spent inside forward passes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __call__(self, forward: Callable[..., Any], *args: Any, **words: Any) -> Any:
        """Run and time a forward pass. On a GPU it returns before the work is done: what the main process waits counts
        as outside, unless it waits here.
        """
        start = time.perf_counter()
        found = forward(*args, **words)
        self.seconds += time.perf_counter() - start
        return found


def photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 × 375, smooth shapes with some grain, as photographs compress."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        values = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        values = np.clip(values + rng.normal(0, 6, values.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(values).save(paths[-1], quality=85)
    return paths


def films(folder: Path, count: int) -> list[Path]:
    """H.264 (or MPEG-4) clips of 320 × 240, 96 frames at 24 per second, of a drifting pattern."""
    import av

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (12, 20, 3), np.uint8))
        field = np.asarray(small.resize((640, 240), Image.Resampling.BICUBIC))
        paths.append(folder / f"{number:05d}.mp4")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream("mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for k in range(96):
                frame = np.ascontiguousarray(field[:, 2 * k : 2 * k + 320])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return paths


class Pictures(torch.utils.data.Dataset[Tensor]):
    """The obvious data set: PIL and a transform."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


class Films(torch.utils.data.Dataset[Tensor]):
    """The obvious data set of clips: PyAV, every frame up to the last one needed, and the processor."""

    def __init__(self, paths: list[Path], processor: Any, frames: int, stride: int) -> None:
        self.paths, self.processor, self.frames, self.stride = paths, processor, frames, stride

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        import av

        with av.open(str(self.paths[index])) as container:
            total = container.streams.video[0].frames
            first = (total - (self.frames - 1) * self.stride - 1) // 2
            wanted = {first + k * self.stride for k in range(self.frames)}
            found = []
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found.append(frame.to_ndarray(format="rgb24"))
                if number >= max(wanted):
                    break
        clip = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
        return self.processor(clip, return_tensors="pt")["pixel_values_videos"][0]


@contextmanager
def ours_timed(clock: Clock) -> Iterator[None]:
    """Count our forward passes."""
    call = encoding.Encoding.__call__
    encoding.Encoding.__call__ = lambda self, x: clock(call, self, x)  # type: ignore[method-assign]
    try:
        yield
    finally:
        encoding.Encoding.__call__ = call  # type: ignore[method-assign]


def plain_loop(
    data: torch.utils.data.Dataset[Tensor], forward: Callable[[Tensor], Tensor], out: Path, clock: Clock, args: Any
) -> None:
    """DataLoader, model, numpy: what everybody writes."""
    pinned = args.device.type == "cuda"
    loader = torch.utils.data.DataLoader(data, batch_size=args.size, num_workers=args.workers, pin_memory=pinned)
    found = []
    with torch.inference_mode():
        for batch in loader:
            found.append(clock(forward, batch.to(args.device, non_blocking=True)).cpu())
    np.save(out, torch.cat(found).numpy())


def image_models(args: Any, folder: Path) -> tuple[Any, Any, Any, Any]:
    """IJepaModel and its processor, the timm network, and ours, with one set of random weights."""
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer
    from transformers import IJepaConfig, IJepaModel, ViTImageProcessor

    from openjepa.hub.timm_vit import save_timm_model

    torch.manual_seed(0)
    size = size_named(args.arch)
    config = IJepaConfig(
        hidden_size=size.dim, num_hidden_layers=size.depth, num_attention_heads=size.heads,
        intermediate_size=int(size.dim * size.mlp_ratio), image_size=224, patch_size=16, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = IJepaModel(config, add_pooling_layer=False).eval()
    processor = ViTImageProcessor(size={"height": 224, "width": 224})
    theirs.save_pretrained(folder / "hf")
    processor.save_pretrained(folder / "hf")
    ours = openjepa.load(str(folder / "hf"))
    save_timm_model(folder / "timm", ours.loaded)  # type: ignore[union-attr]
    network = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=size.dim, depth=size.depth, num_heads=size.heads, num_classes=0,
        global_pool="", class_token=False,
    )  # fmt: skip
    weights = load_file(folder / "timm" / "model.safetensors")
    network.load_state_dict({key: value for key, value in weights.items() if not key.startswith("head")})
    return theirs.to(args.device), processor, network.eval().to(args.device), ours.to(args.device)


def check_equal(found: dict[str, Tensor]) -> float:
    """The largest difference of any to the first, over the first's largest."""
    first, *others = found.values()
    worst = max(float((first - other).abs().max() / first.abs().max()) for other in others)
    if worst > AGREE:
        raise SystemExit(f"the contenders disagree: {worst:.2e}")
    return worst


def images(args: Any, folder: Path) -> dict[str, object]:
    """The table of images."""
    from timm.data import create_transform

    place = Path(args.photos) if args.photos else folder / "photos"
    if not args.photos:
        place.mkdir()
        photos(place, args.images)
    paths = sorted(place.rglob("*.jp*g"))
    args.size = args.batch
    theirs, processor, network, ours = image_models(args, folder)
    x = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(args.device)
    with torch.inference_mode():
        apart = check_equal(
            {"ours": ours.encoder(x), "hf": theirs(pixel_values=x).last_hidden_state, "timm": network(x)}
        )
    clocks = {name: Clock(args.device) for name in ("openjepa", "transformers", "timm")}

    def embed() -> None:
        with ours_timed(clocks["openjepa"]):
            openjepa.embed(
                place, ours, folder / "ours.npz", batch_size=args.batch, workers=args.workers, overwrite=True,
                device=str(args.device),
            )  # fmt: skip
        (folder / "ours.npz").unlink()

    def hugging() -> None:
        def transform(image: Image.Image) -> Tensor:
            return processor(image, return_tensors="pt")["pixel_values"][0]

        data = Pictures(paths, transform)
        plain_loop(
            data,
            lambda x: theirs(pixel_values=x).last_hidden_state.mean(1),
            folder / "hf.npy",
            clocks["transformers"],
            args,
        )

    def timm_script() -> None:
        data = Pictures(paths, create_transform(input_size=224, is_training=False))
        plain_loop(data, lambda x: network(x).mean(1), folder / "timm.npy", clocks["timm"], args)

    ways = {"openjepa": embed, "transformers": hugging, "timm": timm_script}
    return table("images", len(paths), ways, clocks, apart, args)


def clips(args: Any, folder: Path) -> dict[str, object]:
    """The table of clips."""
    from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

    place = folder / "films"
    place.mkdir()
    paths = films(place, args.clips)
    torch.manual_seed(0)
    size, stride = size_named(args.arch), 4
    config = VJEPA2Config(
        crop_size=224, frames_per_clip=args.frames, hidden_size=size.dim, num_hidden_layers=size.depth,
        num_attention_heads=size.heads, mlp_ratio=size.mlp_ratio, pred_hidden_size=48, pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    theirs = VJEPA2Model(config).eval()
    processor = VJEPA2VideoProcessor(crop_size={"height": 224, "width": 224}, size={"shortest_edge": 256})
    theirs.save_pretrained(folder / "v2")
    processor.save_pretrained(folder / "v2")
    args.size = args.clip_batch
    look = ClipOptions(frames=args.frames, stride=stride)
    model = openjepa.load(str(folder / "v2")).to(args.device)
    theirs.to(args.device)
    x = torch.randn(1, 3, args.frames, 224, 224, generator=torch.Generator().manual_seed(0)).to(args.device)
    with torch.inference_mode():
        swapped = x.transpose(1, 2)
        apart = check_equal(
            {
                "ours": model.encoder.forward_features(x),
                "hf": theirs(pixel_values_videos=swapped, skip_predictor=True).last_hidden_state,
            }
        )
    clocks = {name: Clock(args.device) for name in ("openjepa", "transformers")}

    def embed() -> None:
        with ours_timed(clocks["openjepa"]):
            openjepa.embed(
                place, model, folder / "clips.npz", clips=look, batch_size=args.clip_batch, workers=args.workers,
                overwrite=True, device=str(args.device),
            )  # fmt: skip
        (folder / "clips.npz").unlink()

    def hugging() -> None:
        data = Films(paths, processor, args.frames, stride)

        def forward(batch: Tensor) -> Tensor:
            return theirs(pixel_values_videos=batch, skip_predictor=True).last_hidden_state.mean(1)

        plain_loop(data, forward, folder / "v2.npy", clocks["transformers"], args)

    return table("clips", len(paths), {"openjepa": embed, "transformers": hugging}, clocks, apart, args)


def table(
    what: str, count: int, ways: dict[str, Callable[[], None]], clocks: dict[str, Clock], apart: float, args: Any
) -> dict[str, object]:
    """Measure, print, and as plain data."""
    for work in ways.values():
        work()
    for clock in clocks.values():
        clock.seconds = 0.0
    taken: dict[str, Times] = take_turns(ways, args.rounds, args.device, warmup=0)
    rows, facts = [], {}
    for name, times in taken.items():
        outside = 1 - clocks[name].seconds / sum(times.seconds)
        ratio, low, high = paired_ratio(times, taken["openjepa"])
        rows.append(
            (
                name,
                f"{count / times.median:.1f}",
                f"{times.spread:.0%}",
                f"{outside:.1%}",
                f"{ratio:.2f} ({low:.2f} to {high:.2f})",
            )
        )
        facts[name] = {"per_second": count / times.median, "seconds": times.seconds, "outside": outside, "ratio": ratio}
    title = (
        f"{what} end to end: {args.arch}, {count} files, batches of {args.size}, {args.workers} workers, {args.device}"
    )
    notes = [f"features of one batch differ by at most {apart:.1e} of the largest; {args.rounds} rounds in turns"]
    show(title, ("", f"{what}/s", "spread", "outside", "openjepa is so many times faster"), rows, notes)
    return {
        "what": what,
        "count": count,
        "arch": args.arch,
        "batch": args.size,
        "workers": args.workers,
        "apart": apart,
        "rows": facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_tiny")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--clips", type=int, default=0, help="also so many videos")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clip-batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--photos", help="a folder of JPEGs instead of generated ones")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    pin(args.threads)
    facts = machine(args.device)
    describe(facts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [images(args, folder)] if args.images else []
        tables += [clips(args, folder)] if args.clips else []
    for entry in tables:
        save(f"embed-{entry['what']}-{args.device.type}-{args.arch}", {"machine": facts, **entry})
    console.print("outside: decoding happens in other processes; what is left is waiting for them, copying and writing")


if __name__ == "__main__":
    main()
