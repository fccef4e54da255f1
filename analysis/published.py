"""Published tables as an outside check: does tau describe speeds that others have measured?

    rows = published.read(path)
    print(published.fit(rows).worst)            # 0.058

A table says how long runs were and how many tokens a round yielded, but not with which window.
So one whole gamma is fitted for each pair of models, to all its batch sizes and benchmarks; the
acceptance rate is not fitted, it follows from the run length. What can fail is that one gamma and
no other number describes rows whose acceptance differs widely.

What one fitted number can hide is an error that is the same in all rows of a pair. `without` says
what a row looks like to a gamma that has not seen its benchmark.

Notation: a acceptance rate, tau tokens per target pass.
"""

from __future__ import annotations

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from pearl.analysis.theory import Assumptions, Numbers, expected
from pearl.decoding import files
from pearl.decoding.errors import SettingError
from pearl.decoding.measured import WIDEST

ROUNDS: Final = 100  # of PEARL for each prompt, in nano-PEARL's report
AR_TOKENS: Final = 200  # for each prompt, in its autoregressive rows
AR, PEARL = "AR", "PEARL"
COLUMNS: Final = ("draft", "target", "batch_size", "benchmark", "mode", "tokens",
                  "mean_accepted_tokens")  # fmt: skip


class PublishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One published measurement.

    Args:
        pair: which models; rows of one pair have one window.
        benchmark: which prompts.
        batch_size: requests at the same time.
        mean_accepted_tokens: tokens from one rejection to the next, the replacement included.
        tokens_per_round: tokens of a target pass.
    """

    pair: str
    benchmark: str = ""
    batch_size: int = 1
    mean_accepted_tokens: float
    tokens_per_round: float

    def __post_init__(self) -> None:
        """Refuse what no run gives."""
        for name in ("mean_accepted_tokens", "tokens_per_round"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 1):
                raise SettingError(f"{name} of {self.pair} is {value:g}; it must be 1 or more")

    @property
    def acceptance_rate(self) -> float:
        """A = 1 - 1 / mean_accepted_tokens, for a run has 1 / (1 - a) tokens."""
        return 1 - 1 / self.mean_accepted_tokens


class FittedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A row beside what theory says of it.

    Args:
        gamma: of its pair.
        predicted: tau at the row's acceptance rate.
    """

    row: PublishedRun
    gamma: int
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.row.tokens_per_round - 1


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, with one window for each pair."""

    gammas: dict[str, int]
    rows: tuple[FittedRun, ...]

    @property
    def worst(self) -> float:
        """The largest error, without its sign."""
        return max(abs(fitted.error) for fitted in self.rows)

    @property
    def median(self) -> float:
        """The error that half of the rows do not exceed, without signs."""
        return statistics.median(abs(fitted.error) for fitted in self.rows)


def fit(rows: Iterable[PublishedRun]) -> Fit:
    """The whole gamma of each pair whose largest error, in the logarithm, is the smallest.

    Raises:
        SettingError: there are no rows.
    """
    known = list(rows)
    if not known:
        raise SettingError("the table has no rows of PEARL; a fit needs one for each pair")
    by_pair: dict[str, list[PublishedRun]] = {}
    for row in known:
        by_pair.setdefault(row.pair, []).append(row)
    gammas = {pair: best_gamma(own) for pair, own in by_pair.items()}
    return Fit(gammas=gammas, rows=tuple(_fitted(row, gammas[row.pair]) for row in known))


def without(rows: Iterable[PublishedRun]) -> Fit:
    """The same where each row's gamma is fitted to the other benchmarks of its pair.

    `gammas` are those of all rows. A pair with one benchmark has nothing left to be fitted to, and
    is left out.
    """
    known = list(rows)
    found = []
    for row in known:
        others = [r for r in known if r.pair == row.pair and r.benchmark != row.benchmark]
        if others:
            found.append(_fitted(row, best_gamma(others)))
    return Fit(gammas=fit(known).gammas, rows=tuple(found))


def best_gamma(rows: Sequence[PublishedRun], *, widest: int = WIDEST) -> int:
    """The window from 1 to `widest` whose tau is nearest to the row it is farthest from."""
    gammas = np.arange(1, widest + 1)
    rates = np.array([row.acceptance_rate for row in rows])
    seen = np.log([row.tokens_per_round for row in rows])
    said = np.log(tau(rates[:, None], gammas))
    return int(gammas[np.abs(said - seen[:, None]).max(axis=0).argmin()])


def tau(rate: Numbers, gamma: Numbers) -> Numbers:
    """Tokens of a target pass of PEARL."""
    return expected(Assumptions("pearl", rate, gamma)).tokens_per_pass


def _fitted(row: PublishedRun, gamma: int) -> FittedRun:
    predicted = float(tau(row.acceptance_rate, gamma))
    return FittedRun(row=row, gamma=gamma, predicted=predicted)


# -- files -------------------------------------------------------------------------------------


def read(
    path: pathlib.Path, *, rounds_per_prompt: int = ROUNDS, ar_tokens_per_prompt: int = AR_TOKENS
) -> list[PublishedRun]:
    """The PEARL rows of a table in the layout of nano-PEARL's report, a CSV file.

    It has the columns `draft`, `target`, `batch_size`, `benchmark`, `mode`, `tokens` and
    `mean_accepted_tokens`, in any order and with others between them. Its tokens were produced in
    a fixed number of rounds for each prompt. How many prompts there were it does not say: that is
    read off the autoregressive row of the same pair, batch size and benchmark, which has a fixed
    number of tokens for each prompt.

    Args:
        path: the file.
        rounds_per_prompt: of PEARL rows.
        ar_tokens_per_prompt: of autoregressive rows.

    Raises:
        SettingError: the file cannot be read, a column or an autoregressive row is missing, or a
            number is none.
    """
    lines = list(_lines(path))
    plain = {_place(line): _number(path, n, line, "tokens") for n, line in lines
             if line["mode"] == AR}  # fmt: skip
    return [
        _row(path, number, line, plain, rounds_per_prompt / ar_tokens_per_prompt)
        for number, line in lines
        if line["mode"] == PEARL
    ]


def _lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = files.text(files.read(path))
        with io.StringIO(text, newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                message = f"{path} has no column {missing[0]}; it must have {', '.join(COLUMNS)}"
                raise SettingError(message)
            yield from ((table.line_num, line) for line in table)
    except (OSError, ValueError, csv.Error) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        raise SettingError(f"the table cannot be read from {path}: {why}") from None


def _place(line: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("draft", "target", "batch_size", "benchmark"))


def _row(
    path: pathlib.Path,
    number: int,
    line: Mapping[str, str],
    plain: Mapping[tuple[str, ...], float],
    rounds_per_ar_token: float,
) -> PublishedRun:
    alone = plain.get(_place(line))
    if not alone:
        message = f"{path}, line {number}: no tokens in an autoregressive row of the same run"
        raise SettingError(message)
    rounds = alone * rounds_per_ar_token
    return PublishedRun(
        pair=f"{line['draft']} / {line['target']}",
        benchmark=line["benchmark"],
        batch_size=int(_number(path, number, line, "batch_size")),
        mean_accepted_tokens=_number(path, number, line, "mean_accepted_tokens"),
        tokens_per_round=_number(path, number, line, "tokens") / rounds,
    )


def _number(path: pathlib.Path, number: int, line: Mapping[str, str], name: str) -> float:
    try:
        return float(line[name])
    except (TypeError, ValueError):
        message = f"{path}, line {number}: {name} is {line[name]!r}; it must be a number"
        raise SettingError(message) from None
