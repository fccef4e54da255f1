"""Memory of the cache: it comes with what is written, and goes with its row, leaving nothing."""

from __future__ import annotations

import math
from typing import Any, Final

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig

from pearl.actors.runners import memory, shelves
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.interface import Runner
from pearl.actors.runners.library import LibraryForward
from pearl.actors.runners.memory import Buffer
from pearl.actors.runners.shelves import BLOCK
from pearl.actors.runners.written import WrittenForward
from pearl.decoding.errors import PlacementError
from tests.actors.runners.models import (
    POSITIONS,
    VOCAB,
    check_feeds_at_will,
    close,
    feed,
    model_of,
    plain,
    runner_of,
    text,
)

CPU: Final = torch.device("cpu")
POSITION: Final = 2 * 2 * 2 * 8 * 4
"""Bytes of the small llama: layers, keys and values, heads, width, number."""

mapped_only = pytest.mark.skipif(not memory.can_map(CPU), reason="addresses cannot be mapped here")


@pytest.fixture(params=["mapped", "plain"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to have memory; plain rows move from 128 positions on."""
    if request.param == "plain":
        monkeypatch.setattr(memory, "can_map", lambda _device: False)
        monkeypatch.setattr(shelves, "FIRST_PLAIN", BLOCK)
        monkeypatch.setattr(shelves, "KEPT", BLOCK)
    elif not memory.can_map(CPU):
        pytest.skip("addresses cannot be mapped here")
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["library", "written-out"])
def spare(request: pytest.FixtureRequest) -> bool:
    """Both forwards."""
    return bool(request.param)


def _held(runner: Runner) -> float:
    """Memory of the cache, in blocks of one row."""
    return runner.statistics().cache_bytes / POSITION / BLOCK


# -- what is taken ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("kind")
def test_a_row_that_nobody_wrote_takes_nothing(spare: bool) -> None:  # noqa: FBT001
    runner = runner_of("llama", spare=spare)

    for _ in range(5):
        runner.allocate(POSITIONS)

    assert _held(runner) == 0
    assert runner.statistics().rows == 5


@pytest.mark.usefixtures("kind")
def test_one_long_text_does_not_make_the_others_long(spare: bool) -> None:  # noqa: FBT001
    """Four rows of one block, one of two."""
    runner = runner_of("llama", spare=spare)
    rows = [runner.allocate(POSITIONS) for _ in range(5)]
    for row in rows[:4]:
        runner.forward([feed(row, 0, [1, 2])])
    before = _held(runner)

    runner.forward([feed(rows[4], 0, text(BLOCK + 2, seed=1), logits=1)])

    assert (before, _held(runner)) == (4, 6)


@pytest.mark.usefixtures("kind")
def test_what_a_long_text_took_is_given_back_when_it_ends(spare: bool) -> None:  # noqa: FBT001
    """And what the others hold stays theirs."""
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    short, tokens = runner.allocate(20), text(20, seed=2)
    runner.forward([feed(short, 0, tokens[:10])])
    before = _held(runner)

    for _ in range(3):
        row = runner.allocate(POSITIONS)
        runner.forward([feed(row, 0, text(POSITIONS, seed=3), logits=1)])
        runner.release(row)

    assert _held(runner) == before
    close(runner.forward([feed(short, 10, tokens[10:])])[0], plain(model, tokens)[10:], 3e-5)


@pytest.mark.usefixtures("kind")
def test_an_absurd_length_takes_nothing_until_it_is_used() -> None:
    """Of a model that has no longest sequence."""
    torch.manual_seed(1)
    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, eos_token_id=1)
    runner = HuggingFaceRunner(AutoModelForCausalLM.from_config(config).eval())

    row = runner.allocate(runner.positions)
    runner.forward([feed(row, 0, [1, 2, 3])])

    assert runner.statistics().cache_bytes <= shelves.FIRST_PLAIN * 2 * 2 * 32 * 4


@mapped_only
def test_the_process_grows_by_what_is_written_and_shrinks_again() -> None:
    """What the figures say is what the system sees."""
    shape, process = (4, 64, 8, 65536, 32), psutil.Process()  # 17 GB of addresses
    buffer, row_bytes = Buffer(shape, torch.float32, CPU, mapped=True), 4 * 8 * 8192 * 32 * 4
    before = process.memory_info().rss

    with torch.inference_mode():
        buffer.tensor[:, 5, :, :8192] = 1.0
    during = process.memory_info().rss
    seen = float(buffer.tensor[:, :, :, :16].sum())
    buffer.clear(5, 8192)

    assert seen == 4 * 8 * 16 * 32
    assert during - before == pytest.approx(row_bytes, rel=0.2)
    assert process.memory_info().rss - before < row_bytes / 4
    assert float(buffer.tensor[:, 5, :, :8192].abs().sum()) == 0


@pytest.mark.usefixtures("kind")
def test_many_rows_are_as_good_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a shelf is full it is made again, and the rows keep what they hold."""
    monkeypatch.setattr(shelves, "WIDE", 1)
    runner, model = runner_of("llama"), model_of("llama")
    texts = {runner.allocate(40): text(12 + i, seed=i) for i in range(9)}
    for row, tokens in texts.items():
        runner.forward([feed(row, 0, tokens[:-2], logits=0)])

    found = runner.forward([feed(row, len(t) - 2, t[-2:]) for row, t in texts.items()])

    for logits, tokens in zip(found, texts.values(), strict=True):
        close(logits, plain(model, tokens)[-2:], 3e-5)


# -- what is left behind ---------------------------------------------------------------------------


@pytest.mark.usefixtures("kind")
def test_a_row_that_held_nan_is_clean_for_the_next(spare: bool) -> None:  # noqa: FBT001
    """Hidden positions get weight 0, and 0 times NaN is NaN: beside a longer text they are read."""
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    long, bad = runner.allocate(90), runner.allocate(90)
    tokens, fresh = text(80, seed=4), text(9, seed=5)
    runner.forward([feed(long, 0, tokens[:70]), feed(bad, 0, text(70, seed=6))])
    _spoil(runner, bad)

    runner.release(bad)
    again = runner.allocate(20)
    found = runner.forward([feed(long, 70, tokens[70:]), feed(again, 0, fresh)])

    close(found[0], plain(model, tokens)[70:], 3e-5)
    close(found[1], plain(model, fresh), 3e-5)


@pytest.mark.usefixtures("kind")
def test_a_row_that_holds_nan_does_not_change_its_neighbours(spare: bool) -> None:  # noqa: FBT001
    """They are read as one range, and one of them is lost."""
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    texts = [text(20, seed=7), text(24, seed=8), text(16, seed=9)]
    rows = [runner.allocate(40) for _ in texts]
    runner.forward([feed(r, 0, t[:-3], logits=0) for r, t in zip(rows, texts, strict=True)])
    _spoil(runner, rows[1])

    found = runner.forward([feed(r, len(t) - 3, t[-3:]) for r, t in zip(rows, texts, strict=True)])

    assert bool(found[1].isnan().all())
    for which in (0, 2):
        close(found[which], plain(model, texts[which])[-3:], 3e-5)


@pytest.mark.usefixtures("kind")
def test_rows_that_were_only_read_along_hold_nothing_afterwards() -> None:
    """Between two rows of a pass nobody's rows are written too."""
    runner = runner_of("llama")
    rows = [runner.allocate(8) for _ in range(3)]
    runner.forward([feed(row, 0, [1, 2, 3]) for row in rows])
    runner.release(rows[1])
    runner.forward([feed(rows[0], 0, [1, 2]), feed(rows[2], 0, [3])])
    runner.release(rows[0])
    runner.release(rows[2])

    clean = [float(b.abs().sum()) for b in _buffers(runner)]

    assert clean == [0.0] * len(clean)


# -- what cannot be had ----------------------------------------------------------------------------


@mapped_only
def test_only_who_asks_for_what_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    spare: bool,  # noqa: FBT001
) -> None:
    """With the figures; nothing has changed, and the others go on."""
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    tokens = text(20, seed=10)
    row, more = runner.allocate(20), runner.allocate(POSITIONS)
    runner.forward([feed(row, 0, tokens[:10])])
    before = runner.statistics()
    monkeypatch.setattr(shelves, "LOOK_BYTES", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda _: shelves.SPARE_BYTES + 5 * 1024)

    with pytest.raises(PlacementError) as refused:
        runner.forward([feed(row, 10, tokens[10:]), feed(more, 0, [1] * BLOCK)])

    assert str(refused.value) == (
        "no memory on cpu for a sequence of 128 positions: its cache needs 64.0 kB more, 5.0 kB "
        "are free, 2 sequences hold 32.0 kB; serve fewer requests at once, or shorter ones"
    )
    assert runner.statistics() == before
    close(runner.forward([feed(row, 10, tokens[10:])])[0], plain(model, tokens)[10:], 3e-5)


def test_a_plain_row_that_cannot_be_had_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    spare: bool,  # noqa: FBT001
) -> None:
    """Of several layers, some have theirs already when one fails."""
    monkeypatch.setattr(memory, "can_map", lambda _device: False)
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    tokens = text(20, seed=11)
    row = runner.allocate(20)
    runner.forward([feed(row, 0, tokens[:10])])
    before, zeros, left = runner.statistics(), torch.zeros, [0 if spare else 3]

    def full(*shape: Any, **options: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return zeros(*shape, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "zeros", full)
        other = runner.allocate(20)
        with pytest.raises(PlacementError, match="no memory on cpu for a cache of 2 rows of 256"):
            runner.forward([feed(other, 0, [1])])
        runner.release(other)

    assert runner.statistics() == before
    close(runner.forward([feed(row, 10, tokens[10:])])[0], plain(model, tokens)[10:], 3e-5)


# -- what a host asks ------------------------------------------------------------------------------


@pytest.mark.usefixtures("kind")
def test_a_runner_says_what_a_sequence_needs_before_it_is_begun(spare: bool) -> None:  # noqa: FBT001
    """What it really takes when it is that long, one block at most for what pads it included."""
    runner = runner_of("llama", spare=spare)
    for length in (1, BLOCK - 1, BLOCK, POSITIONS):
        asked = runner.room(length)
        row = runner.allocate(length)
        runner.forward([feed(row, 0, [1] * length, logits=1)])

        held = runner.statistics().cache_bytes - asked.used
        assert held <= asked.needed
        assert asked.needed <= math.ceil((length + 1) / BLOCK) * BLOCK * POSITION
        assert asked.free is None or asked.free > 0


# -- what is computed ------------------------------------------------------------------------------


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and first rows of 16 positions: nothing stays where it was for long."""
    monkeypatch.setattr(shelves, "BLOCK", 16)
    monkeypatch.setattr(shelves, "FIRST_PLAIN", 16)


@pytest.mark.slow
@pytest.mark.usefixtures("kind", "_small")
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "bloom"])
@settings(max_examples=10)
@given(data=st.data())
def test_rows_that_move_and_rows_that_stay_have_the_plain_logits(
    architecture: str, data: st.DataObject
) -> None:
    """Three rows, any subset of them a call, any start up to the end."""
    check_feeds_at_will(runner_of(architecture), model_of(architecture), data, tolerance=3e-5)


@pytest.mark.usefixtures("kind")
def test_a_row_that_outgrows_its_place_keeps_what_it_holds(spare: bool) -> None:  # noqa: FBT001
    """Token by token over the end of a block, beside a row that stays."""
    runner, model = runner_of("llama", spare=spare), model_of("llama")
    assert isinstance(runner._network, WrittenForward if spare else LibraryForward)
    tokens, beside = text(BLOCK + 6, seed=12), text(BLOCK + 6, seed=13)[: 2 * 12]
    rows, start = [runner.allocate(POSITIONS), runner.allocate(POSITIONS)], BLOCK - 6
    runner.forward([feed(rows[0], 0, tokens[:start], logits=0)])

    found = [
        runner.forward(
            [feed(rows[0], start + i, tokens[start + i :][:1]), feed(rows[1], i, beside[i : i + 1])]
        )
        for i in range(12)
    ]

    close(torch.cat([one for one, _ in found]), plain(model, tokens)[start:], 3e-5)
    close(torch.cat([other for _, other in found]), plain(model, beside)[:12], 3e-5)


def _buffers(runner: HuggingFaceRunner) -> list[torch.Tensor]:
    """What the cache holds, its first positions: (parts, rows, heads, 160, width)."""
    network = runner._network
    if isinstance(network, WrittenForward):
        found = list(network.store._buffers.values())
    else:
        layers = network.store._layers
        found = [buffer for layer in layers for held in layer._held.values() for buffer in held]
    return [buffer.tensor[:, :, :, :POSITIONS] for buffer in found]


def _spoil(runner: HuggingFaceRunner, number: int) -> None:
    """Have keys and values of a row be NaN, as those of a model that overflowed are."""
    row = runner._rows[number]
    with torch.inference_mode():
        for buffer in _buffers(runner):
            buffer[:, row.slot, :, : row.held] = math.nan
