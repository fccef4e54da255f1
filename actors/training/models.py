"""Folders to models that learn or teach, in fp32: bf16 flips an argmax now and then."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from pearl.decoding.errors import ModelError


def load(folder: Path) -> LlamaForCausalLM:
    """The model of a folder, in fp32, ready to answer and not to learn.

    Raises:
        ModelError: the folder holds no model.
    """
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} holds no config.json; expected a Hugging Face model folder")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval().requires_grad_(requires_grad=False)


def parameters(model: LlamaForCausalLM) -> int:
    """How many numbers the model has learned, tied embeddings counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
