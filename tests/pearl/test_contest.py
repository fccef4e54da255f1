"""Who competes, how the best of each family is chosen, and what is asked of crowds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pearl.actors.runners.reference import Assistance
from pearl.analysis.benchmark import BenchmarkRun
from pearl.decoding.messages import Role
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.harness.competitors import Competitor, Family, candidates
from pearl.harness.contest import Tuned, tune
from pearl.harness.crowd import asked_of, systems
from pearl.harness.stage import Stage
from tests.pearl.contests import CONTEST, stage_of


def test_every_family_has_all_its_candidates_and_no_name_twice() -> None:
    found = candidates(CONTEST)

    names = [each.name for competitors in found.values() for each in competitors]
    assert len(names) == len(set(names))
    assert {family: len(competitors) for family, competitors in found.items()} == {
        Family.AR: 1,
        Family.SD: 2,
        Family.STRICT: 2,
        Family.PEARL: 4,
        Family.AUTO: 1,
        Family.PLAIN: 1,
        Family.ASSISTED: 3,
    }
    assert found[Family.ASSISTED][0].way == Assistance()


def test_without_the_library_ours_compete_alone() -> None:
    assert list(candidates(dataclasses.replace(CONTEST, reference=False))) == list(Family)[:5]


class Scripted:
    """A stage where a system's speed is known beforehand."""

    def __init__(self, speeds: dict[str, float]) -> None:
        self.speeds = speeds
        self.order: list[tuple[str, str]] = []

    async def run(self, each: Competitor, prompt: str) -> BenchmarkRun:
        self.order.append((prompt, each.name))
        seconds = 1 / self.speeds.get(each.name, 1.0)
        return BenchmarkRun(
            system=each.name, prompt=0, round=0, tokens=(1,), arrivals=((seconds, 1),)
        )


async def test_of_each_family_the_best_goes_on_and_all_are_looked_at_equally_often() -> None:
    every = candidates(CONTEST)
    stage = Scripted({"SD 4": 2.0, "PEARL 2, head start 1": 3.0, "HF assisted 3": 1.5})

    tuned = await tune(cast("Stage", stage), every, ["a", "b"], 2)

    assert {family: found.best.name for family, found in tuned.items()} == {
        Family.AR: "AR",
        Family.SD: "SD 4",
        Family.STRICT: "PEARL 2, strict",  # the first of equals
        Family.PEARL: "PEARL 2, head start 1",
        Family.AUTO: "PEARL auto",
        Family.PLAIN: "HF generate",
        Family.ASSISTED: "HF assisted 3",
    }
    assert tuned[Family.SD].speeds == {"SD 2": pytest.approx(1.0), "SD 4": pytest.approx(2.0)}
    assert tuned[Family.AUTO].speeds == {}
    looks = Counter(name for _, name in stage.order)
    assert set(looks.values()) == {2}
    assert stage.order[0][1] != stage.order[len(looks)][1]  # each prompt begins with another


async def test_the_best_three_of_a_family_are_looked_at_once_more() -> None:
    """One look is often luck: here the one that began second best is the best on all prompts."""
    contest = dataclasses.replace(CONTEST, gammas=(2, 3, 4, 5), head_starts=(0,), reference=False)
    stage = Scripted({"SD 3": 3.0, "SD 4": 2.5, "SD 5": 2.0})
    late = {"SD 3": 1.0, "SD 4": 2.5}

    async def run(each: Competitor, prompt: str) -> BenchmarkRun:
        if prompt == "b":
            stage.speeds |= late
        return await Scripted.run(stage, each, prompt)

    tuned = await tune(cast("Stage", SimpleNamespace(run=run)), candidates(contest), ["a", "b"], 1)

    assert tuned[Family.SD].best.name == "SD 4"
    looks = Counter(name for _, name in stage.order)
    assert [looks[f"SD {gamma}"] for gamma in contest.gammas] == [1, 2, 2, 2]


async def test_where_there_is_no_choice_nothing_is_tried() -> None:
    contest = dataclasses.replace(CONTEST, gammas=(4,), head_starts=(0,), reference=False)
    stage = Scripted({})

    tuned = await tune(cast("Stage", stage), candidates(contest), ["a"], 1)

    assert stage.order == []
    assert tuned[Family.PEARL].best.name == "PEARL 4"


@pytest.mark.parametrize(
    ("places", "devices"),
    [
        ({"draft": "cpu", "target": "cpu"}, [1, 2, 1, 1]),
        ({"draft": "cuda:0", "target": "cuda:0"}, [1, 1, 1, 1]),
        ({"draft": "cuda:1", "target": "cuda:0"}, [1, 2, 1, 2]),
    ],
)
def test_devices_are_counted_where_something_computes(
    places: dict[str, str], devices: list[int]
) -> None:
    fitted = SimpleNamespace(places={Role(role): at for role, at in places.items()}, eos=())
    families = (Family.AR, Family.PEARL, Family.PLAIN, Family.ASSISTED)
    compared = [candidates(CONTEST)[family][0] for family in families]

    assert [stage_of(CONTEST, fitted).system(each).devices for each in compared] == devices


def test_texts_must_be_the_same_where_the_coins_are() -> None:
    """Greedy everybody's; coupled ours; by rejection, or sampled by the library, nobody's."""

    def same(**more: Any) -> list[bool]:
        settings = Settings(schedule="ar", **more)
        contest = dataclasses.replace(CONTEST, settings=settings)
        families = (Family.AR, Family.SD, Family.PLAIN)
        compared = [candidates(contest)[family][0] for family in families]
        return [stage_of(contest).system(each).same_text for each in compared]

    warm = Sampling(temperature=1.0)
    assert same() == [True, True, True]
    assert same(sampling=warm) == [True, True, False]
    assert same(sampling=warm, verifier="rejection") == [True, False, False]


def test_a_crowd_asks_for_every_prompt_and_for_some_of_each_user() -> None:
    assert asked_of(3, 1) == [0, 1, 2]
    assert asked_of(2, 2) == [0, 1, 0, 1, 0, 1]


def test_crowds_are_asked_of_the_best_and_of_automatic_windows() -> None:
    every = candidates(CONTEST)
    best = {Family.AR: 0, Family.SD: 1, Family.PEARL: 3}
    tuned = {family: Tuned(best=every[family][n], speeds={}) for family, n in best.items()}

    assert list(systems(tuned)) == [
        "AR", "SD 4", "SD auto", "PEARL 4, head start 1", "PEARL auto",
    ]  # fmt: skip
