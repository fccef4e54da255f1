"""`pearl generate`: one prompt in, text out as it is committed."""

from __future__ import annotations

import asyncio
import pathlib
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pearl import signals
from pearl.asking import options
from pearl.asking.values import or_refuse
from pearl.decoding import files
from pearl.decoding.errors import PromptError
from pearl.harness.engines import checked, started
from pearl.harness.records import write_trace
from pearl.showing import terminal

if TYPE_CHECKING:
    from pearl.actors.engine import Result
    from pearl.actors.engine_settings import EngineSettings
    from pearl.actors.text import Prompt
    from pearl.decoding.messages import TokenId
    from pearl.decoding.settings import Settings

LONGEST_NUMBER: Final = 18  # digits


@click.command(name="generate")
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE",
              help="Read the prompt from a file; without either, from standard input.")  # fmt: skip
@click.option("--prompt-ids", metavar="N,N,...",
              help="The prompt as token ids, which are taken as they are.")  # fmt: skip
@options.takes(options.DECODING, options.ENGINE)
@click.option("--trace", "trace_file", metavar="FILE",
              help="Write the run as a Chrome trace.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    prompt: str | None,
    prompt_file: str | None,
    prompt_ids: str | None,
    trace_file: str | None,
    *,
    as_json: bool,
    **given: Any,
) -> int:
    """Generate text. PROMPT is continued as it stands."""
    settings = options.decoding_settings(given)
    engine = options.engine_settings(given)
    asked = _read_prompt(prompt, prompt_file, prompt_ids)
    path = None if trace_file is None else options.check_writable(trace_file)
    result = signals.run(_generate(asked, settings, engine, as_json=as_json, trace_file=path))
    return 0 if result.finish_reason is not None else signals.exit_code()


def _read_prompt(prompt: str | None, prompt_file: str | None, prompt_ids: str | None) -> Prompt:
    if prompt_ids is not None:
        return _read_ids(prompt_ids, alone=prompt is None and prompt_file is None)
    if prompt is not None and prompt_file is not None:
        raise PromptError(f"a prompt and --prompt-file {prompt_file} are both given; give one")
    if prompt is None and prompt_file is None and (sys.stdin is None or sys.stdin.isatty()):
        message = "no prompt; give it as an argument, with --prompt-file, or on standard input"
        raise PromptError(message)
    text = options.as_typed(prompt) if prompt is not None else _read(prompt_file)
    if not text:
        raise PromptError("the prompt is empty; give at least one character")
    return text


def _read_ids(prompt_ids: str, *, alone: bool) -> list[TokenId]:
    """Token ids as typed; whether the target has them is seen when it is known."""
    if not alone:
        raise PromptError("--prompt-ids and another prompt are both given; give one")
    ids = [number.strip() for number in prompt_ids.split(",")]
    wrong = next((n for n in ids if not n.isdecimal() or len(n) > LONGEST_NUMBER), None)
    if wrong is not None:
        message = f"{wrong[:40]!r} in --prompt-ids is no token id; give whole numbers as in 1,2,3"
        raise PromptError(message)
    return [int(number) for number in ids]


def _read(prompt_file: str | None) -> str:
    with or_refuse(
        PromptError, f"the prompt cannot be read from {prompt_file or 'standard input'}"
    ):
        if prompt_file is None:
            return sys.stdin.read(files.MOST_BYTES)
        return files.text(files.read(pathlib.Path(prompt_file)))


async def _generate(
    prompt: Prompt,
    settings: Settings,
    engine_settings: EngineSettings,
    *,
    as_json: bool,
    trace_file: pathlib.Path | None,
) -> Result:
    fitted = await asyncio.to_thread(checked, engine_settings)
    # What cannot be done is refused before anything is started.
    tokens = fitted.encode(prompt, settings)
    async with started(fitted) as engine:
        generation = engine.generate(tokens, settings, trace=trace_file is not None)
        with signals.keeping(generation.abort):
            async for piece in generation:
                if not as_json:
                    click.echo(piece.text, nl=False)
        result = generation.result
        # Before the engine ends: who pressed Ctrl-C has all of it at once.
        summary = lambda: click.echo(_summary(result), err=True)  # noqa: E731 - once, below
        with terminal.said(_answer(result) if as_json else None, summary):
            if trace_file is not None:
                write_trace(trace_file, result, settings, fitted.eos)
    return result


def _answer(result: Result) -> dict[str, Any]:
    """For programs."""
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "metrics": result.metrics,
    }


def _summary(result: Result) -> str:
    """On a line of its own where it comes onto the same screen as the text."""
    m = result.metrics
    parts = [
        f"{m.schedule} (gamma {m.gamma}, {m.verifier})" if m.gamma else m.schedule,
        f"{m.tokens} tokens",
        f"{m.tokens_per_s:.0f} tokens/s",
        f"{m.tokens_per_target_pass:.2f} per target pass",
    ]
    if m.acceptance_rate is not None:
        parts.append(f"{m.acceptance_rate:.0%} accepted")
    if m.draft_losses:
        parts.append(f"draft lost {m.draft_losses} times, {m.tokens_without_draft} tokens without")
    if m.target_losses:
        parts.append(f"target lost {m.target_losses} times")
    said = " · ".join([*parts, result.finish_reason or "interrupted"])
    return f"\n{said}" if sys.stdout.isatty() else said
