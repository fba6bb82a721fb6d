"""The processes of a run: one without a launcher, several under ``torchrun``. Every rule they must agree on is here."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from openjepa.errors import ConfigError, OpenJepaError, RunError, TrainingError

# A dead process closes its connections and is noticed at once; a hung one after this many seconds.
RANK_TIMEOUT = 300.0
# What only the first process does while the others wait (probes, saving a large model) may take this long.
FIRST_RANK_TIMEOUT = 3600.0

T = TypeVar("T")


class World:
    """Which process this is, and what processes say to each other.

    ``rank``, ``size``: this process and how many there are. ``local_rank``: its number on this machine (its GPU).
    Without ``torchrun`` there is one process and no process group, and every method here is free.
    """

    def __init__(self, device_type: str) -> None:
        self.rank, self.size, self.local_rank = 0, 1, 0
        self._ours = False
        self._control: dist.ProcessGroup | None = None
        self._vote: tuple[Tensor, dist.Work] | None = None
        if launched():
            self._join(device_type)

    def _join(self, device_type: str) -> None:
        if not dist.is_initialized():
            backend = {"cuda": "nccl", "cpu": "gloo"}.get(device_type)
            if backend is None:
                raise ConfigError(f"several processes need device cuda or cpu, not {device_type}")
            if device_type == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(backend, timeout=_seconds("OPENJEPA_RANK_TIMEOUT", RANK_TIMEOUT))
            self._ours = True
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        patience = _seconds("OPENJEPA_RANK_TIMEOUT", FIRST_RANK_TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=patience)
        assert isinstance(control, dist.ProcessGroup)
        self._control = control

    @property
    def first(self) -> bool:
        """Whether this process writes the run directory and speaks to the user."""
        return self.rank == 0

    def on_first(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the first process only and hand its (picklable) result, or its error, to all.

        Raises:
            OpenJepaError: whatever ``work`` raised, in every process, so that none waits for one that has stopped.
        """
        if self.size == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = work()
            except OpenJepaError as error:
                answer[1] = (type(error), str(error))
        dist.broadcast_object_list(answer, src=0, group=self._control)
        if answer[1] is not None:
            kind, message = answer[1]
            raise kind(message)
        return answer[0]

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all processes, in place of the caller's own."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def merge(self, mine: dict[str, T]) -> dict[str, T]:
        """Everybody's entries together."""
        if self.size == 1:
            return dict(mine)
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, mine, group=self._control)
        return {key: value for box in boxes for key, value in box.items()}

    def smallest(self, value: int) -> int:
        """The smallest of everybody's number."""
        if self.size == 1:
            return value
        box = torch.tensor(value)
        dist.all_reduce(box, op=dist.ReduceOp.MIN, group=self._control)
        return int(box)

    def agree(self, stop: bool) -> bool:
        """Whether some process wanted to stop, as of the previous call (one step late, so that nobody waits).

        All processes get the same answer at the same step. Alone, the answer is ``stop`` itself.
        """
        if self.size == 1:
            return stop
        earlier = self._vote
        flag = torch.tensor(int(stop))
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._control, async_op=True)
        assert work is not None
        self._vote = (flag, work)
        if earlier is None:
            return False
        earlier[1].wait()
        return bool(earlier[0])

    @contextlib.contextmanager
    def guarded(self, hint: Callable[[], str]) -> Iterator[None]:
        """Turn a lost connection into one line; ``hint`` says how to go on. Leaves the process group at the end."""
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            if self.size == 1 or isinstance(error, OpenJepaError) or not _is_lost(error):
                raise
            raise TrainingError(
                f"another process of this run was lost or hangs (rank {self.rank} noticed); {hint()}"
            ) from error
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._ours and dist.is_initialized():
            with contextlib.suppress(Exception):  # a broken group cannot be left politely
                dist.destroy_process_group()
            self._ours = False


def launched() -> bool:
    """Whether a launcher (``torchrun``) or the caller has set up several processes, or a process group."""
    return dist.is_available() and (dist.is_initialized() or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ))


def _seconds(variable: str, default: float) -> datetime.timedelta:
    """A time limit, which an environment variable may lower or raise."""
    try:
        return datetime.timedelta(seconds=float(os.environ.get(variable, default)))
    except ValueError:
        raise RunError(f"{variable}={os.environ[variable]!r} is not a number of seconds") from None


def _is_lost(error: BaseException) -> bool:
    """Whether an error of torch.distributed means that a peer is gone."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    signs = ("connection closed", "connection reset", "broken pipe", "timed out", "timeout", "gloo", "nccl", "socket")
    return any(sign in text for sign in signs)
