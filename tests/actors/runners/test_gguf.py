"""A model in one GGUF file is read like any other, or refused in one line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from pearl.actors import pair
from pearl.actors.runners.describing import describe
from pearl.actors.runners.loading import load_runner
from pearl.actors.runners.vocabulary import load_tokenizer
from pearl.decoding.errors import ModelError
from tests.actors.runners.models import close, feed, plain

LAYERS = 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""What the parts of a model are called there."""


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        rms_norm_eps=1e-5,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and the tokenizer of the embedded pair, in one file."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-5)
    words = json.loads((pair.TARGET / "tokenizer.json").read_text())["model"]
    tokens = sorted(words["vocab"], key=words["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(merge) for merge in words["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weights in model.state_dict().items():
        renamed = name
        for theirs, ours in NAMES.items():
            renamed = renamed.replace(theirs, ours)
        writer.add_tensor(renamed, weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as refused:
        describe(str(path))
    return str(refused.value)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_gguf_file_is_loaded_by_its_path_or_its_folder(
    file: Path, model: Any, capfd: pytest.CaptureFixture[str], *, as_folder: bool
) -> None:
    """The same numbers as in the model that was written, and nothing on the terminal."""
    name = str(file.parent if as_folder else file)

    described, runner = describe(name), load_runner(name)
    logits = runner.forward([feed(runner.allocate(8), 0, [5, 6, 7])])[0]

    assert (described.architecture, described.eos) == ("Qwen2ForCausalLM", (0,))
    assert described.parameters == sum(weights.numel() for weights in model.parameters())
    assert capfd.readouterr() == ("", "")
    close(logits, plain(model, [5, 6, 7]))


def test_the_tokenizer_comes_from_the_same_file(file: Path) -> None:
    """So nothing else is needed beside it."""
    tokenizer, text = load_tokenizer(str(file)), "def f(x):\n    return x"

    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(pair.TARGET).get_vocab()


def test_a_file_that_was_cut_short_is_refused(file: Path, tmp_path: Path) -> None:
    """Before minutes of unpacking."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-5000])

    size = file.stat().st_size
    assert refusal(cut) == f"{cut} was cut short: it should have {size} bytes; copy it again"


def test_a_file_that_is_something_else_is_refused(file: Path, tmp_path: Path) -> None:
    """A page of an error, saved under that name, for one."""
    assert file.exists(), "or the packages are missing, which is another complaint"
    other = tmp_path / "other.gguf"
    other.write_text("<!DOCTYPE html>")

    assert refusal(other).startswith(f"{other} is no GGUF file, or damaged (")


def test_one_part_of_several_is_refused(file: Path, tmp_path: Path) -> None:
    """The library would read that part alone."""
    part = tmp_path / "model-00001-of-00003.gguf"
    part.write_bytes(file.read_bytes())

    assert refusal(part) == f"{part} is one of 3 parts; join them with llama-gguf-split --merge"


def test_of_several_files_one_must_be_named(tmp_path: Path) -> None:
    """They are usually one model in several sizes."""
    for size in ("q4", "q8"):
        (tmp_path / f"model-{size}.gguf").touch()

    assert refusal(tmp_path) == f"{tmp_path} has 2 GGUF files; give the path of one of them"


def test_without_the_packages_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the check, and by whoever asks for the tokenizer."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path = tmp_path / "model.gguf"
    path.touch()

    expected = (
        f"{path} is GGUF, and accelerate and gguf to read it not installed; "
        "pip install 'pearl-decoding[gguf]'"
    )
    assert refusal(path) == expected
    with pytest.raises(ModelError) as refused:
        load_tokenizer(str(path))
    assert str(refused.value) == expected
