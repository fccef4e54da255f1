"""Whatever is typed by mistake is told in one line, at once, before a model is loaded.

The table is in `wrong_values`: every option of every verb, with every kind of wrong value.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import pearl.actors.checking
import pearl.actors.cluster
import pearl.actors.engine
from pearl.__main__ import run
from pearl.decoding.settings import Settings
from pearl.simulator import profiles
from pearl.simulator.forecast import SAME
from pearl.simulator.links import Network
from pearl.simulator.world import Pair
from tests.pearl import wrong_values
from tests.pearl.wrong_values import Case

CASES = wrong_values.cases()


class Reached(BaseException):
    """Models would be loaded now, so everything that was typed has been taken."""


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> NoReturn:
        raise Reached

    monkeypatch.setattr(pearl.actors.checking, "CheckedPair", reached)
    monkeypatch.setattr(pearl.actors.engine.Engine, "start_pair", reached)
    monkeypatch.setattr(pearl.actors.cluster, "spread", reached)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    monkeypatch.setenv("PEARL_TRACEBACK", "1")  # the net is not to catch what falls here


@pytest.fixture(scope="module")
def read_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every wrong kind, and a right trace and profile."""
    folder = tmp_path_factory.mktemp("in")
    wrong_values.lay(folder)
    trace = ["--trace", str(folder / "trace.json")]
    assert run(["simulate", "--tokens", "30", "--gamma", "3", "--replications", "1", *trace]) == 0
    luck = profiles.Luck(
        rate=0.75, by_position=(0.75,), correlation=0.0, correlation_within=0.0, texts=("1101",)
    )
    profile = profiles.Profile(
        machine={},
        models={"draft": "small", "target": "large"},
        settings=Settings(gamma=3),
        pair=Pair.of(5),
        network=Network(),
        levels=(SAME,),
        luck=luck,
        prompts=(3,),
        outputs=(20,),
    )
    profiles.write(folder / "profile.json", profile)
    return folder


@pytest.fixture
def folders(read_from: Path, tmp_path: Path) -> dict[str, Path]:
    wrong_values.lay_places(tmp_path)
    return {"IN": read_from, "OUT": tmp_path}


@pytest.mark.slow
@pytest.mark.timeout(60)  # nothing that is refused takes long; this ends what would never end
@pytest.mark.parametrize("option", list(CASES))
def test_a_wrong_value_is_told_in_one_line_or_is_right_after_all(
    option: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    complaints = [
        f"{case.kind}: {complaint}"
        for case in CASES[option]
        for complaint in _complaints(case, folders, capsys)
    ]

    assert not complaints, "\n".join(complaints)


def test_the_table_has_every_verb_and_many_values() -> None:
    assert sum(map(len, CASES.values())) > 800
    assert {option.split()[0] for option in CASES} == set(wrong_values.LINES)


def _complaints(
    case: Case, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> Iterator[str]:
    """What is wrong with the answer to one line."""
    try:
        code = run(case.typed(folders))
    except Reached:
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever a user would see as a traceback
        yield f"a traceback, {type(error).__name__}: {error}"
        return
    told = capsys.readouterr().err
    if code == 0:
        if case.never:
            yield "it was taken"
    elif code not in {1, 2}:
        yield f"exit code {code}"
    elif told.count("\n") != 1 or not told.startswith("pearl: "):
        yield f"not one line: {told!r}"
