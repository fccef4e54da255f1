"""A small contest, and a stage for it where nothing is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

from pearl.decoding.settings import Settings
from pearl.harness.competitors import Contest
from pearl.harness.stage import Stage

CONTEST: Final = Contest(
    settings=Settings(schedule="ar"),
    gammas=(2, 4),
    head_starts=(0, 1),
    assistant_tokens=(3,),
    rounds=1,
    tuning_prompts=2,
    reference=True,
)


def stage_of(contest: Contest, fitted: Any = None) -> Stage:
    nothing: Any = None
    return Stage(contest, fitted or SimpleNamespace(eos=()), nothing, None, {})
