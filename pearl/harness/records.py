"""What a run leaves behind: its trace in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pathlib

    from actors.engine import Result
    from decoding.messages import TokenId
    from decoding.settings import Settings


def write_trace(
    path: pathlib.Path, result: Result, settings: Settings, eos: tuple[TokenId, ...]
) -> None:
    """A request of an engine, with all that is needed to replay or measure it."""
    import msgspec

    from decoding import trace

    about = trace.About(
        settings=settings,
        eos=eos,
        finish_reason=result.finish_reason,
        prompts=(result.prompt_tokens,),
    )
    trace.write(path, result.trace, **msgspec.to_builtins(about))
