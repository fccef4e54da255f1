"""What a device is to be: plain data that travels to wherever the device runs.

May import: decoding; runners for types only.
Must never: load anything.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from pearl.decoding.messages import Device, Role

if TYPE_CHECKING:
    from pearl.actors.runners.interface import Runner
    from pearl.actors.runners.vocabulary import Vocabulary


class Loader(Protocol):
    """What makes a device's runner in place of loading a model; it is pickled and sent."""

    def load(self, spec: DeviceSpec, threads: int) -> Runner:
        """The runner of this device, made where it runs, for so many compute threads."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What a device is to load, and where.

    Args:
        role, number: draft or target, and which of them.
        model: a folder, or a hub name.
        place: torch's name of the device: `cpu`, `cuda:0`.
        shared: whether another device of its engine computes on the same processor.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        quantize: `int8` rounds its matrices to bytes; None leaves them.
        same_rounding: whether its logits are the same bits whatever stands beside a token; None:
            where it costs next to nothing.
        vocabulary: token ids below it are the pair's.
        translation: of a draft, where its tokens are not the target's; None where all are.
        gpu_share: how much of its GPU it takes, where it has one.
        trust_remote_code: whether the model may bring code of its own.
        stand_in: makes the runner instead of loading a model; None loads it.
    """

    role: Role
    number: int = 0
    model: str
    place: str = "cpu"
    shared: bool = False
    dtype: str = "auto"
    quantize: str | None = None
    same_rounding: bool | None = None
    vocabulary: int
    translation: Vocabulary | None = None
    gpu_share: float = 1.0
    trust_remote_code: bool = False
    stand_in: Loader | None = None

    @property
    def device(self) -> Device:
        """Which device it is to be."""
        return Device(self.role, self.number)
