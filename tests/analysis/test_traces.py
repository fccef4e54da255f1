"""From records alone come the figures that were measured while they were made.

The other witness is the `Meter` of the simulated world and of the real engine, which saw every
event as it happened and no trace.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from pearl.__main__ import run as pearl
from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.analysis import traces
from pearl.analysis.traces import Request, figures, metrics, overlap, runs, shares
from pearl.decoding import trace
from pearl.decoding.errors import MalformedTraceError
from pearl.decoding.messages import DRAFT, TARGET
from pearl.decoding.metrics import Metrics
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from pearl.decoding.summaries import Figures, over_requests
from pearl.decoding.trace import Received
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Constant, Spread
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import ClosedLoop, Fixed, Geometric, Poisson, Uniform, Workload
from pearl.simulator.world import Pair, Run, Scenario
from tests.actors.pairs import save_text_pair
from tests.actors.requests import PROMPTS, VARIANTS

AR: Final = Settings(schedule="ar")
SD: Final = Settings(schedule="sd", gamma=4)
PEARL: Final = Settings(gamma=5)
HOLD: Final = Settings(gamma=4, verifier="rejection", sampling=Sampling(temperature=1.0))
SETTINGS: Final = {
    "AR": AR,
    "SD": SD,
    "PEARL": PEARL,
    "PEARL after 2": msgspec.structs.replace(PEARL, head_start=2),
    "PEARL strict": msgspec.structs.replace(PEARL, strict=True),
    "rejection": HOLD,
    "rejection, strict": msgspec.structs.replace(HOLD, strict=True),
    "rejection, SD": msgspec.structs.replace(HOLD, schedule="sd"),
    "SD auto": Settings(schedule="sd"),
    "PEARL auto": Settings(),
    "PEARL auto after 3": Settings(head_start=3),
}
NOISY: Final = Pair(
    draft=Spread(around=Constant(1 / 128), variation=0.3),
    target=Spread(around=Constant(1 / 32), variation=0.3),
)
FAR: Final = Network(
    draft=Link(latency_s=0.001, jitter_s=0.002),
    target=Link(latency_s=0.0005, jitter_s=0.001),
    control_s=0.0003,
)
ONE: Final = Workload(output=Fixed(500))
SEVERAL: Final = Workload(
    requests=9, arrivals=Poisson(1.0), prompt=Uniform(1, 50), output=Geometric(60), slots=3
)
CRASH, STALL, SLOW = FaultKind.CRASH, FaultKind.STALL, FaultKind.SLOW
FAULTS: Final = {
    "none": (),
    "the draft is late": (Fault(device=DRAFT, kind=CRASH, at=0.0, seconds=2.0),),
    "all": (
        Fault(device=DRAFT, kind=CRASH, at=1.0, seconds=1.0),
        Fault(device=TARGET, kind=CRASH, at=2.5, seconds=0.5),
        Fault(device=DRAFT, kind=STALL, at=3.5, seconds=2.0),
        Fault(device=DRAFT, kind=SLOW, at=6.0, seconds=1.0, factor=5.0),
        Fault(device=TARGET, kind=STALL, at=8.0, seconds=0.5),
    ),
}
SUMS: Final = (
    "tokens",
    "target_passes",
    "draft_steps",
    "drafted",
    "kept",
    "rejections",
    "rounds",
    "draft_losses",
    "target_losses",
    "tokens_without_draft",
)
TIMES: Final = {
    "seconds",
    "tokens_per_s",
    "time_to_first_token_s",
    "draft_idle",
    "target_idle",
    "control_us_per_round",
}


def played(settings: Settings, load: Workload, faults: tuple[Fault, ...] = ()) -> Run:
    scenario = Scenario(
        settings=settings,
        pair=NOISY,
        acceptance=Independent(0.8),
        network=FAR,
        workload=load,
        faults=faults,
    )
    return run(scenario, seed=1, trace=True)


def requests(settings: Settings, done: Run) -> list[Request]:
    """What is read of a run, in the order in which its requests were done."""
    return [
        Request(
            name=str(served.number),
            settings=settings,
            prompt=served.prompt,
            records=tuple(r for r in done.records if r.request == served.number),
        )
        for served in done.served
    ]


def single(settings: Settings, *faults: Fault) -> Request:
    (request,) = requests(settings, played(settings, ONE, faults))
    return request


def apart(found: Metrics, expected: Metrics) -> dict[str, tuple[Any, Any]]:
    """The fields that differ by more than the order in which times are added up."""
    one, other = msgspec.to_builtins(found), msgspec.to_builtins(expected)
    return {
        name: (value, other[name])
        for name, value in one.items()
        if value != other[name] and value != pytest.approx(other[name], rel=1e-9, abs=1e-12)
    }


# -- the same as while it ran ----------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("faults", list(FAULTS))
@pytest.mark.parametrize("load", [ONE, SEVERAL], ids=["one", "several at once"])
def test_a_request_has_the_metrics_that_were_measured_while_it_ran(
    name: str, faults: str, load: Workload
) -> None:
    """Field by field; an automatic gamma has a test of its own."""
    done = played(SETTINGS[name], load, FAULTS[faults])
    auto = {"gamma", "over_ar"} if SETTINGS[name].gamma == "auto" else set()

    for request, served in zip(requests(SETTINGS[name], done), done.served, strict=True):
        assert set(apart(metrics(request), served.metrics)) <= auto


def test_the_faults_of_these_runs_are_seen_in_them() -> None:
    done = played(PEARL, ONE, FAULTS["all"])

    (found,) = (metrics(request) for request in requests(PEARL, done))
    assert (found.draft_losses, found.target_losses) == (2, 1)
    assert 0 < found.tokens_without_draft < found.tokens


def test_a_pass_that_nobody_waited_for_was_made_and_is_no_round() -> None:
    """A device that came back may answer what had been answered before."""
    request = single(PEARL)
    place = next(n for n, r in enumerate(request.records) if isinstance(r, Received) and r.tokens)
    again = msgspec.structs.replace(request.records[place], wanted=False, tokens=())
    records = (*request.records[: place + 1], again, *request.records[place + 1 :])

    whole, doubled = metrics(request), metrics(msgspec.structs.replace(request, records=records))

    assert doubled.target_passes == whole.target_passes + 1
    assert doubled.rounds == whole.rounds
    assert doubled.tokens == whole.tokens


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.gamma == "auto"])
def test_an_automatic_gamma_is_the_last_that_was_asked_for(name: str) -> None:
    """Not the one of the last window, for which there was no room, and no head start.

    In a text whose plan does not change its mind with the very last window: what it then thinks,
    nobody is asked for any more.
    """
    done = played(SETTINGS[name], Workload(output=Fixed(530)))
    (request,) = requests(SETTINGS[name], done)

    assert metrics(request).gamma == done.served[0].metrics.gamma


def test_a_head_start_is_no_window() -> None:
    settings = Settings(head_start=40)
    done = played(settings, Workload(requests=12, arrivals=ClosedLoop(1), output=Fixed(90)))

    widest = max(served.metrics.gamma for served in done.served)
    assert widest < 40
    assert all(metrics(request).gamma < 40 for request in requests(settings, done))


def test_a_text_that_ends_before_the_draft_was_asked_has_no_window() -> None:
    settings = Settings()
    done = played(settings, Workload(output=Fixed(3)))

    assert metrics(requests(settings, done)[0]).gamma == 0


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("faults", list(FAULTS))
def test_the_runs_of_a_request_sum_up_to_it(name: str, faults: str) -> None:
    request = single(SETTINGS[name], *FAULTS[faults])
    whole, parts = metrics(request), runs(request)

    for field in SUMS:
        assert sum(getattr(part, field) for part in parts) == getattr(whole, field)
    assert sum(part.seconds for part in parts) == pytest.approx(whole.seconds)
    for field in ("draft_idle", "target_idle"):
        idle = sum(getattr(part, field) * part.seconds for part in parts)
        assert idle == pytest.approx(getattr(whole, field) * whole.seconds, abs=1e-9)


def test_a_run_ends_with_a_rejection_and_only_the_last_is_cut_short() -> None:
    *whole, cut = runs(single(PEARL))

    assert {run.rejections for run in whole} == {1}
    assert cut.rejections == 0


def test_the_target_alone_begins_anew_with_every_token() -> None:
    parts = runs(single(AR))

    assert len(parts) == 500
    assert {(part.tokens, part.target_passes, part.draft_idle) for part in parts} == {(1, 1, 1.0)}


# -- figures ---------------------------------------------------------------------------------------


def test_the_figures_of_several_requests_are_over_requests() -> None:
    found = requests(PEARL, played(PEARL, SEVERAL))

    assert figures(found) == over_requests([metrics(request) for request in found])


@pytest.mark.parametrize("name", ["AR", "SD", "PEARL", "PEARL auto after 3"])
def test_the_figures_of_a_single_request_are_its_own_with_intervals_over_its_runs(
    name: str,
) -> None:
    request = single(SETTINGS[name])
    whole, found = metrics(request), figures([request])

    for field in Figures.__struct_fields__:
        known = getattr(whole, field) if name != "AR" or field != "wasted" else None
        value = getattr(found, field).value
        assert value == (None if known is None else pytest.approx(known))
    assert found.tokens_per_s.interval is not None
    assert found.tokens_per_s.interval[0] < whole.tokens_per_s < found.tokens_per_s.interval[1]
    assert found.time_to_first_token_s.interval is None  # of one request there is one


def test_the_luck_of_a_request_is_where_draft_and_text_agreed() -> None:
    request = single(PEARL)
    found = metrics(request)

    assert len(request.luck) == len(request.tokens) == found.tokens
    assert request.luck.count("1") == found.kept
    assert request.luck.count("0") == found.rejections
    assert set(single(AR).luck) == {"?"}


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SD", "PEARL", "PEARL after 2", "rejection"])
def test_each_device_spends_its_time_on_four_things(name: str) -> None:
    request = single(SETTINGS[name])
    whole, found = metrics(request), shares([request])

    for device, idle in (("draft", whole.draft_idle), ("target", whole.target_idle)):
        parts = found[device]
        assert tuple(parts) == traces.PARTS
        assert sum(parts.values()) == pytest.approx(1)
        assert all(-1e-12 <= share <= 1 for share in parts.values())
        assert parts["waiting_for_other"] + parts["waiting_for_messages"] == pytest.approx(idle)
    assert found["draft"]["wasted"] == pytest.approx((1 - whole.draft_idle) * whole.wasted)


def test_without_delays_speculative_devices_wait_for_each_other_only() -> None:
    """Windows of 5 steps beside passes that take as long as 5: each half the time."""
    settings = Settings(schedule="sd", gamma=5)
    scenario = Scenario(settings=settings, pair=Pair.of(5), workload=Workload(output=Fixed(301)))
    found = shares(requests(settings, run(scenario, trace=True)))

    for device in ("draft", "target"):
        assert found[device]["waiting_for_other"] == pytest.approx(0.5, abs=0.01)
        assert found[device]["waiting_for_messages"] == pytest.approx(0, abs=1e-9)


def test_without_a_draft_it_does_nothing_all_the_time() -> None:
    found = shares([single(AR)])

    assert found["draft"]["useful"] == found["draft"]["wasted"] == 0
    assert found["target"]["wasted"] == found["target"]["waiting_for_other"] == 0


def test_requests_overlap_that_share_a_clock_and_a_moment() -> None:
    together = requests(PEARL, played(PEARL, SEVERAL))
    in_turn = requests(
        PEARL,
        played(PEARL, Workload(requests=4, arrivals=ClosedLoop(1), output=Fixed(50))),
    )
    other_clocks = [
        msgspec.structs.replace(request, run=str(number)) for number, request in enumerate(together)
    ]

    assert overlap(together)
    assert not overlap(in_turn)
    assert not overlap(other_clocks)


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def write(file: Path, done: Run, settings: Settings) -> None:
    served = sorted(done.served, key=lambda each: each.number)
    about = trace.About(
        settings=settings,
        eos=(),
        finish_reason=FinishReason.LENGTH,
        prompts=tuple(each.prompt for each in served),
        simulated=True,
    )
    trace.write(file, done.records, **msgspec.to_builtins(about))


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_what_the_command_line_simulated_is_read_with_all_its_figures(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    asked = ["--alpha", "0.8", "--gamma", "4", "--tokens", "300", "--replications", "1", "--json"]
    assert pearl(["simulate", "--speed-ratio", "5", *asked, "--trace", str(file)]) == 0
    printed = msgspec.json.decode(capsys.readouterr().out)

    (request,) = traces.read(file)

    assert (request.name, request.simulated, request.settings.gamma) == ("run", True, 4)
    for field in ("tokens", "target_passes", "draft_steps", "seconds", "wasted", "acceptance_rate"):
        assert getattr(metrics(request), field) == pytest.approx(printed[field])


def test_requests_of_a_file_are_told_apart(file: Path) -> None:
    done = played(PEARL, SEVERAL)
    write(file, done, PEARL)

    found = traces.read(file)

    by_number = {served.number: served for served in done.served}
    assert [request.name for request in found] == [f"run {number}" for number in range(9)]
    assert {request.run for request in found} == {str(file)}
    assert overlap(found)
    for number, request in enumerate(found):
        assert request.prompt == by_number[number].prompt
        assert not apart(metrics(request), by_number[number].metrics)


def test_a_file_that_was_cut_short_is_read_as_far_as_it_goes(file: Path) -> None:
    done = played(PEARL, ONE)
    write(file, done, PEARL)
    (whole,) = traces.read(file)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 3])

    (found,) = traces.read(file)

    assert 0 < len(found.tokens) < 500
    assert found.tokens == whole.tokens[: len(found.tokens)]
    assert found.records == whole.records[: len(found.records)]
    assert metrics(found).seconds < metrics(whole).seconds
    assert sum(run.tokens for run in runs(found)) == len(found.tokens)


def test_prompts_that_nobody_wrote_down_are_not_made_up(file: Path) -> None:
    done = played(AR, Workload(output=Fixed(5)))
    about = trace.About(settings=AR, eos=(), finish_reason=None)
    trace.write(file, done.records, **msgspec.to_builtins(about))

    (found,) = traces.read(file)

    assert found.prompt is None
    assert not found.simulated


def test_a_request_without_a_token_is_left_out(file: Path) -> None:
    """It had begun when the recording ended."""
    done = played(PEARL, Workload(requests=2, arrivals=ClosedLoop(1), output=Fixed(20)))
    second = next(n for n, record in enumerate(done.records) if record.request == 1)
    cut = msgspec.structs.replace(done, records=done.records[: second + 1])
    write(file, cut, PEARL)

    assert [request.name for request in traces.read(file)] == ["run 0"]


COMPLAINTS: Final = {
    "is not a trace of version": b"[]\n",
    "cannot be read: ": gzip.compress(b"[\n")[:-9],
    "does not say how it was run": b'[\n{"args":{"header":{"about":{"models":"x"}}}},\n',
    "has no token that was generated": None,
}


@pytest.mark.parametrize("complaint", list(COMPLAINTS))
def test_what_says_nothing_of_any_figure_is_refused_in_one_line(complaint: str, file: Path) -> None:
    data = COMPLAINTS[complaint]
    if data is None:
        write(file, msgspec.structs.replace(played(AR, ONE), records=()), AR)
    else:
        file.write_bytes(data)

    with pytest.raises(MalformedTraceError) as refusal:
        traces.read(file)

    assert str(file) in str(refusal.value)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


# -- real devices ----------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    pair = save_text_pair(tmp_path_factory.mktemp("text"))
    models = EngineSettings(
        target=str(pair.target), draft=str(pair.draft), devices=Devices.LOCAL, gpus=0
    )
    async with await Engine.start(models) as engine:
        yield engine


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["SD 5", "PEARL 4", "PEARL 3 after 6", "PEARL 4 strict"])
async def test_a_real_run_has_the_counts_that_its_scheduler_made(engine: Engine, name: str) -> None:
    """Its times too, but for the moment before the first command left."""
    result = await engine.generate(PROMPTS[0], VARIANTS[name], trace=True).wait()
    request = Request(
        name=name, settings=VARIANTS[name], prompt=result.prompt_tokens, records=result.trace
    )

    found = metrics(request)

    assert request.tokens == result.token_ids
    assert set(apart(found, result.metrics)) <= TIMES
    assert 0 < found.seconds <= result.metrics.seconds
    assert sum(run.tokens for run in runs(request)) == found.tokens
