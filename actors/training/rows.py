"""The rows that a draft is distilled on: text written by its target.

Most rows are drawn at temperature 1, the law the draft should match; some are colder or greedy,
because greedy decoding visits other text (it repeats itself) and must be met there too. Every row
begins with a few tokens of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pearl.actors.training import models
from pearl.actors.training.budget import RowBudget
from pearl.actors.training.windows import Windows
from pearl.actors.training.writing import continued

_TEMPERATURES: Final = (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.7)
_PROMPT_LENGTHS: Final = (16, 48, 8)


def write(
    target: Path, windows: Windows, budget: RowBudget, folder: Path, *, seed: int, device: str
) -> Iterator[int]:
    """Write the batches that are not there yet, one file each; yields after every one."""
    folder.mkdir(parents=True, exist_ok=True)
    # Rounded to bf16 the text is as good, and the lessons ask the exact model what it thinks of it.
    model = models.load(target).to(device, torch.bfloat16)
    for number in range(budget.batches):
        path = folder / f"{number:04d}.npy"
        if not path.exists():
            prompts = torch.from_numpy(_prompts(windows, budget, number)).to(model.device)
            generator = torch.Generator(model.device).manual_seed(seed + number)
            count = budget.length - prompts.shape[1]
            pattern = np.resize(_TEMPERATURES, len(prompts))
            temperatures = torch.tensor(pattern, dtype=torch.float32, device=model.device)
            _save(path, continued(model, prompts, count, temperatures, generator))
        yield number


def gathered(folder: Path) -> NDArray[np.uint16]:
    """All rows of the folder, shape (rows, length)."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def _prompts(windows: Windows, budget: RowBudget, number: int) -> NDArray[np.int64]:
    length = _PROMPT_LENGTHS[number % len(_PROMPT_LENGTHS)]
    first = number * budget.at_once
    return windows.batch(first, budget.at_once, budget.length)[0][:, :length]


def _save(path: Path, rows: Tensor) -> None:
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, rows.cpu().numpy().astype(np.uint16))
    unfinished.replace(path)
