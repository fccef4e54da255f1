"""Train the embedded pair: one command, from nothing to two folders.

    python -m pearl.actors.pair.train

    corpus      Python sources on this machine     -> train.npy, held_out.npy, tokenizer.json
    target      reads the corpus                   -> target/
    draft       reads the corpus                   -> undistilled/
    rows        the target writes                  -> rows-0.npy
    distil      the draft imitates the target      -> draft/
    meetings, each of three stages:
      approach  the target comes towards the draft -> target-1/, target-2/
      rows      that target writes                 -> rows-1.npy, rows-2.npy
      follow    the draft imitates that target     -> draft-1/, draft-2/
    measure     how often they agree               -> report.json, and both folders go to --out

A stage whose result is there is not done again, and an interrupted stage goes on where it stopped:
run the same command again. `--small` goes through all of it in seconds with tiny models.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import click
import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from pearl.actors.pair import TARGET, corpus, measure, models, tokenizer
from pearl.actors.pair.commands import command
from pearl.actors.pair.recipe import FULL, SMALL, LlamaShape, Recipe
from pearl.actors.pair.tokenizer import END_ID
from pearl.actors.training import course as courses
from pearl.actors.training import rows
from pearl.actors.training.budget import Budget
from pearl.actors.training.lessons import Imitation, Lesson, Reading
from pearl.actors.training.measure import nats_a_token
from pearl.actors.training.models import load
from pearl.actors.training.windows import Windows
from pearl.decoding.errors import SettingError

Watch = Callable[[str, courses.Progress], None]

_COLUMNS: Final = (
    TextColumn("{task.description:12}"),
    BarColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)
_COMPILERS: Final = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where the pair is made: a recipe, a folder for everything on the way, and the machine."""

    recipe: Recipe
    folder: Path
    device: str
    members: int
    compiled: bool
    watch: Watch

    def read_corpus(self) -> None:
        """Collect the corpus, learn the tokenizer, and write both as streams of tokens."""
        if (self.folder / "corpus.json").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = _corpus(self.recipe)
        train = [document for document in found.documents if not document.held_out]
        held_out = [document for document in found.documents if document.held_out]
        # A third of the corpus gives the same merges as all of it, in a third of the time.
        bpe = tokenizer.learned((document.text for document in train[::3]), self.recipe.vocabulary)
        bpe.save(str(self.folder / "tokenizer.json"))
        texts = (bpe.decode([i], skip_special_tokens=False) for i in range(bpe.get_vocab_size()))
        line_ends = np.array([text.endswith("\n") for text in texts])
        np.save(self.folder / "line_ends.npy", line_ends)
        np.save(self.folder / "held_out.npy", tokenizer.encoded(bpe, held_out))
        np.save(self.folder / "train.npy", tokenizer.encoded(bpe, train))
        shares = {"used": found.shares, "left_out": found.refused}
        (self.folder / "corpus.json").write_text(json.dumps(shares, default=asdict, indent=2))

    def train_target(self) -> None:
        """Let the target read the corpus."""
        recipe = self.recipe
        self._read("target", recipe.target, recipe.target_budget, recipe.seed)

    def train_draft(self) -> None:
        """Let the draft read the corpus."""
        recipe = self.recipe
        self._read("undistilled", recipe.draft, recipe.draft_budget, recipe.seed + 1)

    def write_rows(self, meeting: int = 0) -> None:
        """Let the target write what the draft will imitate it on."""
        path = self.folder / f"rows-{meeting}.npy"
        if path.exists():
            return
        budget, seed, parts = self.recipe.rows, self.recipe.seed + meeting, path.with_suffix("")
        target = self.folder / self._target(meeting)
        # Another seed than the lessons': the rows begin elsewhere than the windows that were read.
        windows = Windows.read(self.folder, seed=seed + 7, end=END_ID)
        for number in rows.write(target, windows, budget, parts, seed=seed, device=self.device):
            done = (number + 1) / budget.batches
            self.watch(path.stem, courses.Progress(fraction=done, step=number + 1))
        np.save(path, rows.gathered(parts))

    def distil_draft(self) -> None:
        """Let the draft imitate the target on the target's own text."""
        budget = self.recipe.distil_budget
        lesson = self._imitation(budget, ("target",), meeting=0, corpus=False)
        self._learn("draft", self._learned("undistilled"), budget, lesson)

    def meet(self, meeting: int) -> None:
        """Let target and draft come closer, and the draft read what the target now writes."""
        self._approach(meeting)
        self.write_rows(meeting)
        self._follow(meeting)

    def _approach(self, meeting: int) -> None:
        """Let the target come towards the draft: it learns a mean of its own law and the draft's.

        A draft an eighth of the size cannot follow everywhere; the target can. Its text gets
        plainer, and the two agree more often.
        """
        budget = self.recipe.meetings[meeting - 1].approach
        target, draft = self._target(meeting - 1), self._draft(meeting - 1)
        teachers = (target, *([draft] * self.recipe.weight_of_draft))
        lesson = self._imitation(budget, teachers, meeting=meeting - 1, corpus=True)
        self._learn(self._target(meeting), self._learned(target), budget, lesson)

    def _follow(self, meeting: int) -> None:
        """Let the draft imitate the target it will have, on the corpus as much as on its text.

        Rows that are read often are learned by heart; the corpus is long enough to stay new.
        """
        budget = self.recipe.meetings[meeting - 1].follow
        lesson = self._imitation(budget, (self._target(meeting),), meeting=meeting, corpus=True)
        draft = self._learned(self._draft(meeting - 1))
        self._learn(self._draft(meeting), draft, budget, lesson)

    def measure(self) -> Path:
        """Write report.json: the corpus, the courses, the sizes and the agreement."""
        last = len(self.recipe.meetings)
        named = [self._draft(meeting) for meeting in range(last, -1, -1)]
        drafts = {name: self.folder / name for name in (*named, "undistilled")}
        targets = [self._target(meeting) for meeting in range(last, -1, -1)]
        agreements = measure.compared(
            self.folder / targets[0],
            drafts,
            count=self.recipe.measured_prompts,
            tokens=self.recipe.measured_tokens,
        )
        names = (*targets, *drafts)
        report = {
            "acceptance": agreements,
            "models": measure.sizes({name: self.folder / name for name in names}),
            "losses": self._losses(names),
            "courses": {name: _read_json(self.folder / f"{name}.json") for name in names},
            "corpus": _read_json(self.folder / "corpus.json"),
            "recipe": self.recipe,
        }
        path = self.folder / "report.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
        return path

    def deliver(self, out: Path) -> None:
        """Copy both finished folders to where they are used."""
        last = len(self.recipe.meetings)
        for made, name in ((self._target(last), "target"), (self._draft(last), "draft")):
            shutil.copytree(self.folder / made, out / name, dirs_exist_ok=True)

    @staticmethod
    def _target(meeting: int) -> str:
        return f"target-{meeting}" if meeting else "target"

    @staticmethod
    def _draft(meeting: int) -> str:
        return f"draft-{meeting}" if meeting else "draft"

    def _learned(self, name: str) -> LlamaForCausalLM:
        """A model that goes on learning."""
        model = load(self.folder / name).to(self.device)
        return model.train().requires_grad_(requires_grad=True)

    def _read(self, name: str, shape: LlamaShape, budget: Budget, seed: int) -> None:
        """Let a new model read the corpus."""
        recipe = self.recipe
        model = models.untrained(shape, recipe.vocabulary, recipe.positions, seed).to(self.device)
        lesson = Reading(
            folder=self.folder,
            tokens_per_part=budget.tokens_per_step // budget.parts,
            parts=budget.parts,
            seed=recipe.seed,
            end=END_ID,
            compiled=self.compiled,
        )
        self._learn(name, model, budget, lesson)

    def _learn(self, name: str, model: LlamaForCausalLM, budget: Budget, lesson: Lesson) -> None:
        record = self.folder / f"{name}.json"
        if record.exists():
            return
        course = courses.Course(model, budget, self.folder / f"{name}.pt")
        watch = functools.partial(self.watch, name)
        end = course.run(lesson, members=self.members, report=watch)
        bpe = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        models.save(model, bpe, self.folder / name)
        record.write_text(json.dumps(asdict(end), indent=2))

    def _imitation(
        self, budget: Budget, teachers: Sequence[str], *, meeting: int, corpus: bool
    ) -> Lesson:
        return Imitation(
            rows=tuple(self.folder / f"rows-{number}.npy" for number in range(meeting + 1)),
            teachers=tuple(self.folder / name for name in teachers),
            corpus=self.folder if corpus else None,
            tokens_per_part=budget.tokens_per_step // budget.parts,
            parts=budget.parts,
            seed=self.recipe.seed + meeting,
            end=END_ID,
            compiled=self.compiled,
        )

    def _losses(self, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        streams = {
            "train": np.load(self.folder / "train.npy")[:60_000],
            "held_out": np.load(self.folder / "held_out.npy")[:60_000],
        }
        length = min(512, self.recipe.positions)
        return {
            name: {
                part: nats_a_token(load(self.folder / name), stream, length)
                for part, stream in streams.items()
            }
            for name in names
        }


def _corpus(recipe: Recipe) -> corpus.Corpus:
    used, refused = corpus.packages() if recipe.characters_per_package else ([], [])
    found = corpus.collect(
        [corpus.standard_library(), *used], refused, recipe.characters_per_package
    )
    return replace(found, documents=found.documents[: recipe.documents])


def _read_json(path: Path) -> object:
    return json.loads(path.read_text())


def make(workshop: Workshop, out: Path) -> Path:
    """Every stage in order; returns the report."""
    workshop.read_corpus()
    workshop.train_target()
    workshop.train_draft()
    workshop.write_rows()
    workshop.distil_draft()
    for meeting in range(1, len(workshop.recipe.meetings) + 1):
        workshop.meet(meeting)
    report = workshop.measure()
    workshop.deliver(out)
    return report


class _Bars:
    """One progress bar for each stage that has begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, stage: str, now: courses.Progress) -> None:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=1.0, note="")
        note = f"step {now.step}"
        note += f", {now.tokens / 1e6:.1f} M tokens, {now.loss:.3f} nats" if now.tokens else ""
        self._progress.update(self._bars[stage], completed=now.fraction, note=note)


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("device is cuda, and torch sees no CUDA device; expected auto or cpu")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _recipe(minutes: float | None, draft: float | None, imitation: float | None) -> Recipe:
    asked = {"target_budget": minutes, "draft_budget": draft, "distil_budget": imitation}
    given = {name: count for name, count in asked.items() if count is not None}
    return replace(FULL, **{n: replace(getattr(FULL, n), minutes=m) for n, m in given.items()})


def workshop(recipe: Recipe, folder: Path, device: str, watch: Watch) -> Workshop:
    """A workshop that uses this machine as well as it can."""
    small = recipe == SMALL
    cores = 1 if small or device == "cuda" else os.cpu_count() or 1
    return Workshop(
        recipe=recipe,
        folder=folder,
        device=device,
        members=min(cores, recipe.target_budget.parts),
        compiled=not small and any(map(shutil.which, _COMPILERS)),
        watch=watch,
    )


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where target/ and draft/ are written."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/pair"),
    show_default=True,
    help="Checkpoints and everything on the way.",
)
@click.option("--minutes", type=click.FloatRange(min=0.01), help="Training time of the target.")
@click.option(
    "--draft-minutes", type=click.FloatRange(min=0.01), help="Training time of the draft."
)
@click.option("--distil-minutes", type=click.FloatRange(min=0.01), help="Time for distilling it.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--small", is_flag=True, help="All stages in seconds, with tiny models.")
def main(
    *,
    out: Path | None,
    work: Path,
    minutes: float | None,
    draft_minutes: float | None,
    distil_minutes: float | None,
    device: str,
    small: bool,
) -> None:
    """Train the embedded pair again, going on where an earlier run stopped."""
    recipe = SMALL if small else _recipe(minutes, draft_minutes, distil_minutes)
    if out is None:
        out = work / "small" if small else TARGET.parent
    folder = work / "small-run" if small else work
    console = Console()
    with command(), Progress(*_COLUMNS, console=console) as progress:
        report = make(workshop(recipe, folder, _device(device), _Bars(progress)), out)
    console.print(f"written: {out / 'target'}, {out / 'draft'}; figures: {report}")


if __name__ == "__main__":
    main()
