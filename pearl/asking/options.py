"""Options that several verbs share, and what they mean together."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from typing import TYPE_CHECKING, Any

import click

from pearl.asking.values import NameIn
from pearl.decoding import files
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings, parse_gamma
from pearl.decoding.verification import VERIFIERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pearl.actors.engine_settings import EngineSettings

ENGINE = [
    click.option("--target", metavar="MODEL", help="Folder or hub name; default: embedded pair."),
    click.option("--draft", metavar="MODEL", help="Folder or hub name of the small model."),
    click.option("--devices", type=click.Choice(["ray", "local"]), default="ray",
                 show_default=True, help="Ray actors, or threads of this process."),
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                 default="auto", show_default=True, help="auto: float32 on CPU, bfloat16 on GPU."),
    click.option("--quantize", type=click.Choice(["int8"]),
                 help="Round the matrices to bytes when they are loaded; on a CPU only."),
    click.option("--same-rounding/--no-same-rounding", default=None,
                 help="Whether rounding may depend on what stands beside a token in a pass; "
                 "default: not where that costs next to nothing, as in bfloat16 on a CPU."),
    click.option("--gpus", type=int, metavar="N", help="GPUs to use, 0 to 2; default: as present."),
    click.option("--ray-address", metavar="ADDRESS", envvar="RAY_ADDRESS",
                 help="A running Ray cluster; default: a private one on this machine."),
    click.option("--trust-remote-code", is_flag=True, help="Let models bring code of their own."),
]  # fmt: skip

SAMPLING = [
    click.option("--verifier", type=NameIn(VERIFIERS),
                 help="Default: greedy at temperature 0, coupled above."),
    click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T",
                 help="0 takes the most likely token."),
    click.option("--top-k", type=int, default=0, show_default=True, metavar="K",
                 help="Keep the K most likely tokens; 0 keeps all."),
    click.option("--top-p", type=float, default=1.0, show_default=True, metavar="P",
                 help="Keep the fewest tokens with this probability together."),
    click.option("--min-p", type=float, default=0.0, show_default=True, metavar="P",
                 help="Keep tokens at least this likely relative to the most likely."),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="The same seed gives the same tokens."),
    click.option("--max-new-tokens", type=int, default=128, show_default=True, metavar="N"),
]  # fmt: skip

DECODING = [
    click.option("--schedule", type=NameIn(SCHEDULES),
                 default="pearl", show_default=True, help="Who works when."),
    click.option("--gamma", default="auto", show_default=True, metavar="N|auto",
                 help="Tokens in a draft window; auto follows what is measured."),
    click.option("--head-start", type=int, default=0, show_default=True, metavar="K",
                 help="PEARL: tokens the draft writes before the first pass after a rejection."),
    click.option("--strict", is_flag=True, help="PEARL exactly as in the paper: with a barrier."),
    *SAMPLING,
    click.option("--stop", multiple=True, metavar="TEXT",
                 help="End before this text, or at the special token of this name; can be given "
                 "more than once."),
]  # fmt: skip

PROMPTS = [
    click.option("--prompts", "prompts_file", metavar="FILE.jsonl",
                 help="Prompts, one JSON object a line; default: twelve of its own."),
    click.option("--field", metavar="NAME", help="Which of its fields; default: prompt, question, "
                 "turns (the first one) or text, whichever is there."),
    click.option("--count", type=int, default=12, show_default=True, help="How many of them."),
]  # fmt: skip


def takes(*groups: list[Callable[..., Any]]) -> Callable[..., Any]:
    """Decorate a command with groups of options, in order."""
    every = [option for group in groups for option in group]
    return lambda command: functools.reduce(lambda done, add: add(done), reversed(every), command)


def decoding_settings(given: dict[str, Any]) -> Settings:
    """The request that the options describe.

    Raises:
        SettingError: one of them is outside its range.
    """
    return Settings(
        schedule=given["schedule"],
        gamma=parse_gamma(given["gamma"]),
        head_start=given["head_start"],
        strict=given["strict"],
        verifier=given["verifier"],
        sampling=Sampling(**{k: given[k] for k in ("temperature", "top_k", "top_p", "min_p")}),
        seed=given["seed"],
        max_new_tokens=given["max_new_tokens"],
        stop=tuple(map(_stop, given["stop"])),
    )


def _stop(typed: str) -> str:
    """A text at which to end.

    Raises:
        SettingError: it is none, so no text ever has it.
    """
    text = as_typed(typed)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingError(f"stop is {typed!r}; it must be text in UTF-8") from None
    return text


def as_typed(text: str) -> str:
    """In UTF-8, also where the locale says that there is nothing but ASCII."""
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode()
    return text  # it is refused where it is encoded


def engine_settings(given: dict[str, Any]) -> EngineSettings:
    """The engine that the options describe."""
    from pearl.actors.engine_settings import Devices, EngineSettings

    names = (
        "target", "draft", "dtype", "quantize", "same_rounding", "gpus", "ray_address",
        "trust_remote_code",
    )  # fmt: skip
    return EngineSettings(
        devices=Devices(given["devices"]), **{name: given[name] for name in names}
    )


def check_writable(file: str) -> pathlib.Path:
    """The path, when a file can be written there; to know it before a long run, not after.

    Raises:
        SettingError: it cannot.
    """
    path = pathlib.Path(file)
    files.check_writable(path)
    return path


def figure_path(file: str) -> pathlib.Path:
    """The same of a figure.

    Raises:
        SettingError: its name is not that of a .png or an .svg, or it cannot be written.
    """
    from pearl.analysis.figures import check_figure_path

    check_figure_path(file)
    return check_writable(file)
