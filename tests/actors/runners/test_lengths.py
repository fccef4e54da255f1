"""A position is computed alike whoever reads it with it: also where the rotation knows the length.

The reference is the library's own forward over the text up to that position, alone and without a
cache. A runner must give the same in every batch, window, piece, and after every way back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PhimoeConfig,
)

from pearl.actors.runners import library
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.decoding.errors import ModelError
from tests.actors.runners.models import VOCAB, close, feed, text
from tests.actors.runners.tape import Tape

BORDER: Final = 24
POSITIONS: Final = 96

_SHAPE: Final[dict[str, Any]] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_LONG: Final[dict[str, Any]] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 4.0,
    "short_factor": [1.0, 1.0, 1.1, 1.2],
    "long_factor": [2.0, 3.0, 4.0, 6.0],
    "original_max_position_embeddings": BORDER,
}
_STRETCHED: Final[dict[str, Any]] = {
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": BORDER,
}


def _llama(kind: str, **more: Any) -> LlamaConfig:
    return LlamaConfig(**_SHAPE, rope_parameters={"rope_type": kind, **_STRETCHED, **more})


BY_LENGTH: Final[dict[str, Callable[[], Any]]] = {
    "phi3": lambda: Phi3Config(
        **_SHAPE, original_max_position_embeddings=BORDER, rope_parameters=_LONG
    ),
    "llama": lambda: LlamaConfig(**_SHAPE, rope_parameters=_LONG),
    "phimoe": lambda: PhimoeConfig(
        **_SHAPE,
        num_local_experts=2,
        original_max_position_embeddings=BORDER,
        rope_parameters={**_LONG, "short_mscale": 1.0, "long_mscale": 1.3},
    ),
    # Each kind of layer has a rotation of its own, and only one of them knows the length.
    "gemma3": lambda: Gemma3TextConfig(
        **_SHAPE | {"num_hidden_layers": 7},
        head_dim=8,
        sliding_window=8,
        rope_parameters={
            "full_attention": _LONG,
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
ALIKE: Final[dict[str, Callable[[], Any]]] = {
    "default": lambda: LlamaConfig(**_SHAPE),
    "linear": lambda: _llama("linear"),
    "dynamic": lambda: _llama("dynamic"),
    "yarn": lambda: _llama("yarn"),
    "llama3": lambda: _llama("llama3", low_freq_factor=1.0, high_freq_factor=4.0),
}
"""The rotation is the same at all lengths that the model has; of a dynamic one it is as well."""

every_one = pytest.mark.parametrize("name", BY_LENGTH)


def _made(name: str) -> Any:
    torch.manual_seed(5)
    model: Any = AutoModelForCausalLM.from_config((BY_LENGTH | ALIKE)[name]())
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.15)
    return model.eval()


@cache
def _model(name: str) -> Any:
    """A model that no runner has touched."""
    return _made(name)


def _runner(name: str, **options: Any) -> HuggingFaceRunner:
    return HuggingFaceRunner(_made(name), **options)


def _alone(name: str, tokens: list[int]) -> Tensor:
    """Logits (tokens, vocab); each line is a forward of its own over the text up to there."""
    with torch.no_grad():
        lines = [
            _model(name)(input_ids=torch.tensor([tokens[:end]]), use_cache=False).logits[0, -1:]
            for end in range(1, len(tokens) + 1)
        ]
    return torch.cat(lines)


@every_one
def test_a_text_on_one_side_and_the_same_text_on_the_other_are_not_the_same(name: str) -> None:
    """Or the tests below would claim nothing."""
    tokens = text(BORDER + 1, seed=1)

    with torch.no_grad():
        longer = _model(name)(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, :-1]

    assert (longer - _alone(name, tokens)[:-1]).abs().max() > 0.01


@every_one
def test_the_border_is_found(name: str) -> None:
    lengths = _runner(name)._lengths

    assert lengths is not None
    assert lengths.borders == (BORDER,)


@pytest.mark.parametrize("name", ALIKE)
def test_a_rotation_that_is_the_same_at_every_length_has_no_border(name: str) -> None:
    """Such a model is read as fast as ever."""
    runner = _runner(name)

    assert runner._lengths is None
    tokens = text(POSITIONS, seed=2)
    close(runner.forward([feed(runner.allocate(POSITIONS), 0, tokens)])[0], _alone(name, tokens))


@every_one
@pytest.mark.parametrize("prompt", [1, BORDER - 2, BORDER, BORDER + 1, BORDER + 9])
def test_one_token_after_the_other_has_the_logits_of_the_text_alone(name: str, prompt: int) -> None:
    """The reference of every schedule: the prompt as one, then token by token."""
    runner, tokens = _runner(name), text(BORDER + 14, seed=3)
    row = runner.allocate(len(tokens))

    found = runner.forward([feed(row, 0, tokens[:prompt], logits=1)])
    found += [
        runner.forward([feed(row, at, tokens[at : at + 1])])[0] for at in range(prompt, len(tokens))
    ]

    close(torch.cat(found), _alone(name, tokens)[prompt - 1 :])


@every_one
@pytest.mark.parametrize("width", [2, 5, 11])
def test_a_window_across_the_border_has_them_on_either_side(name: str, width: int) -> None:
    """However it lies, and when it is read a second time."""
    runner, tokens = _runner(name), text(BORDER + 12, seed=4)
    expected, row = _alone(name, tokens), runner.allocate(len(tokens))
    runner.forward([feed(row, 0, tokens[: BORDER - width + 1], logits=0)])

    for start in [*range(BORDER - width + 1, BORDER + 1), BORDER - 1, BORDER - width + 1]:
        window = tokens[start : start + width]
        logits = runner.forward([feed(row, start, window)])[0]

        close(logits, expected[start : start + width])


@every_one
def test_rows_on_both_sides_in_one_call_do_not_change_each_other(name: str) -> None:
    """A short text beside a long one, one that crosses, and a prompt."""
    runner = _runner(name)
    texts = [text(n, seed=n) for n in (9, BORDER + 20, BORDER + 2, BORDER + 7)]
    starts = [6, BORDER + 17, BORDER - 2, 0]
    rows = [runner.allocate(POSITIONS) for _ in texts]
    runner.forward(
        [feed(r, 0, t[:at], logits=0) for r, t, at in zip(rows, texts, starts, strict=True) if at]
    )

    together = runner.forward(
        [feed(r, at, t[at:]) for r, t, at in zip(rows, texts, starts, strict=True)]
    )

    for logits, tokens, at in zip(together, texts, starts, strict=True):
        close(logits, _alone(name, tokens)[at:])


@every_one
@pytest.mark.parametrize("piece", [3, 10, BORDER])
def test_a_prompt_read_in_pieces_has_the_logits_of_one_read_as_a_whole(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the pieces of a runner and those of a host."""
    tokens = text(BORDER + 13, seed=6)
    expected = _alone(name, tokens)[-4:]
    whole = _runner(name)
    by_host, row = _runner(name), 0
    monkeypatch.setattr(library, "PIECE", piece)

    one = whole.forward([feed(whole.allocate(len(tokens)), 0, tokens, logits=4)])[0]
    by_host.allocate(len(tokens))
    for at in range(0, len(tokens) - 4, piece):
        by_host.forward([feed(row, at, tokens[at : at + piece], logits=0)])
    other = by_host.forward([feed(row, len(tokens) - 4, tokens[-4:])])[0]

    close(one, expected)
    close(other, expected)


@every_one
def test_a_restarted_device_reads_all_at_once_and_goes_on_alike(name: str) -> None:
    """Prompt and committed tokens come as one feed; what is written then is what was to come."""
    tokens = text(BORDER + 12, seed=7)
    expected = _alone(name, tokens)

    for died in (BORDER - 3, BORDER, BORDER + 1, BORDER + 6):
        runner = _runner(name)
        row = runner.allocate(len(tokens))
        found = runner.forward([feed(row, 0, tokens[: died + 2], logits=3)])
        found += [
            runner.forward([feed(row, at, tokens[at : at + 1])])[0]
            for at in range(died + 2, len(tokens))
        ]

        close(torch.cat(found), expected[died - 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phi3", "gemma3"])
@pytest.mark.parametrize("taped", [False, True], ids=["", "recorded"])
@settings(max_examples=8)
@given(data=st.data())
def test_whatever_is_fed_and_rolled_back_it_is_the_text_alone(
    name: str, data: st.DataObject, *, taped: bool
) -> None:
    """Three rows around the border, any subset of them a call, any start up to the end."""
    runner = _runner(name, recorder=Tape() if taped else None)
    held: dict[int, list[int]] = {runner.allocate(POSITIONS): [] for _ in range(3)}
    for row in held:
        held[row] = text(BORDER - 4 + 3 * row, seed=row)
    runner.forward([feed(row, 0, tokens, logits=0) for row, tokens in held.items()])
    for _ in range(data.draw(st.integers(1, 4), label="calls")):
        feeds = []
        for row in sorted(data.draw(st.sets(st.sampled_from(sorted(held)), min_size=1))):
            start = data.draw(st.integers(max(0, len(held[row]) - 6), len(held[row])))
            tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6))
            feeds.append(feed(row, start, tokens, data.draw(st.integers(0, len(tokens)))))
            held[row] = held[row][:start] + tokens

        for logits, fed in zip(runner.forward(feeds), feeds, strict=True):
            expected = _alone(name, held[fed.row])
            close(logits, expected[len(expected) - fed.logits :])


def test_passes_are_recorded_on_both_sides() -> None:
    """A replay is told the length as a pass is: one recording serves both."""
    tape, tokens = Tape(), text(BORDER + 8, seed=8)
    runner = _runner("phi3", recorder=tape)
    row, before = runner.allocate(POSITIONS), tape.recorded
    runner.forward([feed(row, 0, tokens[: BORDER - 6], logits=0)])

    found = [
        runner.forward([feed(row, at, tokens[at : at + 1])])[0]
        for at in range(BORDER - 6, len(tokens))
    ]

    close(torch.cat(found), _alone("phi3", tokens)[BORDER - 6 :])
    assert tape.recorded == before + 1


@pytest.mark.parametrize("name", ["phi3", "llama"])
@pytest.mark.parametrize(("prompt", "new"), [(5, 15), (BORDER + 1, 20)])
def test_on_one_side_of_the_border_it_writes_what_generate_writes(
    name: str, prompt: int, new: int
) -> None:
    assert _written(_runner(name), text(prompt, seed=9), new) == _generated(name, prompt, new)


def test_across_the_border_it_writes_what_generate_of_phi3_writes() -> None:
    """There the library reads the text again, as a runner does."""
    prompt, new = BORDER - 6, 24

    assert _written(_runner("phi3"), text(prompt, seed=9), new) == _generated("phi3", prompt, new)


def _written(runner: HuggingFaceRunner, tokens: list[int], new: int) -> list[int]:
    row, written = runner.allocate(POSITIONS), list(tokens)
    fed = feed(row, 0, tokens, logits=1)
    while len(written) < len(tokens) + new:
        token = int(runner.forward([fed])[0][-1].argmax())
        fed = feed(row, len(written), [token])
        written.append(token)
    return written[len(tokens) :]


def _generated(name: str, prompt: int, new: int) -> list[int]:
    ids = torch.tensor([text(prompt, seed=9)])
    written = _model(name).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        min_new_tokens=new,
        eos_token_id=None,
        pad_token_id=0,
    )
    found: list[int] = written[0, prompt:].tolist()
    return found


# -- what is refused -------------------------------------------------------------------------------


def _slowed(model: Any, change: Callable[[Tensor, int], Tensor]) -> Any:
    """A model whose rotation is changed by the length that it sees."""
    rotary = model.model.rotary_emb
    inner = rotary.forward

    def forward(x: Tensor, position_ids: Tensor) -> Any:
        cos, sin = inner(x, position_ids)
        last = int(position_ids.max()) + 1
        return change(cos, last), change(sin, last)

    rotary.forward = forward
    return model


def test_a_model_that_turns_otherwise_at_every_length_is_refused() -> None:
    """Every token would change the keys of all before it."""
    model = _slowed(_made("default"), lambda turned, length: turned * (1 + length / 50))

    with pytest.raises(ModelError) as refused:
        HuggingFaceRunner(model)

    assert str(refused.value) == (
        "LlamaForCausalLM turns positions otherwise at more than 8 lengths of the text, 4, 5, 6 "
        "and others, so tokens cannot be cached; choose a model whose rotation is fixed"
    )


def test_a_border_that_no_configuration_names_is_found_too() -> None:
    """Two of them: the text is read again at each."""
    steps = {BORDER: 1.2, 2 * BORDER: 0.8}

    def change(turned: Tensor, length: int) -> Tensor:
        return turned * next((by for at, by in reversed(steps.items()) if length > at), 1.0)

    model, tokens = _slowed(_made("default"), change), text(2 * BORDER + 6, seed=10)
    expected = torch.cat(
        [
            model(input_ids=torch.tensor([tokens[:end]])).logits[0, -1:].detach()
            for end in range(1, len(tokens) + 1)
        ]
    )

    runner = HuggingFaceRunner(model)

    assert runner._lengths is not None
    assert runner._lengths.borders == (BORDER, 2 * BORDER)
    close(runner.forward([feed(runner.allocate(POSITIONS), 0, tokens)])[0], expected)


def test_a_model_that_knows_the_length_by_other_means_is_refused() -> None:
    """It is tried: a token far behind must change nothing that is not known."""
    model = _made("default")

    def scaled(_: Any, args: Any, kwargs: Any) -> Any:
        far = float(kwargs["position_ids"].max() >= BORDER)
        return (args[0] * (1 + far * torch.rand(args[0].shape[-1])), *args[1:]), kwargs

    model.model.layers[0].register_forward_pre_hook(scaled, with_kwargs=True)

    with pytest.raises(ModelError, match="gives other logits to the same tokens where a text is"):
        HuggingFaceRunner(model)
