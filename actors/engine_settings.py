"""What an engine is made of: which models, where they run, how long to wait.

May import: decoding, actors.pair, actors.scheduler (for its deadlines).
"""

from __future__ import annotations

import dataclasses
import enum
import os
from typing import Any

from pearl.actors import pair
from pearl.actors.deadlines import Patience, is_time
from pearl.decoding.messages import Role
from pearl.decoding.sampling import refuse_unless


class Devices(enum.StrEnum):
    """Where draft and target run."""

    RAY = "ray"
    LOCAL = "local"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is made of.

    Args:
        target, draft: folders or hub names; a target of None is the embedded pair, a draft of
            None beside a named target leaves only the autoregressive schedule.
        devices: `ray`, or `local` for threads of this process.
        dtype: `auto` (float32 on CPU, bfloat16 on GPU), `float32`, `bfloat16`, `float16`.
        quantize: `int8` rounds the matrices of both models to bytes when they are loaded, and what
            that gives are the models; on a CPU only. None leaves them.
        same_rounding: whether a token's logits are the same bits whatever stands beside it in a
            pass, so that every schedule gives the same text; None: where it costs next to nothing.
        gpus: how many to use, 0 to 2; with one, draft and target share it. None takes what
            this machine has.
        ray_address: of a running cluster; None starts a private one.
        placement_s: how long to wait for room in the cluster.
        startup_s: how long the models may take to load.
        patience: deadlines while it runs.
        trust_remote_code: whether the models may bring code of their own.
    """

    target: str | None = None
    draft: str | None = None
    devices: Devices = Devices.RAY
    dtype: str = "auto"
    quantize: str | None = None
    same_rounding: bool | None = None
    gpus: int | None = None
    ray_address: str | None = None
    placement_s: float = 30.0
    startup_s: float = 300.0
    patience: Patience = dataclasses.field(default_factory=Patience)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another kind; names may be paths, and devices a name."""
        for name in ("target", "draft", "ray_address"):
            self._take_name(name)
        known = ", ".join(Devices)
        refuse_unless(self, "devices", f"one of {known}", fine=self.devices in list(Devices))
        object.__setattr__(self, "devices", Devices(self.devices))
        refuse_unless(self, "dtype", "a name, such as float32", fine=isinstance(self.dtype, str))
        named: Any = self.quantize
        fine = named is None or isinstance(named, str)
        refuse_unless(self, "quantize", "a name, such as int8, or left out", fine=fine)
        same: Any = self.same_rounding
        fine = same is None or isinstance(same, bool)
        refuse_unless(self, "same_rounding", "True or False, or left out", fine=fine)
        refuse_unless(self, "gpus", "a whole number, or None", fine=is_whole(self.gpus, none=True))
        for name in ("placement_s", "startup_s"):
            refuse_unless(self, name, "seconds, more than 0", fine=is_time(getattr(self, name)))
        given: Any = self.patience
        refuse_unless(self, "patience", "a Patience", fine=isinstance(given, Patience))
        trust: Any = self.trust_remote_code
        refuse_unless(self, "trust_remote_code", "True or False", fine=isinstance(trust, bool))

    def _take_name(self, name: str) -> None:
        value = getattr(self, name)
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        fine = plain is None or (isinstance(plain, str) and "\0" not in plain)
        refuse_unless(self, name, "a name, or left out", fine=fine)
        # An empty address is refused where it is looked up.
        given = plain != "" or name == "ray_address"
        refuse_unless(self, name, "a name, not empty, or left out", fine=given)
        object.__setattr__(self, name, plain)

    def models(self) -> dict[Role, str]:
        """The models by role; the embedded pair where none is named."""
        if self.target is None and self.draft is None:
            return {Role.DRAFT: str(pair.DRAFT), Role.TARGET: str(pair.TARGET)}
        target = local_path(self.target or str(pair.TARGET))
        named = {} if self.draft is None else {Role.DRAFT: local_path(self.draft)}
        return named | {Role.TARGET: target}


def is_whole(value: object, *, none: bool = False) -> bool:
    """Whether it is a whole number; with `none`, or None."""
    return (none and value is None) or (isinstance(value, int) and not isinstance(value, bool))


def local_path(name: str) -> str:
    """What stands in a folder here is meant as it stands here, wherever its device runs."""
    path = os.path.expanduser(name)  # noqa: PTH111 - a name without a home stays as it is
    return os.path.abspath(path) if os.path.exists(path) else name  # noqa: PTH100, PTH110
