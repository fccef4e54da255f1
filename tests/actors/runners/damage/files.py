"""Files that are cut, replaced or beside one another, and settings that say something else."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, Final

from tests.actors.runners.damage.common import ODD, WIDTH, edit


def _some_file(at: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in at.iterdir() if path.is_file()))


def flip(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    data = bytearray(path.read_bytes())
    count = chance.choice([1, 3, 30])
    end = min(len(data), 2000) if chance.random() < 0.7 else len(data)
    for _ in range(count):
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{count} bits of {path.name} among its first {end} bytes"


def truncate(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    data = path.read_bytes()
    keep = chance.choice([0, 1, 7, 8, 9, len(data) // 2, len(data) - 1, len(data) - 64])
    path.write_bytes(data[: max(0, keep)])
    return f"{path.name} to {keep} bytes"


def append(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    path.write_bytes(path.read_bytes() + chance.choice([b"\0", b"}", b"\n", b"x" * 100]))
    return path.name


def remove(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    path.unlink()
    return path.name


def replace(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    path.unlink()
    what = chance.choice(["folder", "loop", "nowhere", "list", "null", "text", "utf-16", "bom"])
    match what:
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("/nonexistent/file")
        case "list":
            path.write_text("[1, 2]")
        case "null":
            path.write_text("null")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "utf-16":
            path.write_bytes('{"a": 1}'.encode("utf-16"))
        case _:
            path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    return f"{path.name} is {what}"


def forbid(at: Path, chance: random.Random) -> str:
    path = _some_file(at, chance)
    os.chmod(path, 0)  # noqa: PTH101 - of no effect for root, who reads everything
    return path.name


def stray(at: Path, chance: random.Random) -> str:
    name, content = chance.choice([
        ("generation_config.json", "{"),
        ("generation_config.json", "[]"),
        ("generation_config.json", '{"eos_token_id": "end"}'),
        ("generation_config.json", '{"temperature": -3, "do_sample": true}'),
        ("special_tokens_map.json", "{"),
        ("special_tokens_map.json", '{"eos_token": 5}'),
        ("added_tokens.json", "{"),
        ("added_tokens.json", '{"<x>": "y"}'),
        ("chat_template.jinja", "{% if %}"),
        ("chat_template.json", "{"),
        ("preprocessor_config.json", "{"),
        ("adapter_config.json", "{}"),
        ("adapter_config.json", '{"base_model_name_or_path": "nowhere", "peft_type": "LORA"}'),
        ("tokenizer.model", "junk"),
        ("vocab.json", "{"),
        ("merges.txt", "junk"),
        ("model.safetensors.index.json.bak", "{"),
        ("consolidated.safetensors", "junk"),
        ("model-extra.safetensors", "junk"),
    ])  # fmt: skip
    (at / name).write_text(content)
    return f"{name}: {content}"


NAMES: Final = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act",
    "tie_word_embeddings", "model_type", "architectures", "eos_token_id", "bos_token_id",
    "pad_token_id", "dtype", "torch_dtype", "rope_parameters", "rope_theta", "rope_scaling",
    "layer_types", "attention_bias", "sliding_window", "initializer_range", "use_cache",
    "is_encoder_decoder", "auto_map", "quantization_config", "n_embd", "n_head", "n_layer",
    "n_positions", "num_local_experts", "num_experts_per_tok", "_attn_implementation",
    "transformers_weights", "is_decoder", "attention_dropout", "mlp_bias", "text_config",
)  # fmt: skip


def retype(at: Path, chance: random.Random) -> str:
    name, value = chance.choice(NAMES), chance.choice(ODD)
    edit(at / "config.json", lambda config: config.update({name: value}))
    return f"{name} = {value!r}"


def drop_key(at: Path, chance: random.Random) -> str:
    names = sorted(json.loads((at / "config.json").read_text()))
    name = str(chance.choice(names))
    edit(at / "config.json", lambda config: config.pop(name))
    return name


def reshape(at: Path, chance: random.Random) -> str:
    name = chance.choice([
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "hidden_size", "vocab_size", "intermediate_size", "n_layer", "n_head", "n_embd",
        "num_local_experts", "num_experts_per_tok",
    ])  # fmt: skip
    value = chance.choice([0, 1, 2, 3, 5, 8, 17, 64, 4097, 10**5, 10**9])
    edit(at / "config.json", lambda config: config.update({name: value}))
    return f"{name} = {value}"


def rotate(at: Path, chance: random.Random) -> str:
    value: dict[str, Any] = chance.choice([
        {"rope_type": "default", "rope_theta": 0},
        {"rope_type": "default", "rope_theta": -1.0},
        {"rope_type": "default", "rope_theta": 1e300},
        {"rope_type": "default", "rope_theta": "ten"},
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 0.0, "rope_theta": 1e4},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e4},
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": -2.0, "rope_theta": 1e4},
        {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4},
        {"rope_type": "longrope", "factor": 8.0, "rope_theta": 1e4, "short_factor": [1.0]},
        {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.0],
         "long_factor": [2.0, 2.0], "original_max_position_embeddings": 32},
        {"rope_type": "spiral", "rope_theta": 1e4},
        {"type": "linear", "factor": 2.0},
        {"mrope_section": [1, 1], "rope_type": "default", "rope_theta": 1e4},
    ])  # fmt: skip
    name = chance.choice(["rope_parameters", "rope_scaling"])
    edit(at / "config.json", lambda config: config.update({name: value}))
    return f"{name} = {value}"


def quantise(at: Path, chance: random.Random) -> str:
    value = chance.choice([
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
        {"quant_method": "fp8"}, {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"load_in_8bit": True}, {"bits": 4}, {}, {"quant_method": None},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "mxfp4"}, {"quant_method": "hqq"}, {"quant_method": "quanto"},
        {"quant_method": "torchao"}, {"quant_method": "aqlm"}, {"quant_method": "exl2"},
        {"quant_method": "bitnet"}, {"quant_method": "modelopt"}, {"group_size": 64, "bits": 4},
        {"quant_method": "gptq", "bits": 77}, {"quant_method": "eetq"}, "gptq", [4],
    ])  # fmt: skip
    edit(at / "config.json", lambda config: config.update(quantization_config=value))
    return str(value)


def ends(at: Path, chance: random.Random) -> str:
    value = chance.choice([
        WIDTH, 10**9, 10**30, -1, "0", "end", [], [0, "x"], [[0]], {"a": 1}, 1.5, True, [None],
        [-1], float("nan"),
    ])  # fmt: skip
    name = chance.choice(["eos_token_id", "bos_token_id", "pad_token_id"])
    path = at / chance.choice(["config.json", "generation_config.json"])
    if not path.is_file():
        path.write_text("{}")
    edit(path, lambda config: config.update({name: value}))
    return f"{path.name}: {name} = {value!r}"
