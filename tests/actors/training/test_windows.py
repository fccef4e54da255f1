from __future__ import annotations

import numpy as np
import pytest

from pearl.actors.training.windows import IGNORED, Windows

END_ID = 0
LINE_END = 1


@pytest.fixture
def windows() -> Windows:
    """Documents of 40 tokens: END, then lines of four tokens and a line end."""
    document = [END_ID, *([2, 3, 4, 5, LINE_END] * 8)]
    line_ends = np.zeros(6, dtype=bool)
    line_ends[LINE_END] = True
    return Windows(np.array(document * 50, dtype=np.uint16), line_ends, seed=3, end=END_ID)


def test_every_window_begins_as_every_prompt_does(windows: Windows) -> None:
    inputs, _ = windows.batch(0, 100, 16)

    assert (inputs[:, 0] == END_ID).all()


def test_a_label_is_the_next_input(windows: Windows) -> None:
    inputs, labels = windows.batch(0, 100, 16)

    np.testing.assert_array_equal(
        inputs[:, 1:][labels[:, :-1] != IGNORED], labels[:, :-1][labels[:, :-1] != IGNORED]
    )


def test_a_window_is_the_same_in_any_batch(windows: Windows) -> None:
    """Resuming and sharing the work rest on this: a window has a number and nothing else."""
    together, _ = windows.batch(10, 20, 16)
    alone, _ = windows.batch(17, 1, 16)

    np.testing.assert_array_equal(together[7], alone[0])


def test_the_first_token_is_learned_only_where_a_document_begins(windows: Windows) -> None:
    """What END alone calls forth should be the beginning of a file, not the middle of one."""
    inputs, labels = windows.batch(0, 300, 16)

    learned = labels[:, 0] != IGNORED
    assert 0 < learned.sum() < 300
    assert (inputs[learned, 1] == 2).all()
