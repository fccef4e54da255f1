"""Drafts whose tokens are not all the target's."""

from __future__ import annotations

import json
from pathlib import Path


def swap(draft: Path, *pairs: tuple[int, int]) -> None:
    """Give tokens each other's ids, in the tokenizer alone: the weights know nothing of it."""
    path = draft / "tokenizer.json"
    read = json.loads(path.read_text())
    vocab = read["model"]["vocab"]
    names = {number: token for token, number in vocab.items()}
    for left, right in pairs:
        vocab |= {names[left]: right, names[right]: left}
    path.write_text(json.dumps(read))
