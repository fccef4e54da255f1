"""Stand-ins for a pair: the script, and engines that write it; passes take no time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import msgspec
import pytest
import pytest_asyncio
from transformers import LlamaConfig, MambaConfig, T5Config

from pearl.__main__ import run
from pearl.actors import stand_ins
from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.runners.interface import Runner
from pearl.actors.runners.stand_in import TimedRunner
from pearl.actors.scripts import POSITIONS, PROMPT_TOKENS, Script
from pearl.actors.specs import DeviceSpec
from pearl.actors.stand_ins import (
    LONGEST_PASS_S,
    StandIn,
    StandInPair,
    Timed,
    Untrained,
    parse_stand_ins,
)
from pearl.decoding.errors import PeerError, PlacementError, PromptError, SettingError
from pearl.decoding.messages import DEVICES, Role
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from tests.actors.requests import AR, TOKENS, VARIANTS, all_at_once, sampled
from tests.decoding.certainty import Z

SCRIPT: Final = Script(acceptance=0.7, seed=3)
EVERY: Final = {"AR": AR, **VARIANTS}
SHAPE: Final[dict[str, Any]] = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


SETTINGS: Final = EngineSettings(devices=Devices.LOCAL, gpus=0)
AT_ONCE: Final = Timed(0.0)


def _devices(draft: StandIn = AT_ONCE, target: StandIn = AT_ONCE) -> dict[Role, StandIn]:
    return {Role.DRAFT: draft, Role.TARGET: target}


def _pair(script: Script = SCRIPT, **more: Any) -> StandInPair:
    return StandInPair(settings=SETTINGS, devices=_devices(), script=script, **more)


def _shaped(target: Path, draft: StandIn = AT_ONCE, **more: Any) -> StandInPair:
    devices = _devices(draft, Untrained(str(target)))
    return StandInPair(settings=SETTINGS, devices=devices, script=SCRIPT, **more)


async def _start(pair: StandInPair) -> Engine:
    return await Engine.start_pair(pair)


def _written(script: Script, text: str, count: int = TOKENS) -> tuple[int, ...]:
    prompt = script.prompt(text)
    return tuple(script.token(prompt, PROMPT_TOKENS + place) for place in range(count))


# -- the script ------------------------------------------------------------------------------------


def _agreed(script: Script, count: int) -> float:
    prompts = [script.prompt(str(number)) for number in range(count // 100)]
    places = range(PROMPT_TOKENS, PROMPT_TOKENS + 100)
    same = [script.guess(p, at) == script.token(p, at) for p in prompts for at in places]
    return sum(same) / len(same)


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
def test_a_draft_that_is_never_or_always_right_is(acceptance: float) -> None:
    assert _agreed(Script(acceptance=acceptance), 2000) == acceptance


@pytest.mark.parametrize("acceptance", [0.05, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_draft_is_right_as_often_as_was_asked_for(acceptance: float, seed: int) -> None:
    """A right program would be refused with the chance that `tests.decoding.certainty` states."""
    count = 20_000

    rate = _agreed(Script(acceptance=acceptance, seed=seed), count)

    assert abs(rate - acceptance) < Z * math.sqrt(acceptance * (1 - acceptance) / count)


def test_luck_at_a_position_says_nothing_of_the_next() -> None:
    """Each position for itself, as the theory has it: a pair is right as often as chance says."""
    script, count = Script(acceptance=0.5), 20_000
    prompt = script.prompt("a long text")
    places = range(PROMPT_TOKENS, PROMPT_TOKENS + count + 1)
    right = [script.guess(prompt, at) == script.token(prompt, at) for at in places]

    same = sum(one == other for one, other in itertools.pairwise(right)) / count

    assert abs(same - 0.5) < Z * math.sqrt(0.25 / count)


def test_every_token_but_the_end_is_written() -> None:
    """0 ends a text."""
    script = Script(vocabulary=16, acceptance=0.0)
    prompt = script.prompt("a text")

    assert {script.token(prompt, at) for at in range(1000)} == set(range(1, 16))
    assert {script.guess(prompt, at) for at in range(1000)} == set(range(1, 16))
    assert set(prompt) <= set(range(1, 16))


def test_another_prompt_is_another_text_and_so_is_another_seed() -> None:
    script, other = Script(seed=0), Script(seed=1)
    texts = {_written(script, name) for name in ("a", "b", "", "aa", "ä")}

    assert len(texts) == 5
    assert _written(other, "a") not in texts
    assert script.prompt("a") == other.prompt("a")


# -- engines ---------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    async with await _start(_pair()) as engine:
        yield engine


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("variant", EVERY)
async def test_every_schedule_writes_the_script(engine: Engine, variant: str) -> None:
    """Greedy, and at temperature 1, where draft and target draw."""
    for settings in (EVERY[variant], sampled(EVERY[variant], 1.0)):
        result = await engine.generate("a text", settings).wait()

        assert result.token_ids == _written(SCRIPT, "a text")
        assert result.finish_reason is FinishReason.LENGTH
        assert result.prompt_tokens == PROMPT_TOKENS


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("schedule", ["sd", "pearl"])
async def test_rejection_writes_it_too(engine: Engine, schedule: str) -> None:
    """The laws are certain, so there is only one sample of them."""
    settings = Settings(
        schedule=schedule,
        gamma=3,
        verifier="rejection",
        sampling=Sampling(temperature=1.0),
        max_new_tokens=TOKENS,
    )

    result = await engine.generate("a text", settings).wait()

    assert result.token_ids == _written(SCRIPT, "a text")


@pytest.mark.asyncio(loop_scope="module")
async def test_requests_at_once_write_their_own_texts(engine: Engine) -> None:
    asked = [(f"text {number}", settings) for number, settings in enumerate(EVERY.values())]

    results = await all_at_once(engine, asked)

    assert [r.token_ids for r in results] == [_written(SCRIPT, prompt) for prompt, _ in asked]


@pytest.mark.asyncio(loop_scope="module")
async def test_words_are_numbers_and_a_stop_string_ends_them(engine: Engine) -> None:
    tokens = _written(SCRIPT, "a text")
    word = f" {tokens[20]}"
    first = next(at for at in range(TOKENS) if f" {tokens[at]}".startswith(word))
    settings = msgspec.structs.replace(VARIANTS["PEARL 4"], stop=(word,))

    whole = await engine.generate("a text", VARIANTS["PEARL 4"]).wait()
    stopped = await engine.generate("a text", settings).wait()

    assert whole.text == "".join(f" {token}" for token in tokens)
    assert stopped.token_ids == tokens[: first + 1]
    assert stopped.finish_reason is FinishReason.STOP


@pytest.mark.asyncio(loop_scope="module")
async def test_a_prompt_of_tokens_begins_a_text_too(engine: Engine) -> None:
    texts = [(await engine.generate(ids, AR).wait()).token_ids for ids in ((1, 2), [1, 2], [2, 1])]

    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(PromptError, match="token 1 of the prompt is 64"):
        engine.generate([1, 64], AR)


async def test_a_token_that_ends_a_text_ends_it() -> None:
    tokens = _written(SCRIPT, "a text")
    end = tokens[15]
    async with await _start(_pair(eos=(end,))) as engine:
        for settings in EVERY.values():
            result = await engine.generate("a text", settings).wait()

            assert result.token_ids == tokens[: tokens.index(end) + 1]
            assert result.finish_reason is FinishReason.EOS


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
async def test_an_engine_counts_the_luck_that_was_asked_for(acceptance: float) -> None:
    script = Script(acceptance=acceptance)
    async with await _start(_pair(script)) as engine:
        for name in ("SD 5", "PEARL 4", "PEARL 4 strict", "PEARL auto"):
            result = await engine.generate("a text", VARIANTS[name]).wait()

            assert result.token_ids == _written(script, "a text")
            assert result.metrics.acceptance_rate == acceptance


@pytest.mark.slow
async def test_an_engine_counts_the_luck_of_the_script() -> None:
    """Of the positions that were compared: with a window before each pass, up to each refusal."""
    script, length = Script(acceptance=0.8, seed=5), 2000
    settings = Settings(schedule="sd", gamma=1, max_new_tokens=length)
    async with await _start(_pair(script)) as engine:
        result = await engine.generate("a long text", settings).wait()

    compared = result.metrics.kept + result.metrics.rejections
    assert compared > length / 2
    assert result.metrics.acceptance_rate is not None
    margin = Z * math.sqrt(0.8 * 0.2 / compared)
    assert abs(result.metrics.acceptance_rate - 0.8) < margin


async def test_a_timed_pair_is_an_engine_like_any_other() -> None:
    async with await _start(_pair()) as engine:
        await engine.generate("a text", AR).wait()
        counted = await engine.statistics()

    assert (counted.running, counted.finished) == (0, 1)
    assert set(counted.devices) == set(DEVICES)


# -- shapes ----------------------------------------------------------------------------------------


def _shape(folder: Path, config: Any = None) -> Path:
    (config or LlamaConfig(**SHAPE)).save_pretrained(folder)
    return folder


async def test_a_folder_with_nothing_but_a_configuration_runs(tmp_path: Path) -> None:
    """Nobody trained it, and it writes the script as fast as if somebody had."""
    target = _shape(tmp_path / "target")
    draft = _shape(tmp_path / "draft", LlamaConfig(**SHAPE | {"num_hidden_layers": 1}))
    pair = _shaped(target, Untrained(str(draft)))

    assert [path.name for path in target.iterdir()] == ["config.json"]
    async with await _start(pair) as engine:
        asked = [(f"text {number}", settings) for number, settings in enumerate(EVERY.values())]
        results = await all_at_once(engine, asked)

    assert [r.token_ids for r in results] == [_written(SCRIPT, prompt) for prompt, _ in asked]


async def test_a_shape_may_stand_beside_a_device_that_only_waits(tmp_path: Path) -> None:
    async with await _start(_shaped(_shape(tmp_path))) as engine:
        result = await engine.generate("a text", VARIANTS["PEARL 4"]).wait()

    assert result.token_ids == _written(SCRIPT, "a text")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (None, "the target failed: .* is no shape of a decoder"),
        (T5Config(vocab_size=70), "the target failed: .* is no shape of a decoder"),
        (
            MambaConfig(vocab_size=70, hidden_size=32, num_hidden_layers=1),
            "the target failed: MambaForCausalLM carries a recurrent state",
        ),
    ],
    ids=["nothing there", "no decoder", "a state"],
)
async def test_what_is_no_shape_is_refused_in_one_line(
    config: Any, complaint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "shape"
    if config is not None:
        _shape(folder, config)

    with pytest.raises(PeerError, match=complaint) as refused:
        await _start(_shaped(folder))

    assert "\n" not in str(refused.value)


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance", [-0.1, 1.1, math.nan, math.inf])
def test_luck_is_a_probability(acceptance: float) -> None:
    with pytest.raises(SettingError) as refused:
        Script(acceptance=acceptance)

    assert str(refused.value) == f"acceptance is {acceptance}; it must be from 0 to 1"


@pytest.mark.parametrize("role", Role)
def test_a_model_and_its_stand_in_are_not_both_taken(role: Role) -> None:
    named: dict[str, Any] = {str(role): "model"}

    with pytest.raises(SettingError) as refused:
        StandInPair(settings=EngineSettings(**named), devices=_devices())

    assert str(refused.value) == f"the {role} is model and has a stand-in; give one of them"


def test_more_than_a_shape_holds_is_refused_before_a_device_fails(tmp_path: Path) -> None:
    """The device would end, and with it every other request."""
    fitting = _shaped(_shape(tmp_path, LlamaConfig(**SHAPE | {"max_position_embeddings": 64})))
    wordy = Script(vocabulary=SHAPE["vocab_size"] + 1)

    with pytest.raises(SettingError, match=r"max-new-tokens is 100; a stand-in holds 64"):
        fitting.encode("a", Settings(max_new_tokens=100))
    with pytest.raises(SettingError, match=r"vocabulary is \d+; a shape that is named has \d+"):
        dataclasses.replace(fitting, script=wordy).encode("a", Settings(max_new_tokens=8))


@pytest.mark.parametrize("vocabulary", [2, 1, 0, -5])
def test_a_script_has_words_to_be_wrong_with(vocabulary: int) -> None:
    with pytest.raises(SettingError, match=f"vocabulary is {vocabulary}; it must be at least 3"):
        Script(vocabulary=vocabulary)


@pytest.mark.parametrize("seconds", [-0.001, LONGEST_PASS_S + 1, math.inf, math.nan])
def test_a_pass_takes_a_time_that_can_be_waited_for(seconds: float) -> None:
    with pytest.raises(SettingError) as refused:
        Timed(seconds)

    assert str(refused.value) == f"a pass takes {seconds:g} s; it must be 0 to 100"


def test_no_more_is_written_than_a_device_holds() -> None:
    pair, most = _pair(), POSITIONS - PROMPT_TOKENS

    assert len(pair.encode("a text", Settings(max_new_tokens=most))) == PROMPT_TOKENS
    with pytest.raises(SettingError) as refused:
        pair.encode("a text", Settings(max_new_tokens=most + 1))

    assert str(refused.value) == f"max-new-tokens is {most + 1}; a stand-in holds {POSITIONS}"


def test_a_pair_that_only_waits_needs_no_gpu() -> None:
    """And is not refused one."""
    pair = StandInPair(settings=EngineSettings(gpus=2), devices=_devices())

    assert [spec.place for spec in pair.specs()] == ["cpu", "cpu"]


def test_shapes_need_the_gpus_that_are_asked_for(tmp_path: Path) -> None:
    devices = _devices(target=Untrained(str(tmp_path)))
    pair = StandInPair(settings=EngineSettings(gpus=3), devices=devices)

    with pytest.raises(PlacementError, match="gpus is 3"):
        pair.specs()


# -- the table -------------------------------------------------------------------------------------


def test_a_pair_is_named_in_a_line_for_each_kind() -> None:
    assert parse_stand_ins("timed", "1.5,10") == _devices(Timed(0.0015), Timed(0.01))
    assert parse_stand_ins("untrained", "a,b") == _devices(Untrained("a"), Untrained("b"))


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        ("slow", "1,2", "stand-in is 'slow'; it must be one of timed, untrained"),
        ("timed", "3", "timed is '3'; it must be two numbers of ms with a comma between"),
        ("timed", "a,b", "timed is 'a,b'; it must be two numbers of ms with a comma between"),
        ("untrained", "a,", "untrained is 'a,'; it must be two folders .* with a comma between"),
    ],
)
def test_what_is_no_pair_of_stand_ins_is_refused(kind: str, text: str, complaint: str) -> None:
    with pytest.raises(SettingError, match=f"^{complaint}$"):
        parse_stand_ins(kind, text)


@dataclasses.dataclass(frozen=True, slots=True)
class Bursts:
    """Answers at once, but for every so many passes, which take a time."""

    every: int
    takes: ClassVar = "two whole numbers"
    shape: ClassVar = None

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(int(text))

    def runner(self, _spec: DeviceSpec, _threads: int) -> Runner:
        passes = itertools.count(1)
        return TimedRunner(lambda _: 0.0 if next(passes) % self.every else 1e-3)


@pytest.fixture
def _bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "STAND_INS", {**stand_ins.STAND_INS, "bursts": Bursts})


@pytest.mark.usefixtures("_bursts")
@pytest.mark.parametrize("variant", EVERY)
async def test_another_stand_in_is_a_class_and_a_line_in_the_table(variant: str) -> None:
    devices = parse_stand_ins("bursts", "2,3")
    async with await _start(StandInPair(settings=SETTINGS, devices=devices)) as engine:
        result = await engine.generate("a text", EVERY[variant]).wait()

    assert result.token_ids == _written(Script(), "a text")


@pytest.mark.usefixtures("_bursts")
def test_another_stand_in_is_a_choice_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the command line says what it takes."""
    line = ["bench", "--devices", "local", "--gpus", "0", "--count", "1", "--rounds", "1"]
    few = ["--gammas", "2", "--head-starts", "0", "--max-new-tokens", "8", "--json"]

    assert run([*line, *few, "--stand-in", "bursts:2,3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run([*line, *few, "--stand-in", "bursts:2"]) == 2
    refused = capsys.readouterr().err

    assert found["identical"]
    assert found["stand_in"]["devices"]["target"] == {"every": 3}
    assert "bursts is '2'; it must be two whole numbers with a comma between" in refused
