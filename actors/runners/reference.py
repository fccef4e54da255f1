"""Hugging Face `generate` on the same pair, plain and assisted: what an engine is compared with.

The library decodes as it always does: its own cache, its own attention, both models in turns.
Its settings are ours: the same tokens end a text, the same filters make the law. What a model's
folder says about sampling is left out, as our own schedules leave it out.

May import: torch, transformers, actors.runners.
Must never: decode by any code of this project.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from typing import Any, final

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from pearl.actors.runners.loading import load_model
from pearl.decoding.sampling import Sampling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSpec:
    """What to load, and where.

    Args:
        target, draft: folders or hub names.
        target_place, draft_place: torch's names of their devices.
        dtype: as `pearl.actors.runners.loading.load_model` takes it.
        threads: CPU threads of the process.
        cores: to stay on; empty for all.
        trust_remote_code: whether the models may bring code of their own.
    """

    target: str
    draft: str
    target_place: str = "cpu"
    draft_place: str = "cpu"
    dtype: str = "auto"
    threads: int = 1
    cores: tuple[int, ...] = ()
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assistance:
    """How the draft helps in assisted generation; None leaves what the draft's folder says.

    Args:
        tokens: it writes at most so many before the target looks (the library's default: 20).
        threshold: it stops at a token less likely than this (the library's default: 0.4).
    """

    tokens: int | None = None
    threshold: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest:
    """One text to write; `assistance` of None is the target alone."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    eos: tuple[int, ...] = ()
    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    seed: int = 0
    assistance: Assistance | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text, and when its tokens came: seconds since it was asked for, and how many then."""

    tokens: tuple[int, ...]
    arrivals: tuple[tuple[float, int], ...]


@final
class Reference:
    """A pair, loaded by the library, and its `generate`.

    Raises:
        UsageError: as `pearl.actors.runners.loading.load_model`.
    """

    def __init__(self, spec: ReferenceSpec) -> None:
        torch.set_num_threads(spec.threads)
        load = functools.partial(
            load_model, dtype=spec.dtype, trust_remote_code=spec.trust_remote_code
        )
        self._target = load(spec.target, device=spec.target_place)
        self._draft = load(spec.draft, device=spec.draft_place)
        self._own: Any = self._draft.generation_config

    def generate(self, asked: ReferenceRequest) -> Written:
        """Write one text."""
        settings = _settings(asked)
        self._target.generation_config = settings
        assisted = {}
        if asked.assistance is not None:
            self._draft.generation_config = self._assistant_settings(asked.assistance)
            assisted["assistant_model"] = self._draft
        torch.manual_seed(asked.seed)
        prompt = torch.tensor([asked.prompt], device=self._target.device)
        clock = _Clock()
        with torch.inference_mode():
            self._target.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=settings,
                streamer=clock,
                **assisted,
            )
        return Written(tokens=tuple(clock.tokens), arrivals=tuple(clock.arrivals))

    def _assistant_settings(self, assistance: Assistance) -> Any:
        """The library reads how to assist from the settings of the model that assists."""
        settings = copy.deepcopy(self._own)
        if assistance.tokens is not None:
            settings.num_assistant_tokens = assistance.tokens
            settings.num_assistant_tokens_schedule = "constant"
        if assistance.threshold is not None:
            settings.assistant_confidence_threshold = assistance.threshold
        return settings


def _settings(asked: ReferenceRequest) -> Any:
    """Our settings in the library's words, all of them said, for its defaults are not ours."""
    law: dict[str, Any] = {"do_sample": False}
    if asked.sampling.temperature > 0:
        sampling = asked.sampling
        law = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p or None,
        }
    return GenerationConfig(
        max_new_tokens=asked.max_new_tokens,
        eos_token_id=list(asked.eos) or None,
        pad_token_id=asked.eos[0] if asked.eos else 0,
        **law,
    )


@final
class _Clock(BaseStreamer):
    """Notes when tokens come; the first that comes is the prompt."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._prompt_has_come = False
        self.tokens: list[int] = []
        self.arrivals: list[tuple[float, int]] = []

    def put(self, value: Any) -> None:
        """Tokens of one pass."""
        at = time.perf_counter() - self._began
        if not self._prompt_has_come:
            self._prompt_has_come = True
            return
        come = value.flatten().tolist()
        self.tokens += come
        self.arrivals.append((at, len(come)))

    def end(self) -> None:
        """Nothing is left to do."""
