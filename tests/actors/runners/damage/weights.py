"""Weight files: their tensors, their headers, their index."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


def _weights(at: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(at.glob("model*.safetensors")))


def tensors(at: Path, chance: random.Random) -> str:  # noqa: C901, PLR0912 - a list of ways
    path = _weights(at, chance)
    tensors = load_file(path)
    name = chance.choice(sorted(tensors))
    what = chance.choice([
        "gone", "renamed", "prefixed", "flat", "one row less", "one more dimension", "transposed",
        "scalar", "empty", "int", "bool", "half", "double", "fp8", "nan", "extra", "all prefixed",
        "all gone", "complex",
    ])  # fmt: skip
    value = tensors.pop(name)
    match what:
        case "renamed":
            tensors[f"{name}_"] = value
        case "prefixed":
            tensors[f"module.{name}"] = value
        case "flat":
            tensors[name] = value.flatten()
        case "one row less":
            tensors[name] = value[:-1].clone()
        case "one more dimension":
            tensors[name] = value[None]
        case "transposed":
            tensors[name] = value.t().contiguous() if value.dim() == 2 else value
        case "scalar":
            tensors[name] = torch.tensor(1.0)
        case "empty":
            tensors[name] = torch.empty(0)
        case "extra":
            tensors |= {name: value, "other.weight": torch.zeros(3)}
        case "all prefixed":
            tensors = {f"module.{key}": each for key, each in {**tensors, name: value}.items()}
        case "all gone":
            tensors = {}
        case "nan":
            tensors[name] = torch.full_like(value, torch.nan)
        case "gone":
            pass
        case _:
            kinds = {"int": torch.int64, "bool": torch.bool, "half": torch.float16}
            kinds |= {"double": torch.float64, "fp8": torch.float8_e4m3fn}
            tensors[name] = value.to(kinds.get(what, torch.complex64))
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{name} in {path.name}: {what}"


def header(at: Path, chance: random.Random) -> str:  # noqa: C901, PLR0912 - a list of ways
    path = _weights(at, chance)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = chance.choice(sorted(set(header) - {"__metadata__"}))
    what = chance.choice([
        "dtype", "small dtype", "shape", "negative", "shifted", "overlapping", "far", "reversed",
        "no offsets", "text", "length", "huge length", "metadata", "twice", "format",
    ])  # fmt: skip
    entry = header[name]
    start, end = entry["data_offsets"]
    match what:
        case "dtype":
            entry["dtype"] = chance.choice(["F99", "f32", "", None, "BF16", "I32"])
        case "small dtype":
            entry["dtype"] = chance.choice(["F4", "F6_E2M3", "F8_E8M0", "U16"])
        case "shape":
            entry["shape"] = chance.choice([[], [0], [-1, 4], [2**40, 2**40], [1.5], "x", None])
        case "negative":
            entry["data_offsets"] = [-8, end]
        case "shifted":
            entry["data_offsets"] = [start + 4, end + 4]
        case "overlapping":
            entry["data_offsets"] = [0, end - start]
        case "far":
            entry["data_offsets"] = [10**15, 10**15 + end - start]
        case "reversed":
            entry["data_offsets"] = [end, start]
        case "no offsets":
            del entry["data_offsets"]
        case "text":
            header[name] = "none"
        case "metadata":
            header["__metadata__"] = chance.choice([{"format": 5}, {}, None, {"format": "tf"}, []])
        case "format":
            header["__metadata__"] = {"format": chance.choice(["np", "mlx", "flax", "?"])}
        case _:
            pass
    text = json.dumps(header).encode()
    if what == "twice":
        text = text[:-1] + b', "' + name.encode() + b'": ' + json.dumps(entry).encode() + b"}"
    said = {"length": len(text) - 3, "huge length": 2**63}.get(what, len(text))
    path.write_bytes(struct.pack("<Q", said) + text + data[8 + length :])
    return f"{name} in {path.name}: {what} {entry}"


def index(at: Path, chance: random.Random) -> str:  # noqa: C901 - a list of ways
    whole = (at / WEIGHTS).is_file()
    if whole:
        names = dict.fromkeys(load_file(at / WEIGHTS), WEIGHTS)
        (at / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    what = chance.choice([
        "as it is", "other shards", "not JSON", "no map", "map is a list", "empty map", "numbers",
        "outside", "a name missing", "a name more", "no metadata", "weights moved",
    ])  # fmt: skip
    read = json.loads((at / INDEX).read_text())
    names = read["weight_map"]
    first = min(names)
    match what:
        case "other shards":
            read["weight_map"] = dict.fromkeys(names, "model-00001-of-00009.safetensors")
        case "no map":
            del read["weight_map"]
        case "map is a list":
            read["weight_map"] = list(names)
        case "empty map":
            read["weight_map"] = {}
        case "numbers":
            names[first] = 5
        case "outside":
            names[first] = "../elsewhere.safetensors"
        case "a name missing":
            del names[first]
        case "a name more":
            names["other.weight"] = names[first]
        case "no metadata":
            read.pop("metadata", None)
        case "weights moved":
            first_file = at / names[first]
            first_file.rename(first_file.with_name("weights.safetensors"))
        case _:
            pass
    (at / INDEX).write_text("{" if what == "not JSON" else json.dumps(read))
    return f"{'beside a whole file' if whole else 'of shards'}: {what}"
