"""cooper-train on tables: a folder in the hub's form, a mixture gone on with, the account of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import rollouts_of

from cooper.testing import write_policy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy; GSM8K in its published form as a folder of the hub; a file of another set."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("tables")
    (folder / "gsm8k" / "main").mkdir(parents=True)
    rows = [
        {
            "question": f"What is {n} + {n}?",
            "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}",
        }
        for n in range(12)
    ]
    parts = {"train": [*rows, rows[0]], "test": [{**rows[3], "question": "what is 3+3 ?"}]}
    for split, part in parts.items():
        name = f"{split}-00000-of-00001.parquet"
        Dataset.from_list(part).to_parquet(str(folder / "gsm8k" / "main" / name))
    (folder / "gsm8k" / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
        "  - split: test\n    path: main/test-*\n---\n"
    )
    other = [
        {"prompt": [{"role": "user", "content": f"Say {n}."}], "solution": f"\\boxed{{{n}}}"}
        for n in range(5)
    ]
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    write_policy(folder / "policy", [row["question"] + row["answer"] for row in rows])
    return folder


def overrides(made: Path, *more: str) -> list[str]:
    return [
        "experiment=none", "policy=hf", f"policy.path={made}/policy", "reward=rule",
        "data.problems_per_step=4", "group_size=2", "sampling.max_new_tokens=4",
        "evaluation.samples=1", "evaluation.every=100", "evaluation.max_new_tokens=4",
        "quiet=true", "logger=none", "rollouts.keep=-1", *more,
    ]  # fmt: skip


HF = (
    "~data.test.svamp", "~data.test.olympiadbench_en", "~data.test.math_odyssey",
    "~data.val.math500", "data.test.gsm8k.path=GSM8K/main/test-00000-of-00001.parquet",
)  # fmt: skip


def hf(made: Path) -> list[str]:
    return [one.replace("GSM8K", str(made / "gsm8k")) for one in HF]


def questions(folder: Path, steps: int) -> list[list[str]]:
    return [[row["question"] for row in rollouts_of(folder, step)] for step in range(1, steps + 1)]


def test_a_folder_in_the_hubs_form_and_its_overlap(cli: Any, made: Path, tmp_path: Path) -> None:
    result = cli(
        *overrides(made, "data=hf", *hf(made), "+data.val.other=" + str(made / "other.jsonl")),
        f"data.train.path={made}/gsm8k", "data.train.subset=main", "paths.run_dir=r",
        "trainer.max_steps=3", small=False,
    )  # fmt: skip
    assert result.code == 0, result.err
    account = json.loads((tmp_path / "r" / "data.json").read_text())
    assert account["evaluation"] == {"other": 5, "gsm8k": 1}
    train = account["train"]
    assert (train["problems"], train["used"]) == (13, 12)
    assert [len(train["overlap"][name]) for name in ("gsm8k", "other")] == [1, 0]
    assert len(train["duplicates"]) == 1
    assert "1 problems stand in the evaluation set gsm8k too, dropped" in result.out
    seen = {text for step in questions(tmp_path / "r", 3) for text in step}
    assert "What is 3 + 3?" not in seen
    assert len(seen) == 11  # 12 draws of an epoch of 12, of which two are copies
    assert rollouts_of(tmp_path / "r", 1)[0]["reference"].isdigit()


def test_a_mixture_goes_on_in_mid_epoch(cli: Any, made: Path, tmp_path: Path) -> None:
    sources = (
        f"{{sums: {{_target_: cooper.data.TableProblems, path: {made}/gsm8k, subset: main, "
        f"split: train}}, words: {made}/other.jsonl}}"
    )
    given = [
        *overrides(made, "data=mixture", *hf(made)), f"data.train.sources={sources}",
        "data.train.weights={sums: 1, words: 1}", "checkpoints.every=3",
        f"+data.val.other={made}/other.jsonl",
    ]  # fmt: skip
    whole = cli(*given, "paths.run_dir=whole", "trainer.max_steps=6", small=False)
    assert whole.code == 0, whole.err
    for steps, more in (("3", ()), ("6", ("ckpt_path=last",))):
        part = cli(*given, "paths.run_dir=half", f"trainer.max_steps={steps}", *more, small=False)
        assert part.code == 0, part.err
    drawn = questions(tmp_path / "whole", 6)
    assert questions(tmp_path / "half", 6) == drawn
    # 17 problems after the overlap was dropped: 8 or 9 draws of each source an epoch.
    words = sum(text.startswith("Say") for step in drawn for text in step) / 2
    assert 10 <= words <= 14
    account = json.loads((tmp_path / "whole" / "data.json").read_text())
    assert sorted(account["train"]["draws_an_epoch"].values()) == [9, 9]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.train.path=MADE/gsm8k", "data.train.subset=main", "data.train.split=dev"],
         "split=dev: the data set has train, test; name one of them"),
        (["data.train.path=MADE/none"], "no such file"),
        (["data.train.path=MADE/other.jsonl", "data.train.question_column=q"],
         "no column q (found: prompt, solution); name yours with question_column"),
        (["data.train.path=openai/none", "data.train.revision=v1"], "cannot be loaded at revision=v1"),
        (["data.train.path=MADE/other.jsonl", "prompt.max_tokens=3"], "all 5 prompts are longer"),
        (["data.train.path=MADE/other.jsonl", "data.drop_overlap=yes"], "data.drop_overlap="),
        ([], "data.train.path=???: a value is needed; give data.train.path=HUB_ID"),
    ],
)  # fmt: skip
def test_bad_tables(cli: Any, made: Path, tmp_path: Path, more: list[str], message: str) -> None:
    more = [one.replace("MADE", str(made)) for one in more]
    result = cli(*overrides(made, "data=hf", *hf(made), "paths.run_dir=r", *more), small=False)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()
