"""Evaluate a model on sets of problems, resumably, with everything it wrote kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cooper.annotation.labelling import plain_verdict, verdict_of
from cooper.data.prompts import PromptBuilder
from cooper.errors import DataError
from cooper.evaluation.answers import Answer, Answerer, Answers
from cooper.evaluation.scores import average_at_k, bootstrap_mean, majority_at_k, pass_at_k
from cooper.journal import Journal
from cooper.progress import progress
from cooper.rng import generator
from cooper.types import Problem


class BenchmarkRun:
    """Answers sets of problems batch by batch into a journal.

    A batch draws from a generator of its own, named by the run's seed, its set and its first
    problem: so what is drawn does not depend on which batches an earlier process did. Another
    batch size is another draw.

    Args:
        answerer: draws and verifies.
        prompts: the policy's prompt template.
        journal: one line a problem; those of earlier processes are taken over.
        batch_size: problems sampled at once.
        seed: of all noise.
    """

    def __init__(
        self,
        answerer: Answerer,
        prompts: PromptBuilder,
        journal: Journal,
        batch_size: int,
        seed: int,
    ) -> None:
        self.answerer = answerer
        self.prompts = prompts
        self.journal = journal
        self.batch_size = batch_size
        self.seed = seed
        self.done = {(row["set"], row["index"]): row for row in journal.entries}

    def answers(self, name: str, problems: Sequence[Problem]) -> list[Answers]:
        """Answers to all problems of a set, those that are missing made now.

        Raises:
            DataError: the journal holds answers to another set of this name.
        """
        self._check(name, problems)
        size = self.batch_size
        with progress(name, len(problems), "problem") as bar:
            for start in range(0, len(problems), size):
                batch = range(start, min(start + size, len(problems)))
                missing = [i for i in batch if (name, i) not in self.done]
                if missing:
                    rng = generator(self.seed, f"{name} {start}")
                    made = self.answerer([self.prompts(problems[i]) for i in batch], rng)
                    rows = [
                        row_of(name, i, len(problems), problems[i], answers)
                        for i, answers in zip(batch, made, strict=True)
                        if i in missing
                    ]
                    self.journal.append(rows)
                    self.done.update({(name, row["index"]): row for row in rows})
                bar.advance(len(batch))
        return [answers_of(self.done[name, i]) for i in range(len(problems))]

    def _check(self, name: str, problems: Sequence[Problem]) -> None:
        for (of, index), row in self.done.items():
            if of != name:
                continue
            there = problems[index] if index < len(problems) else None
            asked = (row["problems"], row["question"], row["reference"])
            if there is None or asked != (len(problems), there.question, there.reference):
                raise DataError(
                    f"{self.journal.path}: holds answers to another set called {name} "
                    f"({row['problems']} problems; problem {index} is {row['id']}); give another "
                    "folder, or the set its old form"
                )


def row_of(name: str, index: int, count: int, problem: Problem, answers: Answers) -> dict[str, Any]:
    """A problem's line in the journal; `count` problems make the set."""
    return {
        "set": name,
        "index": index,
        "problems": count,
        "id": problem.id,
        "question": problem.question,
        "reference": problem.reference,
        "samples": [_plain(answer) for answer in answers.samples],
        "greedy": None if answers.greedy is None else _plain(answers.greedy),
    }


def answers_of(row: Mapping[str, Any]) -> Answers:
    """The same, read back."""
    greedy = row["greedy"]
    return Answers(
        [_answer(one) for one in row["samples"]], None if greedy is None else _answer(greedy)
    )


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "completion": answer.completion,
        "tokens": answer.tokens,
        "finished": answer.finished,
        **plain_verdict(answer.verdict),
    }


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["completion"], row["tokens"], row["finished"], verdict_of(row))


def summarise_answers(
    answers: Sequence[Answers], bootstrap: int, seed: int, name: str
) -> dict[str, Any]:
    """The figures of one set.

    Args:
        answers: of all its problems.
        bootstrap: resamples of the problems for the 95 % interval; 0: none.
        seed: of the resampling.
        name: of the set.

    Returns:
        problems, samples, avg_at_k and its interval, pass_at_1, 2, 4 ... k, maj_at_k, greedy;
        shares of truncated and UNDECIDED samples; mean length in tokens.
    """
    rows = [[sample.verdict for sample in one.samples] for one in answers]
    samples = [sample for one in answers for sample in one.samples]
    k = len(rows[0])
    means = [average_at_k(row) for row in rows]
    found: dict[str, Any] = {
        "problems": len(rows),
        "samples": k,
        f"avg_at_{k}": _mean(means),
        "interval_95": None,
        **{f"pass_at_{j}": _mean([pass_at_k(row, j) for row in rows]) for j in powers_to(k)},
        f"maj_at_{k}": _mean([majority_at_k(row) for row in rows]),
        "greedy": None,
        "truncated": _mean([not sample.finished for sample in samples]),
        "undecided": _mean([not sample.verdict.decided for sample in samples]),
        "mean_tokens": _mean([sample.tokens for sample in samples]),
    }
    if bootstrap:
        rng = generator(seed, f"bootstrap {name}")
        found["interval_95"] = list(bootstrap_mean(means, bootstrap, rng))
    if answers[0].greedy is not None:
        greedy = [one.greedy.verdict.correct for one in answers if one.greedy is not None]
        found["greedy"] = _mean(greedy)
    return found


def powers_to(k: int) -> list[int]:
    """1, 2, 4 ... and k itself."""
    return sorted({*(2**i for i in range(k.bit_length()) if 2**i <= k), k})


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
