"""How well the pair fits: how often the target keeps what the draft proposes.

`python -m actors.pair.measure` repeats the measurement with the shipped pair. The prompts are the
beginnings of held-out files of the standard library, which is on every machine. The target
continues each of them, once greedily and once at temperature 1, and at every position of its own
text both models say what they would do:

    greedy      the two most likely tokens are the same
    coupled     the tokens drawn with the same Gumbel noise are the same: argmax(log p + G)
    rejection   sum of min(p, q): the chance that rejection sampling keeps a draft token

A figure is the mean over prompts; its interval and spread are over prompts too, because prompts
differ far more than positions do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone reads)
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from actors.pair import DRAFT, TARGET, corpus, models
from actors.pair.commands import command
from actors.pair.writing import continued, gumbel

_NOISES: Final = 8
_LOSS_TOKENS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over prompts, the half-width of its 95 % interval, and how far prompts lie apart."""

    mean: float
    half_width: float
    lowest: float
    highest: float
    prompts: int

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """The spread of one value for each prompt, shape (prompts,)."""
        return cls(
            mean=float(values.mean()),
            half_width=float(1.96 * values.std() / math.sqrt(len(values))),
            lowest=float(values.min()),
            highest=float(values.max()),
            prompts=len(values),
        )

    def __str__(self) -> str:
        return (
            f"{self.mean:.3f} ± {self.half_width:.3f}  "
            f"({self.lowest:.2f} to {self.highest:.2f} over {self.prompts} prompts)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often the target keeps a token of the draft, by the rule that judges it."""

    greedy: Spread
    coupled: Spread
    rejection: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one model amounts to."""

    parameters: int
    megabytes: float
    nats_a_token: float


def prompts(files: Iterable[list[int]], count: int, length: int) -> Tensor:
    """The beginnings of the first `count` files that are long enough, shape (count, length)."""
    long_enough = (tokens[:length] for tokens in files if len(tokens) >= length)
    return torch.tensor(list(islice(long_enough, count)))


def agreement(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, texts: Mapping[str, Tensor], length: int
) -> Agreement:
    """Compare both models on the target's own texts, beyond the first `length` tokens of each."""
    greedy = _log_probabilities(target, draft, texts["greedy"], length)
    sampled = _log_probabilities(target, draft, texts["sampled"], length)
    return Agreement(
        greedy=Spread.of(_same(*greedy)),
        coupled=Spread.of(_coupled(*sampled)),
        rejection=Spread.of(torch.minimum(*sampled).exp().sum(-1).mean(-1)),
    )


def written(
    target: LlamaForCausalLM, beginnings: Tensor, count: int, seed: int
) -> dict[str, Tensor]:
    """What the target makes of the prompts, greedily and at temperature 1."""
    texts = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        temperatures = torch.full((len(beginnings),), temperature)
        generator = torch.Generator().manual_seed(seed)
        texts[name] = continued(target, beginnings, count, temperatures, generator)
    return texts


@torch.inference_mode()
def _log_probabilities(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, rows: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    logits = (model(input_ids=rows, use_cache=False).logits for model in (target, draft))
    p, q = (F.log_softmax(each[:, length - 1 : -1].float(), dim=-1) for each in logits)
    return p, q  # (prompts, positions, vocab) each


def _same(p: Tensor, q: Tensor) -> Tensor:
    return (p.argmax(-1) == q.argmax(-1)).float().mean(-1)


def _coupled(p: Tensor, q: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noises = (gumbel(p, generator) for _ in range(_NOISES))
    return torch.stack([_same(p + noise, q + noise) for noise in noises]).mean(0)


@torch.inference_mode()
def nats_a_token(model: LlamaForCausalLM, stream: np.ndarray, length: int = 512) -> float:
    """Mean cross-entropy on a stream of tokens, read in pieces of `length`."""
    pieces = torch.from_numpy(stream[: len(stream) // length * length].astype(np.int64))
    losses = []
    for rows in torch.split(pieces.view(-1, length), 16):
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        losses.append(
            F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        )
    return float(torch.cat(losses).mean())


def held_out_files(folder: Path) -> list[list[int]]:
    """The held-out files of the standard library, as the tokens of this model folder."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(document.text).ids for document in corpus.held_out_library()]


def size(folder: Path, model: LlamaForCausalLM, stream: np.ndarray) -> Size:
    """Parameters, megabytes on disk and loss on a stream of one shipped model."""
    return Size(
        parameters=models.parameters(model),
        megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        nats_a_token=nats_a_token(model, stream, min(512, model.config.max_position_embeddings)),
    )


def compared(
    target: Path, drafts: Mapping[str, Path], *, count: int, tokens: int, seed: int = 1
) -> dict[str, Agreement]:
    """The agreement of one target with several drafts, all on the same texts."""
    judge = models.load(target)
    beginnings = prompts(held_out_files(target), count, tokens)
    texts = written(judge, beginnings, tokens, seed)
    return {
        name: agreement(judge, models.load(folder), texts, tokens)
        for name, folder in drafts.items()
    }


def sizes(folders: Mapping[str, Path]) -> dict[str, Size]:
    """The size of every model, and its loss on the held-out part of the standard library."""
    files = held_out_files(next(iter(folders.values())))
    stream = np.concatenate([np.array(tokens, np.uint16) for tokens in files])[:_LOSS_TOKENS]
    return {name: size(folder, models.load(folder), stream) for name, folder in folders.items()}


def agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    """One row for each draft, one column for each rule."""
    table = Table("draft", "greedy", "coupled, T=1", "rejection, T=1", title="acceptance")
    for name, found in agreements.items():
        table.add_row(name, str(found.greedy), str(found.coupled), str(found.rejection))
    return table


def size_table(found: Mapping[str, Size]) -> Table:
    """One row for each model."""
    table = Table(
        "model", "parameters", "MB", "nats a token", "perplexity", title="held-out Python"
    )
    for name, model in found.items():
        loss = model.nats_a_token
        row = (
            f"{model.parameters:,}",
            f"{model.megabytes:.1f}",
            f"{loss:.3f}",
            f"{math.exp(loss):.1f}",
        )
        table.add_row(name, *row)
    return table


_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--target", type=_FOLDER, default=TARGET, help="Folder of the target.")
@click.option(
    "--draft", "drafts", type=_FOLDER, multiple=True, help="Folder of a draft; repeatable."
)
@click.option("--prompts", "count", default=40, show_default=True, help="How many prompts.")
@click.option("--tokens", default=128, show_default=True, help="Tokens read and tokens written.")
@click.option("--json", "as_json", is_flag=True, help="Print figures for a machine.")
def main(target: Path, drafts: tuple[Path, ...], count: int, tokens: int, *, as_json: bool) -> None:
    """Measure how often the target keeps what a draft proposes."""
    folders = {folder.name: folder for folder in drafts or (DRAFT,)}
    with command():
        agreements = compared(target, folders, count=count, tokens=tokens)
        found = sizes({"target": target, **folders})
    if as_json:
        figures = {"acceptance": agreements, "models": found}
        click.echo(json.dumps(figures, default=asdict, indent=2))
    else:
        Console(width=160).print(agreement_table(agreements), size_table(found))


if __name__ == "__main__":
    main()
