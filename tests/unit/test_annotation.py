"""Labels by rule and judge: counts by hand, each verdict asked once, files that are whole."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_cohen_kappa

from cooper.annotation import Agreement, Labelling, cohen_kappa, read_items
from cooper.annotation.folder import SHOWN, AnnotationFolder, disagreements
from cooper.annotation.generation import CompletionGenerator
from cooper.annotation.items import Item, digest_of
from cooper.annotation.report import summarise
from cooper.chat import ChatModel, ChatReply
from cooper.data.labelled import read_labelled, to_row
from cooper.data.tables import BadRows
from cooper.errors import DataError
from cooper.journal import Journal
from cooper.types import Status, Verdict
from cooper.verifiers import ExactVerifier, Verifier
from cooper.verifiers.base import check_lengths

STATUS = {"C": Status.CORRECT, "I": Status.INCORRECT, "U": Status.UNDECIDED}


class Scripted(Verifier):
    """Says what a letter in the completion tells it to, and counts what it is asked."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.asked = Counter[str]()

    def verify(self, completions, references, questions=None):
        check_lengths(completions, references, questions)
        self.asked.update(completions)
        letters = [text[self.place] for text in completions]
        return [Verdict(STATUS[x], f"scripted {x}", x.lower()) for x in letters]


def scripted_items(*texts: str) -> list[Item]:
    """Items whose completion begins with the rule's letter and the judge's."""
    return [Item(f"f, line {i}", f"r{i}", "q", "7", text, "s") for i, text in enumerate(texts, 1)]


def label(folder: Path, items, rule=None, judge=None, **settings):
    journal = Journal(folder / "verdicts.journal")
    labelling = Labelling(items, rule=rule or Scripted(0), judge=judge, journal=journal, **settings)
    labelling.run()
    journal.close()
    return list(labelling.outcomes())


# ---------------------------------------------------------------- agreement


def test_kappa_by_hand():
    # p_o = 35/50; p_e = (25*30 + 25*20)/50^2 = 1/2; (0.7 - 0.5) / (1 - 0.5)
    assert cohen_kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert cohen_kappa(0, 5, 5, 0) == pytest.approx(-1.0)
    assert cohen_kappa(7, 0, 0, 3) == 1.0
    assert cohen_kappa(4, 4, 4, 4) == 0.0


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (9, 0, 0, 0), (0, 0, 0, 9)])
def test_kappa_is_not_defined_without_rows_or_with_one_label(counts):
    assert cohen_kappa(*counts) is None


def test_kappa_is_torchmetrics():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, c, d = (int(n) for n in rng.integers(1, 40, 4))
        first = torch.tensor([1] * (a + b) + [0] * (c + d))
        second = torch.tensor([1] * a + [0] * b + [1] * c + [0] * d)
        expected = float(binary_cohen_kappa(first, second))
        assert cohen_kappa(a, b, c, d) == pytest.approx(expected, abs=1e-6)


def test_matrix_by_hand(verdicts_of):
    agreement = Agreement()
    for rule, judge in zip(verdicts_of("CCCIIUU"), verdicts_of("CCIIUCU"), strict=True):
        agreement.add(rule, judge)
    assert agreement.matrix() == {
        "correct": {"correct": 2, "incorrect": 1, "undecided": 0},
        "incorrect": {"correct": 0, "incorrect": 1, "undecided": 1},
        "undecided": {"correct": 1, "incorrect": 0, "undecided": 1},
    }
    assert agreement.decided == 4
    assert agreement.share == 0.75
    # 3/4 agree; expected (3*2 + 1*2)/16 = 1/2
    assert agreement.kappa == pytest.approx(0.5)


# ---------------------------------------------------------------- rows


def write(folder: Path, *rows, name="set.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_forms_of_rows(tmp_path):
    path = write(
        tmp_path,
        {"question": "q1", "reference_answer": "1", "completion": "a", "id": 17, "source": "s"},
        {"problem": "q2", "solution": 2, "response": "", "label": 0},
        {"prompt": "q3", "answer": "3", "completions": ["x", "y"], "id": "three"},
        {
            "data_source": "gsm8k",
            "prompt": [
                {"role": "system", "content": "be good"},
                {"role": "user", "content": "q4"},
            ],
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "responses": ["z"],
        },
    )
    found = [
        (i.id, i.question, i.reference, i.completion, i.source, i.label) for i in read_items(path)
    ]
    assert found == [
        ("17", "q1", "1", "a", "s", None),
        ("set:2", "q2", "2", "", "set", False),
        ("three/0", "q3", "3", "x", "set", None),
        ("three/1", "q3", "3", "y", "set", None),
        ("set:4/0", "q4", "4", "z", "gsm8k", None),
    ]


def test_columns_of_other_names(tmp_path):
    path = write(tmp_path, {"q": "1+1", "gold": "2", "outs": ["2", "3"], "answer": "no"})
    items = read_items(path, question_column="q", reference_column="gold", completion_column="outs")
    assert [(i.question, i.reference, i.completion) for i in items] == [
        ("1+1", "2", "2"),
        ("1+1", "2", "3"),
    ]


GOOD = {"question": "q", "answer": "1", "completion": "c"}
BROKEN = {
    "json": ('{"question": ', ["line 2", "broken JSON", "column"]),
    "no completion": ({"question": "q", "answer": "1"}, ["line 2", "no column 'completion'"]),
    "no reference": ({"question": "q", "completion": "1"}, ["line 2", "'reference_answer'"]),
    "empty question": ({**GOOD, "question": " "}, ["line 2", "column 'question' is ' '"]),
    "empty list": (
        {"question": "q", "answer": "1", "completions": []},
        ["line 2", "column 'completions' is an empty list"],
    ),
    "text in a list": (
        {"question": "q", "answer": "1", "completions": ["a", {"b": 1}]},
        ["line 2", "column 'completions[1]'"],
    ),
    "label": ({**GOOD, "label": "yes"}, ["line 2", "column 'label' is 'yes'"]),
    "one label for several": (
        {"question": "q", "answer": "1", "completions": ["a"], "label": 1},
        ["line 2", "one label for a list"],
    ),
    "conversation without a user": (
        {**GOOD, "question": [{"role": "system", "content": "x"}]},
        ["line 2", "role 'user'"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rows_are_named(tmp_path, case):
    row, expected = BROKEN[case]
    path = write(tmp_path, GOOD, row)
    with pytest.raises(DataError) as caught:
        read_items(path)
    for text in expected:
        assert text in str(caught.value)
    bad = BadRows(skip=True)
    assert len(read_items(path, bad=bad)) == 1
    assert bad.count == 1
    assert expected[0] in bad.first


def test_digest_tells_contents_apart_and_not_names(tmp_path):
    one, two = (read_items(write(tmp_path, GOOD, {**GOOD, "id": x})) for x in "ab")
    other = read_items(write(tmp_path, {**GOOD, "completion": "d"}, GOOD))
    assert digest_of(one) == digest_of(two) != digest_of(other)


# ---------------------------------------------------------------- journal


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append([{"a": 1}, {"b": "\ud83d \u00e9"}])
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        lines = whole[:cut].count(b"\n")
        assert journal.entries == [{"a": 1}, {"b": "\ud83d \u00e9"}][:lines]
        journal.append([{"c": 2}])
        journal.close()
        assert path.read_bytes() == b"".join(whole.splitlines(True)[:lines]) + b'{"c": 2}\n'


def test_a_journal_broken_inside_is_no_journal(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"a": 1}\n{"b": \n{"c": 1}\n')
    with pytest.raises(DataError, match=r"j, line 2: broken; delete that line"):
        Journal(path)


# ---------------------------------------------------------------- labelling

# rule, judge -> label, why it was dropped
AGREE = {
    "CC": (True, ""),
    "II": (False, ""),
    "UC": (True, ""),
    "UI": (False, ""),
    "CI": (None, "rule and judge disagree"),
    "IC": (None, "rule and judge disagree"),
    "CU": (None, "the judge gave no verdict"),
    "IU": (None, "the judge gave no verdict"),
    "UU": (None, "neither gave a verdict"),
}


def test_labels_of_the_default_policy(tmp_path):
    outcomes = label(tmp_path, scripted_items(*AGREE), judge=Scripted(1))
    assert {o.item.completion: (o.label, o.dropped) for o in outcomes} == AGREE


def test_the_rule_alone(tmp_path):
    outcomes = label(tmp_path, scripted_items("C", "I", "U"))
    assert [(o.label, o.dropped) for o in outcomes] == [
        (True, ""), (False, ""), (None, "the rule gave no verdict")
    ]  # fmt: skip
    assert {o.judge for o in outcomes} == {None}


def test_equal_rows_are_verified_once_and_each_is_kept(tmp_path):
    rule, judge = Scripted(0), Scripted(1)
    items = scripted_items("CC", "II", "CC", "CC", "IC")
    outcomes = label(tmp_path, items, rule, judge, batch_size=2)
    assert [o.item.id for o in outcomes] == ["r1", "r2", "r3", "r4", "r5"]
    assert [o.label for o in outcomes] == [True, False, True, True, None]
    for verifier in (rule, judge):
        assert verifier.asked == {"CC": 1, "II": 1, "IC": 1}


def test_what_the_journal_holds_is_not_asked_again(tmp_path):
    items = scripted_items("CC0", "CC1", "IU2", "UC3")
    first = label(tmp_path, items[:3], Scripted(0), Scripted(1))
    rule, judge = Scripted(0), Scripted(1)
    again = label(tmp_path, items, rule, judge)
    assert again[:3] == first
    assert rule.asked == judge.asked == {"UC3": 1}
    other = label(tmp_path, items, rule, judge, policy="rule_then_judge")
    assert rule.asked == judge.asked == {"UC3": 1}
    assert [o.label for o in other] == [True, True, False, True]


def test_retry_asks_the_judge_alone_and_only_where_it_said_nothing(tmp_path):
    items = scripted_items("CU0", "CC1", "UU2", "UI3")
    label(tmp_path, items, Scripted(0), Scripted(1))
    rule, judge = Scripted(0), Scripted(2)  # another letter: the judge has come back

    class Back(Scripted):
        def verify(self, completions, references, questions=None):
            super().verify(completions, references, questions)
            return [Verdict(Status.CORRECT) for _ in completions]

    judge = Back(0)
    outcomes = label(tmp_path, items, rule, judge, retry_failed=True)
    assert judge.asked == {"CU0": 1, "UU2": 1}
    assert not rule.asked
    assert [o.label for o in outcomes] == [True, True, True, False]


def test_rule_and_judge_work_at_the_same_time(tmp_path):
    met = threading.Barrier(2, timeout=30)

    class Waiting(Scripted):
        def verify(self, completions, references, questions=None):
            met.wait()  # broken, and an error here, unless the other one is at work too
            return super().verify(completions, references, questions)

    rule, judge = Waiting(0), Waiting(1)
    label(tmp_path, scripted_items("CC"), rule, judge)
    rule.close()
    judge.close()


# ---------------------------------------------------------------- generation


class Chat(ChatModel):
    """Answers with question, seed and count; fails where told to; stops after some replies."""

    identity = "chat"

    def __init__(self, fails: str = "never", stop_after: int = 10**9) -> None:
        self.fails, self.left = fails, stop_after
        self.asked: list[tuple[str, int]] = []

    def complete(self, conversations, params, seeds=None, on_reply=None):
        replies = []
        for i, (messages, seed) in enumerate(zip(conversations, seeds, strict=True)):
            if not self.left:
                raise RuntimeError("stopped")
            self.left -= 1
            text = messages[-1]["content"]
            self.asked.append((text, seed))
            failed = text.startswith(self.fails)
            reply = ChatReply(None, "down") if failed else ChatReply(f"{text} {seed}")
            on_reply(i, reply)
            replies.append(reply)
        return replies


PROBLEMS = [Item(f"p, line {i}", f"p{i}", f"q{i}", "7") for i in range(3)]


def generate(folder: Path, chat: ChatModel, problems=PROBLEMS, retry_failed=False, **settings):
    journal = Journal(folder / "completions.journal")
    try:
        generator = CompletionGenerator(instruction=None, **settings)
        return generator.run(problems, chat, journal, retry_failed)
    finally:
        journal.close()


def test_n_completions_of_each_problem_with_seeds_of_their_own(tmp_path):
    chat = Chat()
    items, failures = generate(tmp_path, chat, n=2)
    assert not failures
    assert [i.id for i in items] == ["p0/0", "p0/1", "p1/0", "p1/1", "p2/0", "p2/1"]
    assert [i.completion.split()[0] for i in items] == ["q0", "q0", "q1", "q1", "q2", "q2"]
    assert len({seed for _, seed in chat.asked}) == 6
    again = Chat()
    assert generate(tmp_path / "..", again, n=2)[0] == items  # another folder, the same draws


def test_generation_goes_on_where_it_stopped(tmp_path):
    one, two = Chat(stop_after=3), Chat()
    with pytest.raises(RuntimeError, match="stopped"):
        generate(tmp_path, one, n=2)
    items, _ = generate(tmp_path, two, n=2)
    assert len(one.asked) == len(two.asked) == 3
    assert not set(one.asked) & set(two.asked)
    three = Chat()
    assert generate(tmp_path, three, n=3)[0][::3] == items[::2]
    assert len(three.asked) == 3


def test_completions_that_could_not_be_had_are_counted_and_asked_again_when_told(tmp_path):
    items, failures = generate(tmp_path, Chat(fails="q1"), n=2)
    assert [i.id for i in items] == ["p0/0", "p0/1", "p2/0", "p2/1"]
    assert [(f.item.id, f.reason) for f in failures] == [("p1/0", "down"), ("p1/1", "down")]
    chat = Chat()
    assert generate(tmp_path, chat, n=2)[1] == failures
    assert not chat.asked
    items, failures = generate(tmp_path, chat, n=2, retry_failed=True)
    assert (len(items), failures, len(chat.asked)) == (6, [], 2)


def test_greedy_completions_of_one_problem_are_all_alike():
    with pytest.raises(ValueError, match=r"temperature=0: the 2 greedy completions"):
        CompletionGenerator(n=2, temperature=0)


# ---------------------------------------------------------------- results


def test_results_are_readable_and_in_the_order_of_the_input(tmp_path):
    folder = AnnotationFolder(tmp_path)
    items = scripted_items("CC \ud83d \u00e9", "CI", "II", "UU")
    outcomes = label(tmp_path, items, judge=Scripted(1))
    folder.write(outcomes, [], summarise(outcomes))
    for path in (folder.labelled, folder.parquet):
        found = read_labelled(path).items
        assert [(i.id, i.label, i.source) for i in found] == [("r1", True, "s"), ("r3", False, "s")]
    assert read_labelled(folder.labelled).items[0].completion == items[0].completion
    row = json.loads(folder.labelled.read_text().splitlines()[0])
    assert list(row) == [
        "id", "question", "reference_answer", "completion", "label", "source", "rule", "judge"
    ]  # fmt: skip
    assert row["judge"] == {"status": "correct", "reason": "scripted C", "answer": "c"}
    assert to_row(read_labelled(folder.parquet).items[1])["completion"] == "II"
    dropped = [json.loads(line) for line in folder.dropped.read_text().splitlines()]
    assert [(row["id"], row["dropped"]) for row in dropped] == [
        ("r2", "rule and judge disagree"), ("r4", "neither gave a verdict")
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_nothing_kept_is_still_a_table(tmp_path):
    folder = AnnotationFolder(tmp_path)
    folder.write(label(tmp_path, scripted_items("U")), [], {})
    assert folder.labelled.read_text() == ""
    with pytest.raises(DataError, match="no labelled completion"):
        read_labelled(folder.parquet)


def test_disagreements_are_for_people_and_capped(tmp_path):
    items = scripted_items(*(f"CI```\n# {i}\n```" for i in range(SHOWN + 3)))
    outcomes = label(tmp_path, items, judge=Scripted(1))
    text = disagreements(outcomes, total=500)
    assert f"{SHOWN + 3} of 500 rows; 0 of them have a label" in text
    assert f"The first {SHOWN} follow" in text
    assert text.count("\n## ") == SHOWN
    assert "## 2. r2 (f, line 2)" in text
    assert "- rule: **correct**, scripted C\n- judge: **incorrect**, scripted I" in text
    assert "\n````\nCI```\n# 1\n```\n````\n" in text


def test_disagreements_are_written_whatever_the_combination(tmp_path):
    folder = AnnotationFolder(tmp_path)
    items = scripted_items("CI", "CC", "IC", "UC")
    outcomes = label(tmp_path, items, judge=Scripted(1), policy="rule_then_judge")
    folder.write(outcomes, [], {})
    text = folder.disagreements.read_text()
    assert "2 of 4 rows; 2 of them have a label all the same" in text
    assert text.count("\n## ") == 2


def test_summary_by_hand(tmp_path):
    items = scripted_items("CC1", "CC2", "CI3", "II4", "UC5", "IU6", "UU7", "CC1")
    known = [True, False, None, False, None, False, None, True]
    items = [Item(i.where, i.id, i.question, i.reference, i.completion, i.source, k)
             for i, k in zip(items, known, strict=True)]  # fmt: skip
    summary = summarise(label(tmp_path, items, judge=Scripted(1)), skipped=2)
    assert (summary["rows"], summary["distinct"], summary["skipped"]) == (8, 7, 2)
    assert summary["kept"] == {"right": 4, "wrong": 1}
    assert summary["dropped"] == {
        "rule and judge disagree": 1,
        "the judge gave no verdict": 1,
        "neither gave a verdict": 1,
    }
    assert summary["agreement"]["both_decided"] == 5
    assert summary["agreement"]["raw"] == 0.8
    # 4/5 agree; expected (4*3 + 1*2)/25 = 14/25; (20 - 14) / (25 - 14)
    assert summary["agreement"]["kappa"] == pytest.approx(6 / 11)
    assert summary["judge_undecided"] == {"scripted U": {"rows": 2, "first": "scripted U"}}
    assert summary["rule"] == {"correct": 4, "incorrect": 2, "undecided": 2}
    # Labelled and known: rows 1, 2, 4, 8; row 2 is against its label.
    assert summary["input_labels"]["rows"] == 5
    assert summary["input_labels"]["label"]["decided"] == 4
    assert summary["input_labels"]["label"]["agree"] == 0.75
    assert summary["input_labels"]["rule"]["agree"] == 0.8


def test_a_reference_that_cannot_be_read_is_named_once_with_its_row(tmp_path):
    class Picky(ExactVerifier):
        def verify(self, completions, references, questions=None):
            return [
                Verdict(Status.UNDECIDED, "the reference cannot be parsed") if r == "?" else v
                for r, v in zip(
                    references, super().verify(completions, references, questions), strict=True
                )
            ]

    items = [
        Item("f, line 1", "a", "q", "1", "\\boxed{1}"),
        Item("f, line 2", "b", "q", "?", "x"),
        Item("f, line 3", "c", "q", "?", "y"),
    ]
    summary = summarise(label(tmp_path, items, Picky()))
    assert summary["undecided_references"] == [
        {
            "where": "f, line 2",
            "id": "b",
            "reference": "?",
            "reason": "the reference cannot be parsed",
            "rows": 2,
        }
    ]
    assert summary["dropped"] == {"the rule gave no verdict": 2}


def test_other_settings_in_the_same_folder_are_named(tmp_path):
    folder = AnnotationFolder(tmp_path)
    folder.settle({"rule.a": "1", "judge": "None"})
    folder.settle({"rule.a": "1", "judge": "None"})
    with pytest.raises(DataError) as caught:
        folder.settle({"rule.a": "2", "judge.model": "m"})
    for text in (
        "rule.a: 1 -> 2",
        "judge: None -> not set",
        "judge.model: not set -> m",
        "another",
    ):
        assert text in str(caught.value)


def test_a_folder_is_one_process_alone(tmp_path):
    with (
        AnnotationFolder(tmp_path).claimed(),
        pytest.raises(DataError, match="another process"),
        AnnotationFolder(tmp_path).claimed(),
    ):
        pass
    with AnnotationFolder(tmp_path).claimed():
        pass
