"""Tokenizers: what is in them, and which files they are read from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.actors.runners.damage.common import ODD, WIDTH, edit


def tokenizer(at: Path, chance: random.Random) -> str:  # noqa: C901, PLR0912 - a list of ways
    path = at / "tokenizer.json"
    read = json.loads(path.read_text())
    vocab = read["model"]["vocab"]
    what = chance.choice([
        "no model", "other model", "empty vocabulary", "ids shifted", "ids twice", "more tokens",
        "far id", "text id", "negative id", "no merges", "wrong merge", "no decoder",
        "no pre-tokenizer", "wrong decoder", "added tokens", "added text id", "no version",
        "added beyond", "post-processor",
    ])  # fmt: skip
    match what:
        case "no model":
            del read["model"]
        case "other model":
            read["model"]["type"] = chance.choice(["Unigram", "WordLevel", "Magic", None])
        case "empty vocabulary":
            read["model"] |= {"vocab": {}, "merges": []}
        case "ids shifted":
            read["model"]["vocab"] = {token: 1 + number for token, number in vocab.items()}
        case "ids twice":
            read["model"]["vocab"] = {token: number // 2 for token, number in vocab.items()}
        case "more tokens":
            vocab |= {f"word{i}": len(vocab) + 10 + i for i in range(500)}
        case "far id":
            vocab[chance.choice(sorted(vocab))] = 10**9
        case "text id":
            vocab[chance.choice(sorted(vocab))] = "5"
        case "negative id":
            vocab[chance.choice(sorted(vocab))] = -5
        case "no merges":
            del read["model"]["merges"]
        case "wrong merge":
            read["model"]["merges"] = [["zz", "qqqq"]]
        case "no decoder":
            read["decoder"] = None
        case "no pre-tokenizer":
            read["pre_tokenizer"] = None
        case "wrong decoder":
            read["decoder"] = {"type": "Magic"}
        case "added tokens":
            read["added_tokens"] = chance.choice([None, {}, [5], []])
        case "added text id":
            read["added_tokens"] = [{"id": "x", "content": "<x>"}]
        case "added beyond":
            read["added_tokens"].append(_added(WIDTH + 50, "<beyond>"))
        case "no version":
            del read["version"]
        case _:
            read["post_processor"] = {"type": "TemplateProcessing", "single": [], "pair": [],
                                      "special_tokens": {}}  # fmt: skip
    path.write_text(json.dumps(read))
    return what


def _added(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True} | flags


def tokenizer_settings(at: Path, chance: random.Random) -> str:
    name = chance.choice([
        "tokenizer_class", "eos_token", "bos_token", "pad_token", "unk_token", "model_max_length",
        "clean_up_tokenization_spaces", "added_tokens_decoder", "auto_map", "backend",
        "chat_template", "add_bos_token", "extra_special_tokens", "additional_special_tokens",
    ])  # fmt: skip
    value = chance.choice([*ODD, "LlamaTokenizer", "Missing", "T5Tokenizer", "<new>"])
    edit(at / "tokenizer_config.json", lambda config: config.update({name: value}))
    if chance.random() < 0.2:
        (at / "tokenizer.json").unlink()
        return f"{name} = {value!r}, no tokenizer.json"
    return f"{name} = {value!r}"


def other_files(at: Path, chance: random.Random) -> str:
    (at / "tokenizer.json").unlink()
    kind = chance.choice([
        "LlamaTokenizer", "T5Tokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer",
        "TikTokenTokenizer", "PreTrainedTokenizerFast",
    ])  # fmt: skip
    edit(at / "tokenizer_config.json", lambda config: config.update(tokenizer_class=kind))
    files: list[tuple[str, bytes]] = [
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"),
        ("tokenizer.model", b"YQ== 0\nYg== 1\nIA== 2\n"),
        ("vocab.json", b'{"a": 0, "b": 1}'),
        ("spiece.model", b"junk"),
    ]
    name, content = chance.choice(files)
    (at / name).write_bytes(content)
    return f"{kind} of {name} alone"
