"""``cooper-eval-reward`` from files to its folder, and what bad input is told."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from cooper.cli.eval_reward import main
from cooper.testing import write_reward_model

ROWS = [
    {"question": f"{a}+{b}?", "reference_answer": str(a + b), "completion": text, "label": label,
     "source": source}
    for a in range(2, 8)
    for b, source in ((3, "x"), (4, "y"))
    for text, label in ((f"So \\boxed{{{a + b}}}", 1), (f"So \\boxed{{{a - b}}}", 0))
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture
def evaluate(monkeypatch, capsys, tmp_path):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["cooper-eval-reward", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_model_and_verifiers_in_one_run(evaluate, data: Path, tmp_path: Path) -> None:
    write_reward_model(tmp_path / "model", [row["completion"] for row in ROWS])
    code, out, err = evaluate(
        f"data.path={data}", "verifier=numeric", "+verifier@scorers.strict=exact",
        f"reward_model.path={tmp_path / 'model'}", "reward_model.device=cpu",
        "bootstrap=50", "attacks=4", "output=out",
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / "out"
    results = json.loads((folder / "results.json").read_text())
    found = results["sets"]["sums"]["scorers"]
    assert list(found) == ["reward model", "numeric", "strict"]
    assert found["numeric"]["all"]["accuracy"] == 1.0
    assert found["numeric"]["intervals"]["accuracy"] == [1.0, 1.0]
    assert found["numeric"]["all"]["ece"] is None
    assert found["reward model"]["all"]["ece"] is not None
    assert set(found["numeric"]["slices"]["source"]) == {"x", "y"}
    assert results["attacks"]["empty"]["accepted"]["numeric"]["share"] == 0.0
    assert results["attacks"]["reference pasted"]["accepted"]["numeric"]["share"] == 1.0
    with gzip.open(folder / "scores.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert [row["label"] for row in rows] == [row["label"] for row in ROWS]
    assert rows[0]["numeric"] == {"score": 1.0, "reason": "equal numbers"}
    report = (folder / "report.md").read_text()
    assert "| numeric | 24 | 1.000 [1.000, 1.000] |" in report
    for name in ("quality_sums", "attacks"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
        assert (folder / "figures" / f"{name}.svg").is_file()
    assert "sums: 24 rows, 12 questions" in out
    assert "reads it with the published template and the scalar head" in out


def test_a_broken_row_stops_it_or_is_counted(evaluate, data: Path, tmp_path: Path) -> None:
    data.write_text(data.read_text() + '\n{"question": "q", "reference_answer": "1", "label": 1}')
    code, _, err = evaluate(f"data.path={data}", "verifier=numeric")
    assert code == 2
    assert "sums.jsonl, line 25: no column 'completion'" in err
    assert not (tmp_path / "eval_reward").exists()
    code, out, err = evaluate(
        f"data.path={data}", "verifier=numeric", "data.skip_bad=true", "attacks=0", "bootstrap=0"
    )
    assert code == 0, err
    assert "1 rows skipped; the first: " in out
    results = json.loads((tmp_path / "eval_reward" / "results.json").read_text())
    assert results["sets"]["sums"]["skipped"] == 1
    assert results["attacks"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verifier=numeric"], "data.path=???: a value is needed"),
        (["data.path=none.jsonl", "verifier=numeric"], "none.jsonl: no such file"),
        (["data.path=sums.jsonl"], "there is nothing to evaluate; give verifier=math"),
        (["data.path=[]", "verifier=numeric"], "give a file, or several as data.path=[a.jsonl"),
        (["data.path=[sums.jsonl,sums.jsonl]", "verifier=numeric"], "two are called sums"),
        (["data.path=sums.jsonl", "verifier=none_such"], "verifier=none_such: no such option"),
        (["data.path=sums.jsonl", "verifier=numeric", "attacks=-1"], "attacks=-1: 0 (none)"),
        (["data.path=sums.jsonl", "verifier=numeric", "bootsrap=5"], "did you mean bootstrap?"),
        (["data.path=sums.jsonl", "reward_model.path=./nothing"], "reward_model.path=./nothing"),
        (["data.path=sums.jsonl", "verifier=numeric", "verifier.tolerance=-1"],
         "verifier.tolerance=-1"),
        (["data.path=sums.jsonl", "verifier=numeric", "+verifier@scorers.numeric=exact"],
         "scorers.numeric: there is one of this name"),
    ],
)  # fmt: skip
def test_bad_input(evaluate, data: Path, arguments: list[str], message: str) -> None:
    code, _, err = evaluate(*arguments)
    assert code == 2
    assert err.startswith("cooper-eval-reward: error: ")
    assert message in err
    assert err.strip().count("\n") == 0
