"""Passes that are recorded and replayed: the library's logits, from a few recordings.

On a CPU a tape stands for CUDA graphs (`tape`); what is marked gpu records real ones.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from pearl.actors import device
from pearl.actors.hosts import Host, draft_host
from pearl.actors.runners import graphs, loading, memory, shelves
from pearl.actors.runners.graphs import (
    LEAST_USED,
    STEP_TOKENS,
    CudaGraphs,
    PassShape,
    Recorder,
    Step,
    rounded,
)
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.library import LibraryForward
from pearl.actors.runners.loading import own_stream
from pearl.actors.runners.shelves import BLOCK
from pearl.actors.runners.stand_in import TimedRunner
from pearl.actors.specs import DeviceSpec
from pearl.actors.wire import Address
from pearl.decoding.errors import PlacementError
from pearl.decoding.messages import Role
from tests.actors.runners.models import (
    CONFIGS,
    POSITIONS,
    SHARING,
    VOCAB,
    check_feeds_at_will,
    close,
    feed,
    model_of,
    plain,
    runner_of,
    text,
)
from tests.actors.runners.tape import Tape


@final
class Again:
    """A recorder that records nothing: the step itself is taken again, on any device."""

    def record(self, step: Step) -> Step:
        return step

    def forget(self) -> None:
        """Nothing to forget."""


LOGGER: Final = "pearl.actors.runners.hugging_face"

every_sharing = pytest.mark.parametrize("architecture", SHARING)


@pytest.fixture(autouse=True)
def _plain_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU has: rows that are taken as a whole."""
    monkeypatch.setattr(memory, "can_map", lambda _device: False)


def _taped(architecture: str, **options: Any) -> tuple[HuggingFaceRunner, Tape]:
    """A runner that has tried its recordings, and a tape that counts from now on."""
    tape = Tape()
    runner = runner_of(architecture, recorder=tape, **options)
    assert tape.replayed > tape.recorded
    tape.recorded = tape.replayed = 0
    return runner, tape


# -- logits ----------------------------------------------------------------------------------------


@every_sharing
def test_tokens_read_one_by_one_have_the_plain_logits(architecture: str) -> None:
    """The draft's step: one recording, replayed at every position."""
    runner, tape = _taped(architecture)
    tokens = text(40, seed=1)
    row = runner.allocate(40)

    logits = [runner.forward([feed(row, at, [token])])[0] for at, token in enumerate(tokens)]

    close(torch.cat(logits), plain(model_of(architecture), tokens))
    assert (tape.recorded, tape.replayed) == (1, 40)


@pytest.mark.slow
@every_sharing
@pytest.mark.parametrize("again", [False, True], ids=["recorded", "replayed"])
def test_windows_of_every_length_have_the_plain_logits(architecture: str, *, again: bool) -> None:
    """One row, at other places each time, up to one token more than is recorded."""
    runner, tape = _taped(architecture)
    tokens = text(POSITIONS, seed=2)
    row, start = runner.allocate(POSITIONS), 5
    runner.forward([feed(row, 0, tokens[:start])])
    if again:
        for count in range(1, STEP_TOKENS + 1):
            runner.forward([feed(row, start, text(count, seed=count))])
    found = []
    for count in range(1, STEP_TOKENS + 1):
        found += runner.forward([feed(row, start, tokens[start : start + count])])
        start += count

    longer = runner.forward([feed(row, start, tokens[start : start + STEP_TOKENS + 1])])[0]

    expected = plain(model_of(architecture), tokens[: start + STEP_TOKENS + 1])
    close(torch.cat([*found, longer]), expected[5:])
    assert tape.recorded == len({1, 2, 4, 8, 16})


@every_sharing
def test_rows_read_together_have_the_plain_logits(architecture: str) -> None:
    """Padding on the left, an idle row between that holds a text, and one that holds nothing."""
    runner, tape = _taped(architecture)
    model = model_of(architecture)
    texts = {0: text(20, seed=7), 2: text(9, seed=8), 4: text(33, seed=9)}
    idle = text(13, seed=10)
    rows = [runner.allocate(40) for _ in range(5)]
    runner.forward([feed(rows[1], 0, idle[:12])])
    runner.forward([feed(rows[i], 0, tokens[:-7]) for i, tokens in texts.items()])
    found: dict[int, list[Tensor]] = {i: [] for i in texts}
    before = runner.statistics().passes, tape.recorded

    for window in (slice(-7, -4), slice(-4, -1), slice(-1, None)):
        feeds = [feed(rows[i], range(len(t))[window].start, t[window]) for i, t in texts.items()]
        for i, logits in zip(texts, runner.forward(feeds), strict=True):
            found[i].append(logits)

    assert runner.statistics().passes == before[0] + 3
    assert tape.recorded == before[1] + 2
    for i, tokens in texts.items():
        close(torch.cat(found[i]), plain(model, tokens)[-7:])
    close(runner.forward([feed(rows[1], 12, idle[12:])])[0], plain(model, idle)[12:])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral-sliding", "gpt2", "bloom"])
@settings(max_examples=12)
@given(data=st.data())
def test_whatever_is_fed_and_rolled_back_the_next_logits_are_the_plain_ones(
    architecture: str, data: st.DataObject
) -> None:
    """Three rows that grow, any subset of them a call, any start up to the end."""
    model, runner = model_of(architecture), runner_of(architecture, recorder=Tape())
    check_feeds_at_will(runner, model, data)


@every_sharing
def test_after_a_rollback_only_what_stands_is_seen(architecture: str) -> None:
    """What was written behind, by tokens and by padding, is hidden until it is overwritten."""
    runner, _ = _taped(architecture)
    tokens = text(24, seed=11)
    row = runner.allocate(40)
    runner.forward([feed(row, 0, tokens[:20])])
    runner.forward([feed(row, 20, text(12, seed=12))])
    runner.forward([feed(row, 9, text(3, seed=13))])

    again = runner.forward([feed(row, 9, tokens[9:20])])[0]
    after = runner.forward([feed(row, 20, tokens[20:])])[0]

    close(torch.cat([again, after]), plain(model_of(architecture), tokens)[9:])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_does_not_stand_beyond_the_last_position_of_the_model(architecture: str) -> None:
    """Where positions are a table, there is nothing to look up behind its end."""
    model, (runner, _) = model_of(architecture), _taped(architecture)
    full, short = text(POSITIONS, seed=20), text(3, seed=21)
    rows = [runner.allocate(POSITIONS), runner.allocate(5)]
    runner.forward([feed(rows[0], 0, full[:-3], logits=0)])

    last, other = runner.forward([feed(rows[0], POSITIONS - 3, full[-3:]), feed(rows[1], 0, short)])
    idle = runner.forward([feed(rows[1], 2, short[2:])])[0]

    close(last, plain(model, full)[-3:])
    close(torch.cat([other, idle]), plain(model, short)[[0, 1, 2, 2]])


def test_a_row_used_again_remembers_nothing() -> None:
    """Neither its tokens nor its recordings' padding."""
    model, (runner, _) = model_of("llama"), _taped("llama")
    row = runner.allocate(16)
    runner.forward([feed(row, 0, text(16, seed=3))])
    runner.release(row)
    fresh = text(5, seed=9)

    again = runner.allocate(16)

    assert again == row
    close(runner.forward([feed(again, 0, fresh)])[0], plain(model, fresh))


def test_logits_outlive_the_passes_that_follow() -> None:
    """A target holds a row until its next verdict, and a call may take several passes."""
    runner, _ = _taped("llama")
    tokens = text(9, seed=4)
    row = runner.allocate(20)
    runner.forward([feed(row, 0, tokens[:7])])
    held = runner.forward([feed(row, 7, tokens[7:8])])[0]

    runner.forward([feed(row, 8, tokens[8:])])

    close(held, plain(model_of("llama"), tokens)[7:8])


def test_a_feed_that_wants_no_logits_gets_none_and_is_read() -> None:
    runner, _ = _taped("qwen2")
    tokens = text(6, seed=5)
    row = runner.allocate(8)

    none = runner.forward([feed(row, 0, tokens[:5], logits=0)])[0]

    assert none.shape == (0, VOCAB)
    close(runner.forward([feed(row, 5, tokens[5:])])[0], plain(model_of("qwen2"), tokens)[5:])


def test_logits_are_cut_to_the_vocabulary_of_the_pair() -> None:
    runner, _ = _taped("llama", vocab_size=90)
    tokens = [3, 89]

    logits = runner.forward([feed(runner.allocate(2), 0, tokens)])[0]

    close(logits, plain(model_of("llama"), tokens)[:, :90])


def test_half_precision_comes_back_in_float32() -> None:
    torch.manual_seed(3)
    model = type(model_of("llama"))(CONFIGS["llama"]()).eval().to(torch.bfloat16)
    tape, tokens = Tape(), text(12, seed=18)
    runner = HuggingFaceRunner(model, recorder=tape)
    row = runner.allocate(12)
    runner.forward([feed(row, 0, tokens[:9])])

    logits = runner.forward([feed(row, 9, tokens[9:])])[0]

    assert logits.dtype == torch.float32
    assert tape.replayed
    close(logits, plain(model, tokens)[9:], tolerance=0.05)


# -- recordings ------------------------------------------------------------------------------------


def test_a_recording_serves_all_passes_of_its_shape() -> None:
    """Any place, any of the lengths that are rounded to one, any of the rows of a block."""
    runner, tape = _taped("llama")
    rows = [runner.allocate(80) for _ in range(4)]
    for row in rows:
        runner.forward([feed(row, 0, text(30, seed=row))])

    for at, count in enumerate((3, 4, 3, 4)):
        runner.forward([feed(rows[0], 20 + at, text(count, seed=at))])
    for ends in ((0, 2), (1, 3), (0, 3), (0, 1, 2, 3)):
        runner.forward([feed(rows[end], 10, text(2, seed=end)) for end in ends])

    assert (tape.recorded, tape.replayed) == (2, 8)


def test_when_the_cache_has_grown_steps_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded writes where the cache was: before there was a second row, a longer one."""
    monkeypatch.setattr(shelves, "FIRST_PLAIN", BLOCK)
    runner, tape = _taped("llama")
    tokens = text(150, seed=10)
    row, other = runner.allocate(150), runner.allocate(8)
    found = [runner.forward([feed(row, at, tokens[at : at + 1])])[0] for at in range(4)]
    one_row = tape.recorded

    runner.forward([feed(other, 0, text(STEP_TOKENS + 1, seed=1))])
    found += [runner.forward([feed(row, at, tokens[at : at + 1])])[0] for at in range(4, 8)]
    two_rows = tape.recorded
    found += runner.forward([feed(row, 8, tokens[8:])])
    found += runner.forward([feed(row, 149, tokens[149:])])

    close(torch.cat(found), plain(model_of("llama"), tokens)[[*range(150), 149]])
    assert (one_row, two_rows, tape.recorded) == (1, 2, 3)
    assert tape.replayed == 9


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_attention_sees_as_many_positions_as_the_text_needs(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded up, and not the whole cache; padding may stand behind them."""
    monkeypatch.setattr(graphs, "LEAST_USED", 16)
    runner, tape = _taped(architecture)
    tokens = text(POSITIONS, seed=12)
    row, found, recorded = runner.allocate(POSITIONS), [], {}

    for start in range(0, POSITIONS - 2, 3):
        found += runner.forward([feed(row, start, tokens[start : start + 3])])
        recorded[start + 3] = tape.recorded

    close(torch.cat(found), plain(model_of(architecture), tokens)[: 3 * len(found)])
    assert [recorded[end] for end in (15, 18, 30, 33, 63, 66, 126, 129)] == [1, 2, 2, 3, 3, 4, 4, 5]
    assert tape.recorded == 5


def test_padding_needs_no_room_behind_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the cache would grow at the end of a text, and all would be recorded again."""
    monkeypatch.setattr(shelves, "FIRST_PLAIN", BLOCK)
    runner, tape = _taped("llama")
    row, length = runner.allocate(BLOCK - 1), BLOCK - 1
    runner.forward([feed(row, 0, text(length - 1, seed=length), logits=0)])
    held = runner.statistics().cache_bytes

    runner.forward([feed(row, length - 1, [1])])
    runner.forward([feed(row, length - 9, text(9, seed=6))])

    assert runner.statistics().cache_bytes == held
    assert tape.recorded == 2


def test_a_new_runner_holds_no_memory_of_what_it_tried() -> None:
    runner, tape = _taped("llama")

    assert runner.statistics().cache_bytes == 0
    assert not tape.holds
    runner.forward([feed(runner.allocate(4), 0, [1])])
    assert tape.recorded == 1


def test_a_long_feed_is_not_recorded() -> None:
    """Alone or beside others: its kernels take longer than their launches."""
    runner, tape = _taped("llama")
    rows = [runner.allocate(40) for _ in range(2)]
    tokens = text(STEP_TOKENS + 1, seed=1)

    runner.forward([feed(rows[0], 0, tokens)])
    runner.forward([feed(rows[0], 0, tokens), feed(rows[1], 0, tokens[:3])])

    assert tape.replayed == 0


@pytest.mark.parametrize("architecture", sorted(set(CONFIGS) - set(SHARING)))
def test_a_model_whose_masks_are_its_own_is_not_recorded(architecture: str) -> None:
    """Bloom takes no positions, GPT-Neo keeps its windows to itself."""
    tape, tokens = Tape(), text(12, seed=2)
    runner = runner_of(architecture, recorder=tape)

    logits = runner.forward([feed(runner.allocate(12), 0, tokens)])[0]

    assert tape.recorded == 0
    close(logits, plain(model_of(architecture), tokens))


def test_of_too_many_recordings_the_one_not_used_for_longest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, tape = _taped("llama")
    monkeypatch.setattr(graphs, "MOST_RECORDED", 2)
    row, recorded = runner.allocate(40), []

    for count in (1, 2, 1, 4, 1, 2):
        runner.forward([feed(row, 0, text(count, seed=count))])
        recorded.append(tape.recorded)

    assert recorded == [1, 2, 2, 3, 3, 4]


def test_without_a_recorder_nothing_changes() -> None:
    """On a CPU passes are as wide as what is fed."""
    runner = runner_of("llama", spare=False)
    row = runner.allocate(40)

    runner.forward([feed(row, 0, text(3, seed=1))])

    assert runner.statistics().padding == 0


# -- what cannot be recorded -----------------------------------------------------------------------


@final
class Refusing:
    """Records so many steps, and then none."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more of that\nand a second line")
        return step

    def forget(self) -> None:
        pass


@final
class Stuck:
    """Says again what it said first."""

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        first = step().clone()
        return lambda: first

    def forget(self) -> None:
        pass


def _complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [(Refusing(0), "no more of that"), (Refusing(3), "no more of that"), (Stuck(), None)],
    ids=["at once", "after some", "always the same"],
)
def test_a_runner_whose_trial_fails_records_nothing_and_says_so_once(
    recorder: Recorder, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line, with the reason; then it is the runner that it was before."""
    runner, tokens = runner_of("gemma2", recorder=recorder), text(20, seed=1)
    row = runner.allocate(30)

    logits = runner.forward([feed(row, 0, tokens[:15])])
    logits += runner.forward([feed(row, 15, tokens[15:])])

    close(torch.cat(logits), plain(model_of("gemma2"), tokens))
    assert _complaints(caplog) == [
        "Gemma2ForCausalLM runs without recorded passes, which is slower: "
        + (reason or "a replay has other logits")
    ]
    assert isinstance(runner._network, LibraryForward)
    assert runner.statistics().padding == 0


def test_a_step_that_cannot_be_recorded_later_is_taken_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The request that met it gets its logits; so do the rows of a ragged pass."""
    recorder = Refusing(1000)
    runner, model = runner_of("llama", recorder=recorder), model_of("llama")
    texts = [text(12, seed=1), text(10, seed=2)]
    rows = [runner.allocate(20) for _ in texts]
    runner.forward([feed(r, 0, t[:-3]) for r, t in zip(rows, texts, strict=True)])
    recorder.left = 0

    found = runner.forward([feed(r, len(t) - 3, t[-3:]) for r, t in zip(rows, texts, strict=True)])
    more = runner.forward([feed(rows[0], 11, texts[0][11:])])[0]

    for logits, tokens in zip(found, texts, strict=True):
        close(logits, plain(model, tokens)[-3:])
    close(more, plain(model, texts[0])[11:])
    assert len(_complaints(caplog)) == 1


def test_a_model_that_asks_its_device_for_numbers_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rotation that is stretched with the text looks at the last position."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )
    torch.manual_seed(11)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    tokens = text(9, seed=3)

    runner = HuggingFaceRunner(model, recorder=Tape())

    close(runner.forward([feed(runner.allocate(9), 0, tokens)])[0], plain(model, tokens))
    assert [line.partition(": ")[2] for line in _complaints(caplog)] == [
        "operation not permitted when stream is capturing"
    ]


# -- shapes ----------------------------------------------------------------------------------------

LONG: Final = 1 << 20

shapes = st.builds(
    PassShape,
    first=st.integers(0, 40),
    rows=st.integers(1, 40),
    tokens=st.integers(1, STEP_TOKENS),
    used=st.integers(STEP_TOKENS, 5000),
    logits=st.just(0),
)


@pytest.mark.slow
@given(shape=shapes)
def test_a_rounded_shape_holds_the_pass_and_is_its_own(shape: PassShape) -> None:
    wide = rounded(shape, LONG)

    assert wide.first <= shape.first
    assert wide.first + wide.rows >= shape.first + shape.rows
    assert shape.tokens <= wide.tokens < 2 * shape.tokens
    assert shape.used <= wide.used < max(2 * shape.used, LEAST_USED + 1)
    assert wide.logits == wide.tokens
    assert rounded(wide, LONG) == wide


def test_the_shapes_of_some_rows_are_few() -> None:
    """Every range of 16 rows, every number of tokens, contexts up to 4,096 positions."""
    found = {
        rounded(PassShape(first, last - first + 1, tokens, used, 0), LONG)
        for first in range(16)
        for last in range(first, 16)
        for tokens in range(1, STEP_TOKENS + 1)
        for used in range(tokens, 4097, 63)
    }

    blocks, tokens, contexts = 16 + 8 + 4 + 2 + 1, 5, 5
    assert len(found) == blocks * tokens * contexts


# -- queues ----------------------------------------------------------------------------------------


def test_a_device_loads_its_model_and_works_in_a_queue_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the host makes of the logits is queued behind the pass they come from."""
    story: list[str] = []

    @contextlib.contextmanager
    def queue(place: str) -> Iterator[None]:
        story.append(f"queue on {place}")
        yield
        story.append("end of the queue")

    monkeypatch.setattr(loading, "own_stream", queue)

    def load(*_: object, **__: object) -> Host:
        story.append("load")
        return draft_host(TimedRunner(lambda _: 0.0))

    def serve(*_: object) -> bool:
        story.append("serve")
        return True

    monkeypatch.setattr(device, "_load", load)
    monkeypatch.setattr(device, "serve", serve)
    spec = DeviceSpec(role=Role.DRAFT, model="any", place="cuda:0", vocabulary=8)

    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        device.run_device(spec, Address(host=host, port=port, secret=str(port)))

    assert story == ["queue on cuda:0", "load", "serve", "end of the queue"]


def test_a_cpu_has_no_queues() -> None:
    with own_stream("cpu") as stream:
        assert stream is None


def test_a_gpu_that_is_not_there_has_none_either() -> None:
    """The complaint is the one about the device, not torch's."""
    with pytest.raises(PlacementError, match="device is cuda:99"):
        own_stream("cuda:99")


# -- real graphs -----------------------------------------------------------------------------------


@pytest.mark.gpu
@every_sharing
def test_replayed_graphs_have_the_logits_of_steps_taken_again(architecture: str) -> None:
    """And both have the plain ones, through growth, several rows and a rollback."""
    model = model_of(architecture, "cuda")
    found = []
    for recorder in (CudaGraphs(model.device), Again()):
        runner = HuggingFaceRunner(model, recorder=recorder)
        assert runner._steps is not None
        found.append(_story(runner))

    for replayed, taken, expected in zip(*found, _plain_story(model), strict=True):
        close(replayed, taken)
        close(replayed, expected)


@pytest.mark.gpu
def test_two_runners_record_and_replay_in_two_threads_of_one_process() -> None:
    """Each in a queue of its own, as a draft and a target on one GPU do."""
    models = {name: model_of(name, "cuda") for name in ("llama", "gemma3")}
    found: dict[str, list[Tensor]] = {}

    def work(name: str) -> None:
        with own_stream("cuda"):
            model = models[name]
            runner = HuggingFaceRunner(model, recorder=CudaGraphs(model.device))
            assert runner._steps is not None
            found[name] = [logits.cpu() for _ in range(20) for logits in _story(runner)]
            assert runner._steps is not None

    threads = [threading.Thread(target=work, args=(name,)) for name in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name, model in models.items():
        expected = [logits.cpu() for logits in _plain_story(model)] * 20
        for got, wanted in zip(found[name], expected, strict=True):
            close(got, wanted)


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_thread_on_its_queue() -> None:
    """Or all that follows would be queued elsewhere."""
    recorder = CudaGraphs(torch.device("cuda", 0))
    number = torch.ones(1, device="cuda")
    before = torch.cuda.current_stream()

    with pytest.raises(RuntimeError):
        recorder.record(lambda: number * float(number))

    assert torch.cuda.current_stream() == before
    assert recorder.record(lambda: number * 2)().tolist() == [2.0]


@pytest.mark.gpu
def test_a_queue_of_its_own_is_not_the_default_one() -> None:
    with own_stream("cuda"):
        assert torch.cuda.current_stream() != torch.cuda.default_stream()

    assert torch.cuda.current_stream() == torch.cuda.default_stream()


TEXTS: Final = [text(30, seed=31), text(25, seed=32)]


def _story(runner: HuggingFaceRunner) -> list[Tensor]:
    """Growth, two rows together, a rollback, one token after the other."""
    rows = [runner.allocate(8)]
    found = runner.forward([feed(rows[0], 0, TEXTS[0][:6])])
    rows.append(runner.allocate(40))
    for start in (6, 9, 7):
        found += runner.forward([feed(rows[0], start, TEXTS[0][start : start + 5])])
    found += runner.forward([feed(rows[0], 12, TEXTS[0][12:15]), feed(rows[1], 0, TEXTS[1][:10])])
    for at in range(10, 25):
        found += runner.forward([feed(rows[1], at, TEXTS[1][at : at + 1])])
    for row in rows:
        runner.release(row)
    return found


def _plain_story(model: Any) -> list[Tensor]:
    one, other = (plain(model, tokens) for tokens in TEXTS)
    singles = [other[at : at + 1] for at in range(10, 25)]
    return [one[:6], one[6:11], one[9:14], one[7:12], one[12:15], other[:10], *singles]


def test_the_story_of_the_graphs_holds_on_a_tape() -> None:
    """What the tests above expect of a GPU."""
    runner, _ = _taped("gemma3")

    for got, expected in zip(_story(runner), _plain_story(model_of("gemma3")), strict=True):
        close(got, expected)
