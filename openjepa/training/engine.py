"""Where and how the numbers are computed: device, precision, processes, compilation. Each decision carries its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openjepa.config.schema import Recipe, TrainConfig
from openjepa.errors import ConfigError, TrainingError, nearest
from openjepa.hub.strict import load_strict
from openjepa.methods import Method
from openjepa.models import build_encoder
from openjepa.training.memory import keep_freed_memory
from openjepa.training.world import World, launched

COMPILE_FROM = 500  # steps; compiling costs about a minute, which a shorter run does not earn back


@dataclass(frozen=True)
class Choice:
    """A decision and why: printed as ``device: cpu (no CUDA or MPS device here)``."""

    topic: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.value} ({self.reason})"


class Engine:
    """Runs a method on the chosen device(s).

    Attributes:
        device: this process's device. dtype: autocast dtype, None for plain float32. world: the processes.
        strategy: ``single``, ``ddp`` or ``fsdp2``. choices: what was decided, with reasons.
        method: the method on the device; call ``model`` for the forward pass (it synchronises gradients).
    """

    method: Method
    model: nn.Module

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        device_type, why_device = _pick_device(config.device)
        self.world = World(device_type)
        self.device = _own_device(config.device, device_type, self.world)
        self.dtype, why_precision = _pick_precision(config.precision, self.device)
        self.strategy, why_strategy = _pick_strategy(config.strategy, self.world)
        self.compile = False
        if self.strategy == "fsdp2" and self.dtype is torch.float16:
            raise ConfigError("train.precision fp16 does not work with train.strategy fsdp2: use bf16")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self._set_machine()
        self.choices = [
            Choice("device", str(self.device), why_device),
            Choice("precision", precision_name(self.dtype), why_precision),
            Choice("processes", f"{self.world.size}, {self.strategy}", why_strategy),
        ]

    def _set_machine(self) -> None:
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        if self.config.deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        elif self.device.type == "cpu":
            keep_freed_memory()

    def decide_compile(self, total_steps: int) -> None:
        """Decide whether to compile, once the length of the run is known."""
        self.compile, why = _pick_compile(self.config, self.device, total_steps)
        self.choices.append(Choice("compile", "yes" if self.compile else "no", why))

    def prepare(self, method: Method) -> Method:
        """Move ``method`` to the device, compile its blocks, and spread it over the processes as the strategy says."""
        self.method = method.to(self.device)
        self.model = self.method
        if self.compile:
            # One block's code serves encoder, target, predictor, its last block, with and without masks and gradients:
            # more variants than torch's default limit of 8, past which it goes on uncompiled with no more than a log line.
            torch._dynamo.config.recompile_limit = 64
            for block in self.method.blocks():
                block.compile()  # block by block: one small graph, compiled once, for any depth
        if self.strategy == "fsdp2":
            self._shard()
        elif self.strategy == "ddp":
            devices = [self.device] if self.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(
                self.method, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False
            )
        self.method.train()
        return self.method

    def _shard(self) -> None:
        """FSDP2: every block, then encoder, predictor and target, then the method as their common root."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.world.size,))
        for block in self.method.blocks():
            fully_shard(block, mesh=mesh)
        for part in self.method.parts():
            fully_shard(part, mesh=mesh)
        fully_shard(self.method, mesh=mesh)
        for module in (self.method, *self.method.parts(), *self.method.blocks()):
            for name in ("forward_features", "forward_intermediates", "forward_parts", "predict", "token", "panel"):
                if hasattr(module, name):
                    register_fsdp_forward_method(module, name)

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast to the chosen precision, or nothing. Master weights, targets, losses and norms stay float32."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextlib.contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around one micro-batch: gradients are exchanged between processes only in the ``last`` one of a step."""
        if self.strategy == "fsdp2":
            self.method.set_requires_gradient_sync(last)  # type: ignore[operator]
        if self.strategy == "ddp" and not last:
            with self.model.no_sync():  # type: ignore[operator]
                yield
        else:
            yield

    def backward(self, loss_sum: Tensor, count: float) -> None:
        """Backpropagate a micro-batch's share of the global mean loss.

        DDP and FSDP2 average gradients over processes, while each process holds a *share* of the global mean: hence
        the factor of the number of processes.
        """
        self.scaler.scale(loss_sum * (self.world.size / count)).backward()

    def whole(self, tensor: Tensor) -> Tensor:
        """A plain tensor: a sharded one is gathered (every process must call), any other is returned detached."""
        tensor = tensor.detach()
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def plain_encoder(self, recipe: Recipe, gathered: Mapping[str, Tensor] | None) -> nn.Module:
        """The deployed encoder as an ordinary module; ``gathered`` holds the method's whole weights where they are sharded."""
        if gathered is None:
            return self.method.encoder
        encoder = build_encoder(recipe.model, recipe.image_hw, recipe.data.channels, recipe.frames)
        part = f"{recipe.deployed}."
        load_strict(encoder, {k.removeprefix(part): v for k, v in gathered.items() if k.startswith(part)})
        return encoder.to(self.device).eval().requires_grad_(False)

    def largest_micro_batch(self, rows: int, attempt: Callable[[int], None]) -> tuple[int, str]:
        """Largest micro-batch of at most ``rows`` samples that fits, found by ``attempt(n)`` (forward and backward).

        Only CUDA is tried, and only before the first step: afterwards a run's arithmetic stays as announced.

        Raises:
            TrainingError: not even one sample fits.
        """
        if self.device.type != "cuda" or self.strategy == "fsdp2":
            return rows, "the whole batch of this device"
        size = rows
        while size:
            try:
                attempt(size)
                break
            except torch.OutOfMemoryError:
                size //= 2
            finally:
                self.method.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
        size = self.world.smallest(size)
        if size == 0:
            raise TrainingError(
                "one sample alone does not fit into GPU memory: use a smaller model, data.image_size or data.clip.frames"
            )
        return size, "tried on the device" if size == rows else f"tried on the device; {rows} at once did not fit"


def precision_name(dtype: torch.dtype | None) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def _pick_device(wish: str) -> tuple[str, str]:
    """Device type and why. Raises ConfigError when the wish cannot be had."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wish == "auto":
        if cuda:
            return "cuda", torch.cuda.get_device_name(0)
        if mps:
            return "mps", "Apple GPU, no CUDA device here"
        return "cpu", f"no CUDA or MPS device here; {torch.get_num_threads()} threads"
    kind, _, number = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise ConfigError(
            f"train.device={wish} is none of auto, cpu, cuda, cuda:N, mps{nearest(kind, ('cpu', 'cuda', 'mps'))}"
        )
    if kind == "cuda" and not cuda:
        raise ConfigError(
            f"train.device={wish} but torch {torch.__version__} finds no CUDA device: use train.device=cpu"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"train.device={wish} but there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if kind == "mps" and not mps:
        raise ConfigError("train.device=mps but torch finds no Apple GPU: use train.device=cpu")
    return kind, "as asked"


def _own_device(wish: str, kind: str, world: World) -> torch.device:
    """The device of this process: under a launcher, the GPU with its local rank."""
    if kind == "cuda":
        number = wish.partition(":")[2]
        return torch.device("cuda", world.local_rank if world.size > 1 else int(number or 0))
    return torch.device(kind)


def _pick_precision(wish: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """Autocast dtype (None: float32) and why."""
    if wish == "fp16":
        if device.type != "cuda":
            raise ConfigError(f"train.precision=fp16 needs a CUDA device, not {device.type}: use bf16 or fp32")
        return torch.float16, "as asked, with loss scaling"
    if wish != "auto":
        return (torch.bfloat16 if wish == "bf16" else None), "as asked"
    fast, why = fast_bf16(device)
    return (torch.bfloat16 if fast else None), why


def fast_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether bfloat16 matrix products are faster than float32 on ``device``, and how we know."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        word = "has" if major >= 8 else "has no"
        return major >= 8, f"compute capability {major}.{minor} {word} fast bfloat16"
    if device.type == "mps":
        return False, "bfloat16 is no faster on Apple GPUs"
    return _cpu_bf16()


def _cpu_bf16() -> tuple[bool, str]:
    probes = (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16"))
    for probe, name in probes:  # torch's own names, private so far; absent ones count as no
        check = getattr(torch.cpu, probe, None)
        if check is not None and check():
            return True, f"this CPU multiplies bfloat16 matrices in hardware ({name})"
    return False, "this CPU has neither AMX nor AVX512-BF16, so bfloat16 would be slower"


def _pick_strategy(wish: str, world: World) -> tuple[str, str]:
    if wish == "single" and world.size > 1:
        raise ConfigError(f"train.strategy=single but {world.size} processes were started: use auto, ddp or fsdp2")
    if wish in ("ddp", "fsdp2") and not launched():
        raise ConfigError(f"train.strategy={wish} needs a launcher: torchrun --nproc-per-node N -m openjepa pretrain …")
    if wish in ("ddp", "fsdp2"):
        return wish, "as asked"
    return ("ddp", "started by torchrun") if world.size > 1 else ("single", "no launcher")


def _pick_compile(config: TrainConfig, device: torch.device, total: int) -> tuple[bool, str]:
    if config.compile != "auto":
        return config.compile, "as asked"
    if device.type != "cuda":
        return False, f"it does not pay on {device.type}"
    if total < COMPILE_FROM:
        return False, f"not worth it for fewer than {COMPILE_FROM} steps"
    return True, f"CUDA and at least {COMPILE_FROM} steps"
