"""`pearl bench`: the whole way on a tiny pair, and what is said of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import statistics
from pathlib import Path
from typing import Any, Final

import pytest

from pearl.__main__ import run
from pearl.actors.threads import available_cores
from pearl.analysis.benchmark import BenchmarkRun
from pearl.harness import engines
from pearl.harness.competitors import Family, candidates
from pearl.harness.contest import ContestResult, Tuned
from pearl.verbs import bench as verb
from tests.actors.pairs import SavedPair
from tests.pearl.contests import CONTEST, stage_of

SMALL: Final = (
    "--devices", "local", "--count", "2", "--gammas", "2", "--head-starts", "0,1",
    "--assistant-tokens", "3", "--rounds", "1", "--tuning-prompts", "1", "--max-new-tokens", "12",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WARMING_TOKENS", 4)


# -- a pair ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What a benchmark of everybody printed, wrote and drew."""

    printed: dict[str, Any]
    written: dict[str, Any]
    figure: str


@pytest.fixture(scope="module")
def everybody(text_pair: SavedPair, tmp_path_factory: pytest.TempPathFactory) -> Said:
    folder = tmp_path_factory.mktemp("bench")
    figure, output = folder / "speeds.svg", folder / "bench.json"
    files = ["--figure", str(figure), "--output", str(output)]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.setattr(engines, "WARMING_TOKENS", 4)
        assert run(["bench", *text_pair.options(), *SMALL, *files, "--json"]) == 0
    written = json.loads(output.read_text(encoding="utf-8"))
    return Said(json.loads(printed.getvalue()), written, figure.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_everybody_decodes_the_same_texts_and_is_compared(
    everybody: Said, text_pair: SavedPair
) -> None:
    found = everybody.printed

    assert [system["family"] for system in found["systems"]] == list(Family)
    assert [system["devices"] for system in found["systems"]] == [1, 2, 2, 2, 2, 1, 1]
    assert found["identical"] is True
    assert all(system["same_text"] for system in found["systems"])
    assert set(found["tuned"]) == {"PEARL", "HF assisted"}
    assert len(found["tuned"]["HF assisted"]["speed_over_ar"]) == 3
    assert found["models"]["target"] == text_pair.options()[1]
    assert found["machine"]["cores"] == len(available_cores())


@pytest.mark.slow
def test_what_is_written_is_what_is_printed_and_every_run_behind_it(everybody: Said) -> None:
    names = [system["name"] for system in everybody.printed["systems"]]
    runs = everybody.written["runs"]

    assert everybody.written == everybody.printed | {"runs": runs}
    assert sorted((each["system"], each["prompt"]) for each in runs) == sorted(
        (name, prompt) for name in names for prompt in range(2)
    )
    assert everybody.figure.startswith("<?xml")
    assert all(name.split(",")[0] in everybody.figure for name in names)


@pytest.mark.slow
def test_speeds_and_first_tokens_are_those_of_the_runs(everybody: Said) -> None:
    """Of two prompts the median is the mean; a ratio is of the same prompt."""

    def on_each_prompt(name: str) -> list[tuple[float, float]]:
        """Tokens a second, and seconds to the first of them."""
        own = [each for each in everybody.written["runs"] if each["system"] == name]
        return [
            (each["tokens"] / each["seconds"], each["time_to_first_token_s"])
            for each in sorted(own, key=lambda each: int(each["prompt"]))
        ]

    alone = on_each_prompt(everybody.printed["systems"][0]["name"])
    for system in everybody.printed["systems"]:
        own = on_each_prompt(system["name"])
        ratios = [mine / its for (mine, _), (its, _) in zip(own, alone, strict=True)]
        assert system["speed_over_ar"] == pytest.approx(statistics.mean(ratios))
        assert system["time_to_first_token_s"] == pytest.approx(
            statistics.mean(first for _, first in own)
        )


@pytest.mark.slow
def test_no_run_of_ours_is_faster_than_its_own_jobs_allow(everybody: Said) -> None:
    """Of the library nobody knows the jobs."""
    ours, theirs = everybody.printed["systems"][:5], everybody.printed["systems"][5:]

    assert all(0 < system["overlap_efficiency"] <= 1 for system in ours)
    for system in ours:
        said = system["theory"]["speed_over_ar"]
        assert system["theory"]["achieved"] == pytest.approx(system["speed_over_ar"] / said)
    assert all(system["overlap_efficiency"] is system["theory"] is None for system in theirs)


@pytest.mark.slow
def test_the_table_says_what_was_chosen_and_that_texts_are_the_same(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled = ["--temperature", "1", "--no-reference"]

    assert run(["bench", *text_pair.options(), *SMALL, *sampled]) == 0

    said = capsys.readouterr().out
    assert "PEARL 2, strict" in said
    assert "HF" not in said
    assert "Tuned on 1 of the prompts, finalists on all: PEARL 2" in said
    assert "Every text that must be AR's is AR's, token for token." in said


@pytest.mark.slow
def test_several_at_once_write_the_same_texts(
    text_pair: SavedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "crowds.json"
    asked = ["--in-flight", "3,1", "--output", str(output)]

    assert run(["bench", *text_pair.options(), *SMALL, *asked]) == 0

    assert "at once: speed over that of 1" in capsys.readouterr().out
    found = json.loads(output.read_text(encoding="utf-8"))
    assert [level["in_flight"] for level in found["in_flight"]] == [1] * 5 + [3] * 5
    names = [level["system"] for level in found["in_flight"]][:5]
    assert [name.split(",")[0] for name in names] == [
        "AR", "SD 2", "SD auto", "PEARL 2", "PEARL auto",
    ]  # fmt: skip
    assert all(level["growth"] == 1 for level in found["in_flight"][:5])
    assert found["identical"] is True


def test_devices_that_only_wait_need_no_models(capsys: pytest.CaptureFixture[str]) -> None:
    timed = ["--timed", "0.1,0.5", "--acceptance", "1"]

    assert run(["bench", *SMALL, *timed, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["models"] is None
    assert found["stand_in"]["kind"] == "timed"
    assert found["stand_in"]["devices"]["target"]["pass_s"] == pytest.approx(0.0005)
    assert [system["family"] for system in found["systems"]] == list(Family)[:5]
    # Automatic windows may rest for all of so short a text.
    assert {s["acceptance_rate"] for s in found["systems"][1:]} <= {1.0, None}


# -- a text that is not what it must be ------------------------------------------------------------


def test_another_text_is_told_in_one_line_and_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contest = dataclasses.replace(CONTEST, reference=False)
    chosen = {family: found[0] for family, found in candidates(contest).items()}
    stage = stage_of(contest)

    async def compete(*_: object) -> ContestResult:
        return ContestResult(
            systems=[stage.system(each) for each in chosen.values()],
            runs=[
                BenchmarkRun(
                    system=each.name,
                    prompt=0,
                    round=1,
                    tokens=(5, 6, 8 if each.family is Family.SD else 7),
                    arrivals=((0.5, 3),),
                )
                for each in chosen.values()
            ],
            traced={},
            tuned={family: Tuned(best=each, speeds={}) for family, each in chosen.items()},
            others=0.5,
        )

    monkeypatch.setattr(verb, "compete", compete)

    assert run(["bench", "--no-reference"]) == 1

    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("pearl: SD 2 differs from AR on prompt 1, round 1, at token 3; ")
    assert "NO" in said.out
    assert "The machine was not quiet" in said.out


# -- wrong input -----------------------------------------------------------------------------------

SHAPES: Final = "it must be one value, A,B,C or START:STOP:STEP, each"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gammas", "x"], f"gammas is x; {SHAPES} whole, from 1 to 256"),
        (["--gammas", "0,2"], f"gammas is 0; {SHAPES} whole, from 1 to 256"),
        (["--gammas", "auto"], f"gammas is auto; {SHAPES} whole"),
        (["--gammas", "500"], f"gammas is 500; {SHAPES} whole, from 1 to 256"),
        (["--head-starts", "-1"], f"head-starts is -1; {SHAPES} whole, from 0 to 256"),
        (["--assistant-tokens", ""], f"assistant-tokens is ; {SHAPES} whole, from 1"),
        (["--rounds", "0"], "0 is not in the range 1<=x<=1000"),
        (["--tuning-prompts", "0"], "0 is not in the range x>=1"),
        (["--count", "0"], "count is 0; it must be 1 or more"),
        (["--in-flight", "0"], f"in-flight is 0; {SHAPES} whole, from 1 to 4096"),
        (["--figure", "x.txt"], "x.txt cannot hold a figure; its name must end in .png or .svg"),
        (["--in-flight", "2", "--figure", "x.svg"], "figure and in-flight are both given"),
        (["--output", "none/x.json"], "none/x.json cannot be written"),
        (["--timed", "3"], "timed is '3'; it must be two numbers of ms with a comma between"),
        (["--acceptance", "0.5"], "acceptance is 0.5; it is for stand-ins"),
        (["--timed", "1,2", "--acceptance", "2"], "acceptance is 2.0; it must be from 0 to 1"),
        (["--timed", "1,2", "--draft", "x"], "the draft is x and has a stand-in; give one of them"),
        (["--timed", "1,2", "--stand-in", "timed:1,2"], "are both given; give one"),
        (["--stand-in", "slow:1,2"], "stand-in is 'slow'; it must be one of timed, untrained"),
        (["--stand-in", "untrained"], "untrained is ''; it must be two folders"),
        (["--temperature", "-1"], "temperature is -1.0; it must be 0 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_refused_before_anything_starts(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2

    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_comparison_needs_a_draft(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--target", text_pair.options()[1]]) == 2

    assert "a benchmark needs a draft beside the target; name one" in capsys.readouterr().err


def test_prompts_that_leave_no_room_are_refused(
    text_pair: SavedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ["--max-new-tokens", "4090", "--gammas", "2,8"]

    assert run(["bench", *text_pair.options(), *long]) == 2

    assert "the target leaves room for 6 (4096 positions less 4090 new" in capsys.readouterr().err
