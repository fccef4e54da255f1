"""How well the pair fits: how often the target keeps what the draft proposes.

`python -m pearl.actors.pair.measure` repeats the measurement with the shipped pair. The prompts are
the beginnings of held-out files of the standard library, which is on every machine; what is
measured, `pearl.actors.training.measure` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from pearl.actors.pair import DRAFT, TARGET, corpus
from pearl.actors.pair.commands import command
from pearl.actors.training import measure, models
from pearl.actors.training.measure import AcceptanceRates

_LOSS_TOKENS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one model amounts to."""

    parameters: int
    megabytes: float
    nats_a_token: float


def held_out_files(folder: Path) -> list[list[int]]:
    """The held-out files of the standard library, as the tokens of this model folder."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(document.text).ids for document in corpus.held_out_library()]


def size(folder: Path, model: LlamaForCausalLM, stream: np.ndarray) -> Size:
    """Parameters, megabytes on disk and loss on a stream of one shipped model."""
    length = min(512, model.config.max_position_embeddings)
    return Size(
        parameters=models.parameters(model),
        megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        nats_a_token=measure.nats_a_token(model, stream, length),
    )


def compared(
    target: Path, drafts: Mapping[str, Path], *, count: int, tokens: int, seed: int = 1
) -> dict[str, AcceptanceRates]:
    """The agreement of one target with several drafts, all on the same texts."""
    judge = models.load(target)
    beginnings = measure.prompts(held_out_files(target), count, tokens)
    texts = measure.written(judge, beginnings, tokens, seed)
    return {
        name: measure.agreement(judge, models.load(folder), texts, tokens)
        for name, folder in drafts.items()
    }


def sizes(folders: Mapping[str, Path]) -> dict[str, Size]:
    """The size of every model, and its loss on the held-out part of the standard library."""
    files = held_out_files(next(iter(folders.values())))
    stream = np.concatenate([np.array(tokens, np.uint16) for tokens in files])[:_LOSS_TOKENS]
    return {name: size(folder, models.load(folder), stream) for name, folder in folders.items()}


def agreement_table(agreements: Mapping[str, AcceptanceRates]) -> Table:
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
        cells = f"{model.parameters:,}", f"{model.megabytes:.1f}", f"{loss:.3f}"
        table.add_row(name, *cells, f"{math.exp(loss):.1f}")
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
        figures = msgspec.json.encode({"acceptance": agreements, "models": found})
        click.echo(msgspec.json.format(figures, indent=2))
    else:
        Console(width=160).print(agreement_table(agreements), size_table(found))


if __name__ == "__main__":
    main()
