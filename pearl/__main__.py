"""The `pearl` command: finds the verb, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 a device, the scheduler or the system failed; 2 what was asked for cannot be
done; 130, 143 and 129 ended by a signal (`pearl.signals`). Where the reader of the output has left,
the program ends in silence, with 1. A bug is one line as well, and a traceback where the variable
PEARL_TRACEBACK is set.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any, Final, final

import click

from pearl import signals
from pearl.decoding.errors import PearlError, UsageError
from pearl.showing import terminal

VERBS: Final = {
    "generate": "Generate text with a target, a draft and a schedule.",
    "demo": "Decode with the embedded pair by AR, SD and PEARL, side by side.",
    "bench": "Compare AR, SD, PEARL and Hugging Face on one pair, tuned alike, in one run.",
    "simulate": "Answer a what-if on virtual devices: speed, waiting, waste, with intervals.",
    "replay": "Run a recorded trace again on a virtual clock: does it come out the same?",
    "profile": "Measure a real pair: times, links, acceptance; the file that what-ifs read.",
    "predict": "Forecast a measured pair under settings that were not measured.",
    "sweep": "Answer a grid of what-ifs: a table, and a map of which schedule is the fastest.",
    "optimise": "Find the best schedule, gamma, head start and draft, and what else would cost.",
    "theory": "Say what the closed forms say of a pair: speed, waiting, waste, what is best.",
    "validate": "Hold theory and simulation against real runs: a table, a page, a verdict.",
    "doctor": "Print what a bug report needs, and whether a pair fits together.",
}


@final
class Verbs(click.Group):
    """One file a verb, imported when it is used: `pearl --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All verbs, in the order a newcomer needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb's own command."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"pearl.verbs.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; click would print an empty line about an interrupt."""
        try:
            return click.Group.invoke(self, ctx)
        except KeyboardInterrupt:
            raise click.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pearl-decoding")
def pearl() -> None:
    """PEARL: a draft writes ahead while the target judges, and the text is the target's own."""


def main() -> None:
    """Run the command line."""
    signals.guarded(lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    with signals.heeded():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        with terminal.spoken():
            code = pearl.main(arguments, prog_name="pearl", standalone_mode=False)
    except click.ClickException as error:
        return _complain(f"{error.format_message()}{_where_to_look(error)}", 2)
    except PearlError as error:
        return _complain(str(error), 2 if isinstance(error, UsageError) else 1)
    except ModuleNotFoundError as error:
        return _complain(f"{error.name} is missing; pip install 'pearl-decoding[run]'", 2)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", signals.exit_code())
    except Exception as error:
        if os.environ.get("PEARL_TRACEBACK") and not isinstance(error, BrokenPipeError):
            raise
        return _complain(terminal.words(error), 1)
    return code if isinstance(code, int) else 0


def _where_to_look(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" See {context.command_path} --help." if context is not None else ""


def _complain(message: str, code: int) -> int:
    """One line on standard error."""
    with contextlib.suppress(OSError):  # there is nowhere left to say so
        if message:
            click.echo(f"pearl: {terminal.one_line(message)}", err=True)
    return code


if __name__ == "__main__":
    main()
