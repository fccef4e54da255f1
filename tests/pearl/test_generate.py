"""`pearl generate` from end to end, with devices in this process and as a command of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import pytest
from transformers import AutoTokenizer

from pearl.__main__ import run
from pearl.actors.hosts import Host
from pearl.decoding import trace
from pearl.decoding.stopping import TextStream
from tests.actors.pairs import SavedPair
from tests.pearl.conftest import without_stages

PROMPT: Final = "def f(x):\n"
LOCAL: Final = ["--devices", "local", "--gpus", "0"]
KEYS: Final = {
    "schedule", "verifier", "gamma", "tokens", "target_passes", "draft_steps", "drafted", "kept",
    "rejections", "seconds", "tokens_per_s", "time_to_first_token_s", "acceptance_rate",
    "tokens_per_target_pass", "draft_idle", "target_idle", "wasted", "control_us_per_round",
}  # fmt: skip
"""What `metrics` has at least."""
DEADLINE_S: Final = 100


def _arguments(pair: SavedPair, *more: str, devices: Sequence[str] = LOCAL) -> list[str]:
    return ["generate", *pair.options(), *devices, "--max-new-tokens", "24", *more]


def _json(pair: SavedPair, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert run(_arguments(pair, "--json", *more)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = msgspec.json.decode(printed.out)
    return found


def test_json_is_one_object_with_every_key(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(text_pair, capsys, PROMPT, "--gamma", "3")

    assert set(found) == {"text", "token_ids", "finish_reason", "prompt_tokens", "metrics"}
    assert set(found["metrics"]) >= KEYS
    assert found["finish_reason"] == "length"
    assert len(found["token_ids"]) == found["metrics"]["tokens"] == 24
    assert found["metrics"]["gamma"] == 3
    assert found["prompt_tokens"] > 1


def test_the_prompt_may_be_an_argument_a_file_or_standard_input(
    text_pair: SavedPair,
    prompt_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))

    ways = [
        _json(text_pair, capsys, PROMPT),
        _json(text_pair, capsys, "--prompt-file", str(prompt_file)),
        _json(text_pair, capsys),
    ]

    assert ways[0]["token_ids"] == ways[1]["token_ids"] == ways[2]["token_ids"]


def test_a_prompt_of_token_ids_is_taken_as_it_is(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = AutoTokenizer.from_pretrained(text_pair.target)(PROMPT)["input_ids"]

    found = _json(text_pair, capsys, "--prompt-ids", ", ".join(map(str, ids)))

    assert found["prompt_tokens"] == len(ids)
    assert found["token_ids"] == _json(text_pair, capsys, PROMPT)["token_ids"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompt-ids", "1,2", PROMPT], "--prompt-ids and another prompt are both given"),
        (["--prompt-ids", "1,2", "--prompt-file", "x"], "are both given; give one"),
        (["--prompt-ids", ""], "'' in --prompt-ids is no token id; give whole numbers as in 1,2,3"),
        (["--prompt-ids", "1,,2"], "'' in --prompt-ids is no token id"),
        (["--prompt-ids", "1,-2"], "'-2' in --prompt-ids is no token id"),
        (["--prompt-ids", "1;2"], "'1;2' in --prompt-ids is no token id"),
        (["--prompt-ids", "9" * 5000], "in --prompt-ids is no token id"),
        (["--prompt-ids", "1,999999999"], "token 1 of the prompt is 999999999; it must be"),
        (["--stop", "x<|endoftext|>", PROMPT], "the special token '<|endoftext|>' in it is hidden"),
    ],
)
def test_a_prompt_or_an_end_that_cannot_be_is_one_line(
    more: list[str], words: str, text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_arguments(text_pair, *more)) == 2

    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("temperature", ["0", "0.7"])
def test_every_schedule_prints_the_same_tokens(
    temperature: str, text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        _json(text_pair, capsys, PROMPT, "--temperature", temperature, "--schedule", *schedule)
        for schedule in (
            ["ar"],
            ["sd", "--gamma", "2"],
            ["pearl", "--gamma", "4"],
            ["pearl", "--gamma", "3", "--head-start", "1", "--strict"],
        )
    ]

    assert all(one["token_ids"] == found[0]["token_ids"] for one in found)


def test_text_goes_to_standard_output_and_figures_to_standard_error(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a pipe gets the text alone."""
    expected = _json(text_pair, capsys, PROMPT)["text"]

    assert run(_arguments(text_pair, PROMPT)) == 0

    printed = capsys.readouterr()
    assert printed.out == expected
    assert "24 tokens" in printed.err


def test_stop_strings_end_the_text(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _json(text_pair, capsys, PROMPT)["text"]
    stop = whole[6:8]

    found = _json(text_pair, capsys, PROMPT, "--stop", "not in there", "--stop", stop)

    assert found["finish_reason"] == "stop"
    assert found["text"] == whole[: whole.index(stop)]


def test_a_trace_is_written_where_it_is_asked_for(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    _json(text_pair, capsys, PROMPT, "--trace", str(path))

    header, records, whole = trace.read(path)

    assert whole
    assert records
    assert header.about["settings"]["max_new_tokens"] == 24
    assert header.about["eos"] == []
    assert header.about["finish_reason"] == "length"


@pytest.mark.parametrize("verb", ["generate", "demo", "doctor"])
def test_every_verb_explains_itself_without_torch_or_ray(verb: str) -> None:
    """Help is instant."""
    code = (
        "import sys; from pearl.__main__ import run; "
        f"code = run([{verb!r}, '--help']); "
        "sys.exit(code or any(heavy in sys.modules for heavy in ('torch', 'ray')))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: pearl {verb}")


# -- as a command of its own -----------------------------------------------------------------------


def _command(pair: SavedPair, *more: str, devices: Sequence[str] = LOCAL) -> list[str]:
    """A run of several seconds."""
    long = ["--schedule", "ar", "--temperature", "1", "--max-new-tokens", "4000"]
    arguments = _arguments(pair, *long, *more, PROMPT, devices=devices)
    return [sys.executable, "-m", "pearl", *arguments]


def _started(command: list[str]) -> subprocess.Popen[str]:
    """In a session of its own, as a terminal starts it: Ctrl-C reaches all of its processes."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices", [LOCAL, pytest.param(["--gpus", "0"], marks=pytest.mark.ray)], ids=["local", "ray"]
)
def test_ctrl_c_ends_a_run_with_what_was_committed(
    devices: list[str], text_pair: SavedPair
) -> None:
    with _started(_command(text_pair, devices=devices)) as process:
        assert process.stdout is not None
        begun = process.stdout.read(20)
        family = _family(process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    assert len(begun) == 20
    assert without_stages(err).strip().count("\n") == 0
    assert "interrupted" in err
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_json_object(
    text_pair: SavedPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its `finish_reason` is null: nothing of the text itself ended it."""
    push = TextStream.push

    def push_and_press(stream: TextStream, tokens: Sequence[int]) -> str:
        signal.raise_signal(signal.SIGINT)
        return push(stream, tokens)

    monkeypatch.setattr(TextStream, "push", push_and_press)

    code = run(_arguments(text_pair, "--json", "--max-new-tokens", "4000", "--gamma", "2", PROMPT))

    printed = capsys.readouterr()
    found = msgspec.json.decode(printed.out)
    assert code == 130
    assert printed.err == ""
    assert found["finish_reason"] is None
    assert 0 < len(found["token_ids"]) == found["metrics"]["tokens"] < 4000


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_run_in_silence(text_pair: SavedPair) -> None:
    """As in `pearl generate ... | head`."""
    with _started(_command(text_pair)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read()
        code = process.wait(timeout=DEADLINE_S)

    assert code == 1
    assert without_stages(err) == ""


def test_a_device_that_fails_is_one_line_and_exit_code_1(
    text_pair: SavedPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the user's fault, and no traceback either."""

    def broken(*_: object, **__: object) -> None:
        message = "no memory left"
        raise RuntimeError(message)

    monkeypatch.setattr(Host, "turn", broken)

    code = run(_arguments(text_pair, PROMPT))

    printed = capsys.readouterr()
    assert code == 1
    assert printed.out == ""
    assert printed.err.startswith("pearl: the target died 3 times while it ran")
    assert printed.err.endswith("the target failed with RuntimeError: no memory left\n")
    assert printed.err.count("\n") == 1
