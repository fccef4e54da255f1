from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from pearl.actors.pair.recipe import SMALL
from pearl.actors.pair.train import main, make, workshop
from pearl.actors.training.course import Progress


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


class Interrupting:
    """Watches a run and stops it once, in the middle of one stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.seen: list[tuple[str, int]] = []
        self._at = (stage, step)

    def __call__(self, stage: str, now: Progress) -> None:
        self.seen.append((stage, now.step))
        if (stage, now.step) == self._at:
            raise KeyboardInterrupt


def steps(seen: list[tuple[str, int]], stage: str) -> list[int]:
    return [step for name, step in seen if name == stage]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped_and_writes_a_pair(tmp_path: Path) -> None:
    """Training takes an hour; a closed laptop must not cost more than the last checkpoint."""
    interrupting, watching = Interrupting("undistilled", 12), Interrupting("nothing", 0)
    with pytest.raises(KeyboardInterrupt):
        make(workshop(SMALL, tmp_path / "work", "cpu", interrupting), tmp_path / "pair")
    report = make(workshop(SMALL, tmp_path / "work", "cpu", watching), tmp_path / "pair")

    assert steps(watching.seen, "target") == []
    assert steps(watching.seen, "undistilled")[0] in {12, 13}
    assert steps(watching.seen, "draft")[-1] == SMALL.distil_budget.steps
    found = json.loads(report.read_text())["acceptance"]
    assert set(found) == {"draft-2", "draft-1", "draft", "undistilled"}
    for name in ("target", "draft"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "pair" / name, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pair" / name, local_files_only=True)
        assert tokenizer("x = 1")["input_ids"][0] == tokenizer.bos_token_id


def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    result = CliRunner().invoke(main, ["--device", "cuda"])

    assert result.exit_code == 2
    assert "torch sees no CUDA device" in result.output
