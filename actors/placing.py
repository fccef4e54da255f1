"""Which GPU or CPU each device of a pair gets, and so what each is to be.

May import: decoding, actors.engine_settings, actors.specs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pearl.actors.engine_settings import Devices
from pearl.actors.specs import DeviceSpec
from pearl.decoding.errors import PlacementError
from pearl.decoding.messages import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pearl.actors.engine_settings import EngineSettings


def places(roles: tuple[Role, ...], gpus: int | None, present: int) -> dict[Role, str]:
    """Torch's device for each role: the target gets a GPU first, a second one goes to the draft.

    Raises:
        PlacementError: more GPUs are asked for than there are, or than a pair can use.
    """
    gpus = min(present, len(Role)) if gpus is None else gpus
    if gpus < 0 or gpus > len(Role):
        message = f"gpus is {gpus}; a pair uses 0, 1 (shared) or {len(Role)}"
        raise PlacementError(message)
    if gpus > present:
        message = f"{gpus} GPUs asked for, {present} present; use --gpus {present}"
        raise PlacementError(message)
    if gpus == 0:
        return dict.fromkeys(roles, "cpu")
    return {role: "cuda:1" if role is Role.DRAFT and gpus > 1 else "cuda:0" for role in roles}


def device_specs(
    settings: EngineSettings, models: Mapping[Role, str], at: Mapping[Role, str], tokens: int
) -> tuple[DeviceSpec, ...]:
    """Each model on its device; `tokens` is the size of the vocabulary they share."""
    alone = len(set(at.values())) == len(at)
    # Ray shows each actor only its own GPU, which is then the first.
    on_ray = settings.devices is Devices.RAY
    return tuple(
        DeviceSpec(
            role=role,
            model=model,
            place="cuda:0" if on_ray and at[role].startswith("cuda") else at[role],
            shared=[*at.values()].count("cpu") > 1,
            dtype=settings.dtype,
            quantize=settings.quantize,
            same_rounding=settings.same_rounding,
            vocabulary=tokens,
            gpu_share=1.0 if alone else 1 / len(Role),
            trust_remote_code=settings.trust_remote_code,
        )
        for role, model in models.items()
    )
