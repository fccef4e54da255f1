"""The embedded pair: a small trained target and its draft, shipped inside the package.

Both are ordinary Hugging Face folders (configuration, safetensors weights in bf16, tokenizer) that
load offline with `AutoModelForCausalLM.from_pretrained(TARGET)`. They continue Python source code;
MODEL_CARD.md beside this file says what they were trained on and how well they agree.

`python -m pearl.actors.pair.train` trains them again, `python -m pearl.actors.pair.measure`
measures how often the target keeps what the draft proposes. This module itself imports neither
torch nor transformers, so that naming the pair costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).parent / "target"
DRAFT: Final = Path(__file__).parent / "draft"

__all__ = ["DRAFT", "TARGET"]
