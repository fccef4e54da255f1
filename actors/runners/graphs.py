"""Short passes of fixed shape, recorded once and replayed.

Theory of operation. A library launches some hundred small kernels a pass, one after the other. On a
GPU that takes several times as long as the kernels themselves. Recorded as one CUDA graph they are
launched together; but what is replayed has the shapes and the addresses of the recording. So:

  shape    A short pass is rounded up to one of a few: tokens and positions to powers of two, rows
           to an aligned block. What is too much is padding and idle rows, written behind the end
           of their row, where the mask hides them until they are overwritten.
  inputs   One buffer a shape, filled by one copy a pass: tokens, where each is written, where it
           stands. Masks are computed from them inside the step.
  cache    Its addresses are in the recordings too: when it has grown, or is gone, they are
           forgotten (`RecordedPasses.forget`).
  outputs  All recordings of a runner share one pool of memory, so what a replay returns lasts until
           the next replay, of whatever shape.

May import: torch.
Must never: know feeds, models or caches, or decide which passes are recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias, final

import torch
from torch import Tensor

Step: TypeAlias = Callable[[], Tensor]
RunPass: TypeAlias = Callable[["PassShape", Tensor], Tensor]

STEP_TOKENS: Final = 16
"""Of each row. A prefill has more, and then the kernels take longer than their launches."""
LEAST_USED: Final = 256
"""Positions. So few keys and values are nothing beside the weights, which every pass reads."""
MOST_RECORDED: Final = 128
"""Each takes memory on the device, and of its driver."""

# A capture begins by waiting for the whole device, and that would break one that is under way in
# another thread: torch allows one at a time in a process.
CAPTURING: Final = threading.Lock()


class PassShape(NamedTuple):
    """What tells a recorded pass from others."""

    first: int
    """First row of the range."""
    rows: int
    tokens: int
    """Of each row."""
    used: int
    """Positions that attention sees."""
    logits: int
    """How many of the last tokens of each row need theirs."""
    shelf: int = 0
    """Where in the cache the rows lie."""


def rounded(shape: PassShape, length: int) -> PassShape:
    """The fixed shape that a pass is taken in; rows have `length` positions."""
    first, last = shape.first, shape.first + shape.rows - 1
    rows = 1 << (first ^ last).bit_length()  # the smallest aligned block that holds both
    tokens = _power(shape.tokens)
    return PassShape(
        first=first // rows * rows,
        rows=rows,
        tokens=tokens,
        used=min(max(_power(shape.used), LEAST_USED), length),
        logits=tokens,
        shelf=shape.shelf,
    )


class Recorder(Protocol):
    """How a step is recorded."""

    def record(self, step: Step) -> Step:
        """What does the same again, on the same memory; it returns what `step` would.

        What the step reads must live as long as the recording, and what it writes may be written
        twice. Its result lasts until the next replay of anything this recorder made.

        Raises:
            RuntimeError: the step cannot be recorded.
        """

    def forget(self) -> None:
        """All that was recorded is gone."""


@final
class CudaGraphs:
    """Records CUDA graphs, all in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, step: Step) -> Step:
        """Take the step once, so that all it needs is loaded, then capture it.

        Only this thread's calls are watched: in a process of two models the other one goes on.
        """
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        # The outer context: a capture that fails leaves its stream the current one.
        with CAPTURING, torch.cuda.stream(self._stream):
            step()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                result = step()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def forget(self) -> None:
        """Begin another pool: one whose graphs are all gone is refused."""
        self._pool = torch.cuda.graph_pool_handle()


def recorder_for(device: torch.device) -> Recorder | None:
    """What records there; on a CPU nothing is launched, so nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None


class RecordedPass(NamedTuple):
    """A step, and what it reads."""

    inputs: Tensor
    """On the device, where the recording found them."""
    replay: Step


@final
class RecordedPasses:
    """The recorded passes of one runner."""

    def __init__(self, recorder: Recorder, device: torch.device) -> None:
        self._recorder = recorder
        self._device = device
        self._recorded: dict[PassShape, RecordedPass] = {}  # the one used last comes last

    def take(self, shape: PassShape, inputs: Tensor, run: RunPass) -> Tensor:
        """One pass, recorded if there is none of its shape yet.

        Args:
            shape: one of a few, or there will be many recordings.
            inputs: numbers that `run` takes, in the memory of the host.
            run: the pass; apart from its inputs it depends on nothing that will change.
        Returns: what `run` does, until the next pass.
        Raises:
            RuntimeError: it cannot be recorded.
        """
        if self._device.type == "cuda":
            # What is pinned is used again only when the copy is over: no wait is needed.
            inputs = inputs.pin_memory()
        known = self._recorded.pop(shape, None)
        if known is None:
            known = self._record(shape, inputs, run)
        else:
            known.inputs.copy_(inputs, non_blocking=True)
        self._recorded[shape] = known
        return known.replay()

    def forget(self) -> None:
        """Forget what was recorded: the cache is not where it was."""
        self._recorded.clear()
        self._recorder.forget()

    def _record(self, shape: PassShape, inputs: Tensor, run: RunPass) -> RecordedPass:
        if len(self._recorded) >= MOST_RECORDED:
            del self._recorded[next(iter(self._recorded))]
        held = inputs.to(self._device, non_blocking=True, copy=True)
        return RecordedPass(held, self._recorder.record(lambda: run(shape, held)))


def _power(number: int) -> int:
    """The power of two that is not below a number."""
    return 1 << (number - 1).bit_length()
