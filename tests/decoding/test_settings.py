"""Settings: what is refused, in which words, and what is made of the rest."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.measured import WIDEST
from pearl.decoding.messages import Judge
from pearl.decoding.policies import AutoPolicy
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings, parse_gamma
from pearl.decoding.stopping import StopRules
from tests.decoding.policies import AUTOREGRESSIVE, pearl, speculative

WARM: Final = Sampling(temperature=1.0)
STOP: Final = "several texts of at least one character, such as ('END',)"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("gamma", 0, "a whole number from 1 to 256, or auto"),
        ("gamma", -3, "a whole number from 1 to 256, or auto"),
        ("gamma", 257, "a whole number from 1 to 256, or auto"),
        ("head_start", -1, "a whole number from 0 to 256"),
        ("head_start", 257, "a whole number from 0 to 256"),
        ("gamma", 4.0, "a whole number from 1 to 256, or auto"),
        ("gamma", True, "a whole number from 1 to 256, or auto"),
        ("gamma", "four", "a whole number from 1 to 256, or auto"),
        ("head_start", None, "a whole number from 0 to 256"),
        ("max_new_tokens", 0, "a whole number, 1 or more"),
        ("max_new_tokens", 8.0, "a whole number, 1 or more"),
        ("max_new_tokens", 10**30, "a whole number, 1 or more"),
        ("seed", 1.5, "a whole number of 64 bits"),
        ("seed", 2**63, "a whole number of 64 bits"),
        ("strict", 1, "True or False"),
        ("sampling", 0.7, "a Sampling"),
        ("schedule", ["pearl"], "one of ar, sd, pearl"),
        ("verifier", "exact", "one of greedy, coupled, rejection"),
        ("stop", ("end", ""), STOP),
        ("stop", ("end", 5), STOP),
        ("stop", "end", STOP),
    ],
)
def test_a_refusal_names_the_setting_its_value_and_what_is_allowed(
    name: str, value: object, allowed: str
) -> None:
    asked: dict[str, Any] = {name: value}

    with pytest.raises(SettingError) as refusal:
        Settings(**asked)
    assert str(refusal.value) == f"{name.replace('_', '-')} is {value}; it must be {allowed}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", 10**400),
        ("top_k", 3.0),
        ("top_k", -1),
        ("top_p", None),
        ("top_p", float("nan")),
        ("min_p", 1j),
    ],
)
def test_a_law_is_made_of_numbers_only(name: str, value: object) -> None:
    asked: dict[str, Any] = {name: value}

    with pytest.raises(SettingError, match=f"^{name.replace('_', '-')} is "):
        Sampling(**asked)


def test_numbers_of_other_libraries_are_numbers() -> None:
    """And become plain ones, which a wire can carry."""
    law: dict[str, Any] = {"temperature": np.float32(0.5), "top_k": np.int64(3)}
    given: dict[str, Any] = {
        "gamma": np.int32(3),
        "seed": np.uint8(7),
        "max_new_tokens": np.int64(9),
    }
    asked = Settings(**given, sampling=Sampling(**law))

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Settings) == Settings(
        gamma=3, seed=7, max_new_tokens=9, sampling=Sampling(temperature=0.5, top_k=3)
    )


def test_greedy_sampling_is_a_contradiction() -> None:
    """The greedy verifier with a temperature would silently return something else."""
    with pytest.raises(SettingError, match=r"temperature is 1.0; it must be 0 with the greedy"):
        Settings(verifier="greedy", sampling=WARM)


@pytest.mark.parametrize("schedule", ["ar", "sd"])
@pytest.mark.parametrize(("name", "value"), [("head_start", 2), ("strict", True)])
def test_what_belongs_to_pearl_is_refused_elsewhere(
    schedule: str, name: str, value: object
) -> None:
    asked: dict[str, Any] = {name: value}

    with pytest.raises(SettingError, match=f"{name.replace('_', '-')} is {value}; .* PEARL only"):
        Settings(schedule=schedule, **asked)


@pytest.mark.parametrize("text", ["four", "", "2.5"])
def test_a_gamma_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="it must be a whole number from 1 to 256, or auto"):
        parse_gamma(text)


def test_a_gamma_is_typed_as_a_number_or_auto() -> None:
    assert parse_gamma("auto") == "auto"
    assert parse_gamma("5") == 5


@pytest.mark.parametrize(
    ("verifier", "sampling", "effective"),
    [
        (None, Sampling(), "greedy"),
        (None, WARM, "coupled"),
        ("coupled", Sampling(), "greedy"),
        ("rejection", Sampling(), "greedy"),
        ("rejection", WARM, "rejection"),
    ],
)
def test_at_temperature_zero_every_verifier_is_the_greedy_one(
    verifier: str | None, sampling: Sampling, effective: str
) -> None:
    assert Settings(verifier=verifier, sampling=sampling).effective_verifier == effective


def test_a_schedule_is_a_policy_of_two_numbers() -> None:
    """And `auto` is a policy of its own for each request, for it learns."""
    assert Settings(schedule="ar").policy() == AUTOREGRESSIVE
    assert Settings(schedule="sd", gamma=3).policy() == speculative(3)
    assert Settings(gamma=3, head_start=2).policy() == pearl(3, 2)
    assert isinstance(Settings(gamma="auto").policy(), AutoPolicy)


def test_the_widest_job_is_known_beforehand() -> None:
    """Devices size their buffers by it."""
    assert Settings(schedule="ar").widest == 0
    assert Settings(schedule="sd", gamma=3).widest == 3
    assert Settings(gamma=3, head_start=5).widest == 5
    assert Settings(gamma="auto").widest == WIDEST


@pytest.mark.parametrize(("verifier", "holds"), [("coupled", False), ("rejection", True)])
def test_only_rejection_holds_rows(verifier: str, *, holds: bool) -> None:
    """Where tokens are compared, the target's choice does not depend on the draft."""
    asked = Settings(gamma=2, verifier=verifier, sampling=WARM)
    job = asked.start(StopRules(limit=9)).commands()[0]

    assert isinstance(job, Judge)
    assert job.hold is holds


def test_settings_cross_the_wire_as_they_are() -> None:
    asked = Settings(gamma=7, sampling=Sampling(temperature=0.6, top_p=0.9), stop=("\n\n",))

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Settings) == asked


def test_a_wire_cannot_bring_what_an_edge_refuses() -> None:
    """Decoding runs the same checks, and refuses in the same words."""
    with pytest.raises(SettingError, match="gamma is 0"):
        msgspec.json.decode(b'{"gamma": 0}', type=Settings)
