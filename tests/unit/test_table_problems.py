"""Problems of tables: what is read in every form, and what each broken one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cooper.data import TableProblems, benchmark
from cooper.data.references import final_answer
from cooper.errors import DataError


def write(folder: Path, *lines: str, name: str = "set.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_reads_problems(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"question": "q1", "answer": "7", "id": 12, "source": "gsm8k"}',
        "",
        '{"question": "é ½", "answer": "\\\\frac{1}{2}"}',
    )
    first, second = TableProblems(path)
    assert (first.id, first.question, first.reference, first.source) == ("12", "q1", "7", "gsm8k")
    assert (second.id, second.question) == ("set:3", "é ½")  # the line of the file
    assert (second.reference, second.source) == ("\\frac{1}{2}", "set")


@pytest.mark.parametrize(
    ("question", "reference"),
    [("question", "answer"), ("problem", "solution"), ("prompt", "final_answer")],
)
def test_known_column_names(tmp_path: Path, question: str, reference: str) -> None:
    (problem,) = TableProblems(write(tmp_path, f'{{"{question}": "q", "{reference}": "r"}}'))
    assert (problem.question, problem.reference) == ("q", "r")


def test_named_columns_win(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "no", "answer": "no", "frage": "q", "antwort": "r"}')
    (problem,) = TableProblems(path, question_column="frage", reference_column="antwort")
    assert (problem.question, problem.reference) == ("q", "r")


@pytest.mark.parametrize(("value", "text"), [("7", "7"), ("-3.5", "-3.5"), ("0", "0")])
def test_numbers_as_answers(tmp_path: Path, value: str, text: str) -> None:
    (problem,) = TableProblems(write(tmp_path, f'{{"question": "q", "answer": {value}}}'))
    assert problem.reference == text


@pytest.mark.parametrize("value", ["true", "null", '""', '"  "', "[]", "[null]", "{}"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    path = write(
        tmp_path, '{"question": "q", "answer": "7"}', f'{{"question": "q", "answer": {value}}}'
    )
    with pytest.raises(DataError, match="line 2: column 'answer'"):
        TableProblems(path)


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path, *[f'{{"question": "q{i}", "answer": "7"}}' for i in range(5)])
    assert [p.question for p in TableProblems(path, limit=2)] == ["q0", "q1"]
    assert len(TableProblems(path)) == 5
    assert [p.question for p in TableProblems(path)[1:3]] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "q", "answer": "7"}', "", '{"question": '], "line 3: broken JSON"),
        (['{"question": "q", "answer": "7"}', "[1, 2]"], "line 2: list where a JSON object"),
        (
            ['{"text": "q", "answer": "7"}'],
            "line 1: none of the columns question, problem, .*prompt",
        ),
        (['{"question": "q", "label": "7"}'], "name yours with reference_column"),
        (
            ['{"question": "q", "answer": "7"}', '{"question": "q", "solution": "7"}'],
            "line 2: no column 'answer'",
        ),
        ([""], "holds no rows"),
        (["", "  "], "holds no rows"),
    ],
)
def test_broken_files(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(DataError, match=message) as caught:
        TableProblems(path)
    assert path in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "Wie groß?", "answer": "7"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        TableProblems(str(path))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        TableProblems(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"cannot be loaded as a data set .*give a folder"):
        TableProblems(str(tmp_path))


# ---------------------------------------------------------------------- the forms that are around

# One row each of the published files, columns and values as they stand there (texts shortened).
FORMS: dict[str, tuple[dict[str, Any], str, str]] = {
    "gsm8k": (
        {"question": "How many?", "answer": "2*617=<<2*617=1234>>1,234\nIn all.\n#### 1,234"},
        "How many?",
        "1,234",
    ),
    "svamp": (
        {"ID": "chal-1", "Body": "Ann has 3 pens", "Question": "How many?", "Answer": "3.0"},
        "Ann has 3 pens. How many?",
        "3.0",
    ),
    "math": (
        {"problem": "p", "level": "Level 5", "solution": "So $x=\\boxed{\\frac{1}{2}}$, done."},
        "p",
        "\\frac{1}{2}",
    ),
    "math500": (
        {"problem": "p", "solution": "\\boxed{1}", "answer": "\\left( 3, \\pi \\right)"},
        "p",
        "\\left( 3, \\pi \\right)",
    ),
    "olympiadbench": (
        {"question": "p", "solution": ["long"], "final_answer": ["$2^{1009}$"], "unit": None},
        "p",
        "$2^{1009}$",
    ),
    "deepmath": (
        {"question": "q", "final_answer": "Yes", "difficulty": 5.0, "r1_solution_1": "long"},
        "q",
        "Yes",
    ),
    "trl": (
        {"prompt": [{"role": "user", "content": "q"}], "solution": "Thus \\boxed{7}."},
        "q",
        "7",
    ),
    "trl plain": ({"prompt": "q", "ground_truth": "7"}, "q", "7"),
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": "q"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"index": 0, "split": "train"},
        },
        "q",
        "72",
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "saved", "hub"])
def test_every_form_of_columns_and_files(name: str, form: str, tmp_path: Path) -> None:
    row, question, reference = FORMS[name]
    (problem,) = TableProblems(stored(row, form, tmp_path))
    assert (problem.question, problem.reference) == (question, reference)
    assert problem.source == ("openai/gsm8k" if name == "verl" else "set")


def stored(row: dict[str, Any], form: str, folder: Path) -> str:
    """Write one row as users have it."""
    from datasets import Dataset, DatasetDict

    path = folder / "set"
    if form == "jsonl":
        path = folder / "set.jsonl"
        path.write_text(json.dumps(row))
    elif form == "json":
        path = folder / "set.json"
        path.write_text(json.dumps([row], indent=1))
    elif form == "parquet":
        path = folder / "set.parquet"
        Dataset.from_list([row]).to_parquet(str(path))
    elif form == "saved":
        DatasetDict(train=Dataset.from_list([row])).save_to_disk(str(path))
    else:
        (path / "data").mkdir(parents=True)
        Dataset.from_list([row]).to_parquet(str(path / "data" / "train-00000-of-00001.parquet"))
    return str(path)


def test_subsets_and_splits_of_a_folder_in_the_hubs_form(tmp_path: Path) -> None:
    from datasets import Dataset

    for subset in ("main", "other"):
        (tmp_path / subset).mkdir()
        for split in ("train", "test"):
            row = {"question": f"{subset} {split}", "answer": "1"}
            Dataset.from_list([row]).to_parquet(str(tmp_path / subset / f"{split}-0.parquet"))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {subset}\n  data_files:\n"
            + "".join(f"  - split: {s}\n    path: {subset}/{s}-*\n" for s in ("train", "test"))
            for subset in ("main", "other")
        )
        + "---\n"
    )
    path = str(tmp_path)
    (problem,) = TableProblems(path, split="test", subset="main")
    assert problem.question == "main test"
    with pytest.raises(DataError, match=r"subset=None: the data set has main, other; name one"):
        TableProblems(path, split="test")
    with pytest.raises(DataError, match=r"subset=none: the data set has main, other; name one"):
        TableProblems(path, split="test", subset="none")
    with pytest.raises(DataError, match=r"split=dev: the data set has train, test; name one"):
        TableProblems(path, split="dev", subset="main")


def test_a_data_set_that_is_not_here_and_no_network() -> None:
    with pytest.raises(DataError) as caught:
        TableProblems("openai/gsm8k", split="test", subset="main", revision="abc")
    message = str(caught.value)
    assert message.startswith("openai/gsm8k: no such file here, and as a data set of the hub")
    assert "at revision=abc" in message
    assert "\n" not in message


def test_a_system_message_is_kept_and_other_chats_are_refused(tmp_path: Path) -> None:
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
    row = {"prompt": [system, user], "answer": "1"}
    (problem,) = TableProblems(write(tmp_path, json.dumps(row)))
    assert (problem.question, problem.meta) == ("q", {"system_prompt": "s"})
    for chat in ([user, user], [system], [], [{"role": "user"}]):
        row = {"prompt": chat, "answer": "1"}
        with pytest.raises(DataError, match=r"set\.jsonl, line 1: "):
            TableProblems(write(tmp_path, json.dumps(row)))


def test_nested_and_joined_columns_by_name(tmp_path: Path) -> None:
    row = {"a": "One", "b": "two?", "extra": {"truth": 3}}
    path = write(tmp_path, json.dumps(row))
    (problem,) = TableProblems(path, question_column="a+b", reference_column="extra.truth")
    assert (problem.question, problem.reference) == ("One. two?", "3")
    with pytest.raises(DataError, match=r"no column extra\.false \(found: a, b, extra\); name"):
        TableProblems(path, question_column="a", reference_column="extra.false")


def test_bad_rows_are_counted_where_asked(tmp_path: Path) -> None:
    good, bad = '{"question": "q", "answer": "1"}', '{"question": "", "answer": "1"}'
    path = write(tmp_path, good, bad, "[", good)
    problems = TableProblems(path, skip_bad=True)
    assert (len(problems), problems.skipped) == (2, 2)
    assert "line 2" in problems.first_skipped
    with pytest.raises(DataError, match="line 2"):
        TableProblems(path)
    with pytest.raises(DataError, match=r"all 1 rows are bad; the first one: .*line 1"):
        TableProblems(write(tmp_path, bad, name="bad.jsonl"), skip_bad=True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("72", "72"),
        ("  x = 1 ", "x = 1"),
        ("#### 5", "5"),
        ("a\n#### 1,234\n", "1,234"),
        ("# Plan\n#### Step\nso 7", "# Plan\n#### Step\nso 7"),  # headings, not GSM8K's last line
        ("\\boxed{1} is wrong. So \\boxed{\\text{(B)}}", "\\text{(B)}"),
        ("either \\boxed{1} or \\boxed{2}", "1, 2"),
        ("\\boxed{}", "\\boxed{}"),  # an empty box says nothing: the text stays
        ("\\boxed{open", "\\boxed{open"),
        ("$12$", "$12$"),
        ("1,380,", "1,380"),
        (";", ";"),
    ],
)
def test_final_answers_of_references(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_rows_under_their_names(tmp_path: Path) -> None:
    """The form of MathOdyssey's own file."""
    row = {"Problem_1": {"question": "q", "answer": "16", "reasoning": "long", "level": "x"}}
    (problem,) = benchmark("math_odyssey", path=write(tmp_path, json.dumps(row)))
    assert (problem.id, problem.question, problem.reference) == ("Problem_1", "q", "16")


def test_benchmarks_in_published_form_and_ours(tmp_path: Path) -> None:
    row = {"question": "q", "final_answer": ["3"]}
    path = write(tmp_path, json.dumps(row))
    (problem,) = benchmark("olympiadbench_en", path=path)
    assert (problem.source, problem.reference) == ("olympiadbench_en", "3")
    ours = write(tmp_path, '{"id": "a", "question": "q", "answer": "1", "source": "x"}')
    assert benchmark("gsm8k", path=ours)[0].source == "gsm8k"  # the name is the benchmark's
    with pytest.raises(DataError, match="benchmark aime: not known; there are gsm8k, svamp"):
        benchmark("aime", path=path)
