"""Lossless, shown exactly: every coin outcome of small requests, for every schedule and verifier.

What is enumerated is the joint law of the whole text, so dependence between tokens counts too.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Final

import pytest

from pearl.decoding.coins import Purpose
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from tests.decoding.enumeration import (
    TOLERANCE,
    Arrival,
    BranchingCoins,
    Case,
    LossyError,
    check_law,
    check_output,
    check_path,
    kept_per_comparison,
    outcomes,
    require_same_law,
    target_law,
)
from tests.decoding.network import Move
from tests.decoding.requests import (
    AR,
    FEW,
    REQUESTS,
    SAMPLING_VERIFIERS,
    pearl,
    request,
    speculative,
)
from tests.decoding.toys import Pair, blend, only, similar, table

PLAIN: Final = Sampling(temperature=1.0)
WARPS: Final = {
    "cool": Sampling(temperature=0.7),
    "top-k": Sampling(temperature=1.3, top_k=2),
    "top-p": Sampling(temperature=1.0, top_p=0.75),
    "min-p": Sampling(temperature=1.0, min_p=0.4),
    "all": Sampling(temperature=0.8, top_k=2, top_p=0.9, min_p=0.1),
}
SHARP: Final = table(3, seed=5, sharpness=8.0)
FLAT: Final = table(3, seed=6, sharpness=0.0)
MODELS: Final = {
    "the same model twice": Pair(target=SHARP, draft=SHARP),
    "a sharp target and a flat draft": Pair(target=SHARP, draft=FLAT),
    "a flat target and a sharp draft": Pair(target=FLAT, draft=SHARP),
    "no token in common": Pair(target=only(FLAT, [0]), draft=only(SHARP, [1, 2])),
    "one token in common": Pair(target=only(FLAT, [0, 1]), draft=only(FLAT, [1, 2])),
}

schedules = pytest.mark.parametrize("schedule", REQUESTS.values(), ids=REQUESTS)
few_schedules = pytest.mark.parametrize("schedule", FEW.values(), ids=FEW)
arrivals = pytest.mark.parametrize("arrival", Arrival)
sampling_verifiers = pytest.mark.parametrize("verifier", SAMPLING_VERIFIERS)


@arrivals
@schedules
@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
@sampling_verifiers
def test_the_output_has_the_law_of_the_target(
    verifier: str, vocab: int, length: int, schedule: Settings, arrival: Arrival
) -> None:
    """The theorem of the project. At every length limit below, the last window is cut short."""
    settings = request(schedule, verifier, PLAIN, length)

    check_law(Case(settings=settings, pair=similar(vocab, seed=vocab), arrival=arrival))


@arrivals
@schedules
@pytest.mark.parametrize("vocab", [2, 3])
def test_coupled_output_is_that_of_the_target_alone_with_the_same_coins(
    vocab: int, schedule: Settings, arrival: Arrival
) -> None:
    """Stronger than the law: seeds mean something, whatever the draft, gamma and schedule."""
    settings = request(schedule, "coupled", PLAIN, 3)

    check_path(Case(settings=settings, pair=similar(vocab, seed=vocab), arrival=arrival))


@arrivals
@schedules
def test_greedy_output_is_that_of_the_target_alone(schedule: Settings, arrival: Arrival) -> None:
    """There is one outcome, so it can be long; many seeds stand for many texts."""
    settings = request(schedule, "greedy", Sampling(), 24)
    for seed in range(4):
        case = Case(settings=settings, pair=similar(3, seed), arrival=arrival)

        check_path(case)
        check_law(dataclasses.replace(case, settings=request(settings, None, Sampling(), 4)))


@schedules
@sampling_verifiers
def test_long_windows_are_judged_to_their_end(schedule: Settings, verifier: str) -> None:
    """Five tokens over two letters: three windows of gamma 1, and gamma 3 fits uncut."""
    settings = request(schedule, verifier, PLAIN, 5)

    check_law(Case(settings=settings, pair=similar(2, seed=9), arrival=Arrival.WINDOW_FIRST))


@schedules
@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS)
@sampling_verifiers
def test_the_law_is_the_warped_one(verifier: str, warp: Sampling, schedule: Settings) -> None:
    """Draft and target are warped alike before they are compared, so the filters are exact too."""
    case = Case(settings=request(schedule, verifier, warp, 3), pair=similar(3, seed=11))

    check_output(case)


@pytest.mark.parametrize("pair", MODELS.values(), ids=MODELS)
@sampling_verifiers
@few_schedules
def test_any_pair_of_models_will_do(schedule: Settings, verifier: str, pair: Pair) -> None:
    """A useless draft costs time, never the law; a perfect one leaves nothing to resample."""
    case = Case(settings=request(schedule, verifier, PLAIN, 3), pair=pair, arrival=Arrival.ECHO)

    check_law(case)


@arrivals
@schedules
@sampling_verifiers
def test_texts_that_end_early_keep_their_probabilities(
    verifier: str, schedule: Settings, arrival: Arrival
) -> None:
    """The law of texts of different lengths: an end inside a window is found there."""
    settings = request(schedule, verifier, PLAIN, 4)
    case = Case(settings=settings, pair=similar(2, seed=4), eos=frozenset({1}), arrival=arrival)

    check_output(case)


@few_schedules
@sampling_verifiers
@pytest.mark.parametrize("seed", range(6))
def test_a_hostile_network_does_not_bend_the_law(
    seed: int, verifier: str, schedule: Settings
) -> None:
    """Loss, delay, copies and deaths, fixed beforehand: the law is exact under each script.

    The script must not know the tokens: a network that drops the verdicts it dislikes could bend
    anything.
    """
    dice = random.Random(seed)
    script = [(dice.choice(list(Move)), dice.randrange(4)) for _ in range(25)]
    settings = request(schedule, verifier, PLAIN, 3)
    case = Case(settings=settings, pair=similar(2, seed=seed), script=script)

    check_output(case)


def test_a_draft_that_is_the_target_is_never_refused() -> None:
    """Both samplers keep everything when p equals q."""
    same = MODELS["the same model twice"]
    for verifier in SAMPLING_VERIFIERS:
        case = Case(settings=request(pearl(3, 2), verifier, PLAIN, 3), pair=same)

        assert kept_per_comparison(case) == pytest.approx(1, abs=TOLERANCE)


def test_rejection_keeps_one_minus_the_total_variation() -> None:
    """One comparison, SD with gamma 1 and two tokens to write: the textbook acceptance."""
    target, other = table(3, seed=1), table(3, seed=2)
    pair = Pair(target=target, draft=blend(target, other, 0.5))
    p, q = (PLAIN.laws(model(())[None, :])[0] for model in (pair.target, pair.draft))
    case = Case(settings=request(speculative(1), "rejection", PLAIN, 2), pair=pair)

    assert kept_per_comparison(case) == pytest.approx(1 - abs(p - q).sum() / 2, abs=TOLERANCE)


def test_branching_coins_answer_the_same_question_alike() -> None:
    """A coin asked twice is one number: the second answer adds no outcome and no probability."""

    def twice(coins: BranchingCoins) -> tuple[bool, bool, bool]:
        first = coins.accepts(0.3, 0, Purpose.ACCEPT)
        again = coins.accepts(0.3, 0, Purpose.ACCEPT)
        return first, again, coins.accepts(0.6, 0, Purpose.ACCEPT)

    law = {answer: probability for probability, answer in outcomes(twice)}

    assert law == pytest.approx(
        {(True, True, True): 0.3, (False, False, True): 0.3, (False, False, False): 0.4}
    )


def test_the_check_refuses_a_law_that_is_slightly_off() -> None:
    """The instrument is sharp: one part in 10^11 is seen."""
    case = Case(
        settings=request(AR, "coupled", PLAIN, 2),
        pair=similar(2, seed=1),
    )
    wanted = target_law(case)
    one, other, *_ = wanted
    bent = dict(wanted) | {one: wanted[one] + 1e-11, other: wanted[other] - 1e-11}

    with pytest.raises(LossyError, match="it must be"):
        require_same_law(bent, wanted)
