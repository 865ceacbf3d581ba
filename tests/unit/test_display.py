"""The display of a run: what it shows of made-up steps, and what never reaches the terminal."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cooper.display import LiveDisplay, PlainDisplay, RunState, Sample, Silent, StepView
from cooper.display.live import redirected_logs
from cooper.display.screen import Inside, Screen, fitted
from cooper.display.texts import clean, crop, duration, encodable, sparkline, wrap
from cooper.monitoring import Alarm
from cooper.progress import draws, hosted, progress, set_quiet

ESC = "\x1b"
GAP = Alarm(3, "gap", "hacking/gap", 0.4, 0.3, "the mean score exceeds accuracy by 0.40", "none")


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def metrics(step: int, **more: float) -> dict[str, float]:
    found = {
        "reward/mean": 0.5 + step / 100,
        "verifier/accuracy": 0.5 - step / 100,
        "hacking/gap": step / 50,
        "reward_model/auroc": 0.8,
        "policy/kl": 0.0123,
        "policy/entropy": 0.45,
        "completions/mean_length": 31.25,
        "completions/truncated_frac": 0.125,
        "pairs/built": 7.0,
        "time/step": 2.0,
    }
    return {**found, **more}


def sample(completion: str = "So 7.", question: str = "What is 3 + 4?") -> Sample:
    return Sample(3, question, "7", completion, "correct", 0.93, 0.75)


def state(**more: object) -> RunState:
    begun = RunState("RL (toy)", "runs/toy/now", 10).resumed(
        [{"step": 0, "val/numbers/avg_at_8": 0.5, "val/numbers.words/avg_at_8": 0.25}], ()
    )
    now = begun.begun(0, 0.0)
    for step in (1, 2, 3):
        extra = {"val/numbers/avg_at_8": 0.625} if step == 2 else {}
        now = now.after(StepView(step, metrics(step, **extra), 300, (), sample()), 4.0 * step)
    return now if not more else now.after(StepView(4, metrics(4), 300, **more), 16.0)


def drawn(
    shown: RunState,
    width: int = 100,
    height: int = 40,
    inside: tuple[Inside, ...] = (),
    now: float = 13.0,
    colour: bool = False,
    encoding: str = "utf-8",
) -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(
        file=out, width=width, height=height, force_terminal=True, legacy_windows=False,
        color_system="truecolor" if colour else None, no_color=not colour, _environ={},
    )  # fmt: skip
    console.print(Screen(shown, inside, 0.0, now))
    out.flush()
    text = raw.getvalue().decode(encoding)
    if colour:
        return text
    assert not any(code in text for code in ("\x1b[2J", "\x1b[H"))
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def line_with(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if start in line)


def test_bar_says_steps_pace_and_time_left():
    # Three steps took 4 s each; 1 s of the fourth has passed, so 7 * 4 - 1 s are left.
    line = line_with(drawn(state()), "3/10 steps")
    assert "left 0:00:27" in line
    assert "4.0 s/step" in line
    assert "150 tokens/s" in line  # 300 tokens in 2 s


def test_header_names_run_folder_and_time():
    assert drawn(state()).splitlines()[0].split() == [
        "RL", "(toy)", "runs/toy/now", "elapsed", "0:00:13",
    ]  # fmt: skip
    assert drawn(state(), 36).splitlines()[0].split()[2] == "…/toy/now"


def test_reward_stands_above_verified_accuracy_on_one_scale():
    text = drawn(state())
    # 0.51 0.52 0.53 and 0.49 0.48 0.47 between 0.47 and 0.53: eighths 5, 6, 7 and 2, 1, 0.
    assert line_with(text, "reward ").split()[:4] == ["reward", "0.530", "0.520", "▆▇█"]
    assert line_with(text, "verified").split()[:4] == ["verified", "0.470", "0.480", "▃▂▁"]
    assert line_with(text, "gap").split()[:3] == ["gap", "+0.060", "+0.040"]
    assert line_with(text, "AUROC").split()[:3] == ["AUROC", "0.800", "0.800"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("KL", "0.0123"), ("entropy", "0.450"), ("mean length", "31.2"), ("truncated", "12.5%"),
     ("pairs", "7")],
)  # fmt: skip
def test_other_figures(name, value):
    line = line_with(drawn(state()), name)
    assert line[line.index(name) + len(name) :].split() == [value]


def test_last_evaluation_with_its_step_and_start():
    line = line_with(drawn(state()), "numbers avg@8")
    assert line.split("numbers avg@8")[1].split() == (
        ["0.625", "at", "step", "2", "(start", "0.500,", "+0.125)"]
    )
    later = state().after(StepView(5, {"val/numbers/avg_at_8": 0.375}), 20.0)
    line = line_with(drawn(later), "numbers avg@8")
    assert "0.375 at step 5 (start 0.500, -0.125)" in line
    assert "words" not in drawn(state())  # parts of a set stand in metrics.jsonl


def test_rule_runs_show_no_reward_model():
    shown = RunState("RL", "r", 10).begun(0, 0.0)
    rule = {k: v for k, v in metrics(1).items() if "reward_model" not in k and "gap" not in k}
    text = drawn(shown.after(StepView(1, rule, 10), 1.0))
    assert "verified" in text
    assert "gap" not in text
    assert "AUROC" not in text


def test_figures_that_are_not_finite_are_gaps():
    shown = state().after(StepView(4, metrics(4, **{"verifier/accuracy": float("nan")}), 10), 16.0)
    assert line_with(drawn(shown), "verified").split()[:2] == ["verified", "-"]


def test_alarms_newest_first_with_step_and_file():
    alarms = [Alarm(n, "gap", "hacking/gap", 0.4, 0.3, f"by 0.{n}") for n in range(1, 6)]
    text = drawn(state(alarms=tuple(alarms)))
    found = [line for line in text.splitlines() if "ALARM" in line]
    assert [line.split() for line in found] == [
        ["ALARM", "step", str(n), "gap", "by", f"0.{n}"] for n in (5, 4, 3)
    ]
    assert "worst rollouts: alarms/000005_gap.jsonl" in text
    assert "2 earlier alarms in alarms.jsonl, the last at step 2: gap" in text


def test_banner_of_an_alarm_goes_after_a_while():
    begun = RunState("RL", "r", 90).begun(0, 0.0).after(StepView(3, metrics(3), 1, (GAP,)), 1.0)
    assert " ALARM step 3 gap " in drawn(begun.after(StepView(22, metrics(22)), 2.0))
    later = drawn(begun.after(StepView(23, metrics(23)), 2.0))
    assert "ALARM" not in later
    assert "1 earlier alarm in alarms.jsonl, the last at step 3: gap" in later


def test_alarm_does_not_say_its_step_and_name_twice():
    said = Alarm(4, "gap", "k", 1, 0, "step 4, gap: the score is high; threshold 0")
    assert "ALARM step 4 gap  the score is high; threshold 0" in drawn(state(alarms=(said,)))
    display, lines, _ = plain_display()
    display.step(StepView(4, metrics(4), 1, (said,)))
    assert lines[0] == (
        "RL (toy): ALARM at step 4, gap: the score is high; threshold 0 (alarms/000004_gap.jsonl)"
    )


def test_long_alarm_is_wrapped():
    message = "the reward rose by a lot " * 6
    text = drawn(state(alarms=(Alarm(4, "gap", "k", 1, 0, message),)), width=60)
    assert "ALARM step 4 gap  the reward rose" in text
    assert " ".join(text.split()).count("rose by a lot") >= 5


def test_sample_with_verdict_and_score():
    text = drawn(state(sample=sample("First 3 + 4.\nSo 7.")))
    assert "sample of step 3: correct, score 0.93, reward 0.75" in text
    assert line_with(text, "question").split(maxsplit=1)[1] == "What is 3 + 4?"
    assert line_with(text, "completion").split(maxsplit=1)[1] == "First 3 + 4. ↵ So 7."


def test_bar_inside_a_step():
    bar = Inside("evaluation, step 3: numbers", 64, "problem", 16, 0, 5.0)
    line = line_with(drawn(state(), inside=(bar,)), "evaluation")
    assert "16/64 problems" in line
    assert "2.0 problem/s" in line  # 16 in 8 s
    assert "left 0:00:24" in line


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40, 60, 79, 80, 100, 120, 250])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 10, 15, 24, 60])
def test_fits_any_terminal(width, height):
    shown = state(alarms=(GAP,) * 5, sample=sample("word " * 500, "很长的问题" * 50))
    bar = Inside("evaluation, step 3: " + "x" * 80, 64, "problem", 16, 0, 5.0)
    lines = drawn(shown, width, height, (bar,)).splitlines()
    assert 1 <= len(lines) <= max(height - 1, 1)
    assert max(map(cell_len, lines)) <= width


def test_little_room_keeps_progress_then_alarms():
    shown = state(alarms=(GAP,))
    assert "4/10" in drawn(shown, 80, 2)
    five = drawn(shown, 80, 6)
    assert "4/10" in five
    assert "ALARM" in five
    assert "sample" not in five
    whole = drawn(shown, 80, 24)
    assert all(part in whole for part in ("RL (toy)", "reward", "numbers", "ALARM", "completion"))


def test_room_goes_by_rank():
    lines = {rank: [[rank, n] for n in range(3)] for rank in range(3)}
    sections = [(2, lines[2]), (0, lines[0]), (1, lines[1])]
    assert fitted(sections, 5) == [*lines[0], *lines[1][:2]]
    assert fitted(sections, 7) == [lines[2][0], *lines[0], *lines[1]]
    assert fitted(sections, 0) == [lines[0][0]]


HOSTILE = [
    "\x1b[2J\x1b[H\x1b]0;title\x07 \x9b31m red",
    "[red]not red[/red] [/] [link=https://x.y]z[/link] :smile:",
    "a\x00b\x08c\x7fd\r\ne\u2028f\tg",
    "\u202eright to left\u202c zero\u200bwidth \ufeff",
    "\ud800 lone surrogate \ue000 private \U000e0041 tag",
    "z" + "\u0300" * 50 + "algo",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("colour", [False, True])
def test_model_texts_are_not_obeyed(text, colour):
    bar = Inside(text, 5, "row", 1, 0, 0.0, text)
    alarm = Alarm(4, "gap", "k", 1, 0, text)
    shown = RunState(text, text, 10).begun(0, 0.0)
    shown = shown.after(StepView(1, metrics(1), 5, (alarm,), sample(text, text)), 1.0)
    out = drawn(shown, inside=(bar,), colour=colour)
    # The only escapes left are colours.
    assert ESC not in re.sub(r"\x1b\[[0-9;]*m", "", out)
    bad = {chr(c) for c in [*range(9), *range(11, 27), *range(28, 32), *range(127, 160)]}
    assert not bad & set(out)
    assert not set("\u2028\u2029\u202e\u202c\u200b\ufeff\ud800\ue000") & set(out)
    assert "\u0300" * 3 not in out


def test_markup_is_text():
    text = drawn(state(sample=sample("[red]x[/red] :smile: [/]")))
    assert "[red]x[/red] :smile: [/]" in text
    assert f"{ESC}[31mx" not in drawn(state(sample=sample("[red]x[/red]")), colour=True)


@given(st.text(), st.integers(1, 100))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_one_line_that_fits(text, width):
    line = clean(text)
    assert line.isprintable()
    assert cell_len(crop(line, width)) <= width
    rows = wrap(line, max(width, 2), 3)
    assert len(rows) <= 3
    assert all(cell_len(row) <= max(width, 2) for row in rows)


def test_clean_by_hand():
    assert clean("a\r\nb\tc\x1b[0m\x07") == "a ↵ b c␛[0m␇"
    assert clean("x\x85y\x9bz\x7f") == "x ↵ y\ufffdz␡"
    assert clean("x" * 5000) == "x" * 2000


def test_crop_by_hand():
    assert crop("abcdef", 6) == "abcdef"
    assert crop("abcdef", 4) == "abc…"
    assert crop("/a/b/cdef", 5, left=True) == "…cdef"
    assert crop("很长很长", 5) == "很长…"
    assert crop("abc", 0) == ""


def test_wrap_by_hand():
    assert wrap("the cat sat on the mat", 8, 9) == ["the cat", "sat on", "the mat"]
    assert wrap("the cat sat on the mat", 8, 2) == ["the cat", "sat on …"]
    assert wrap("abcdefghij", 4, 9) == ["abcd", "efgh", "ij"]
    assert wrap("", 4, 9) == []


def test_sparkline_by_hand():
    assert sparkline([0, 0.5, 1, None, float("nan")], 0, 1) == "▁▅█  "
    assert sparkline([0, 1], 0, 1, plain=True) == "_@"
    assert sparkline([3, 3], 3, 3) == "▁▁"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (90061, "1d 01:01"), (-5, "0:00:00"),
     (None, "-:--:--"), (float("inf"), "-:--:--")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_terminals_without_unicode(encoding):
    shown = state(alarms=(GAP,), sample=sample("很 ∑ \x1b é " * 90))
    text = drawn(shown, 70, 30, encoding=encoding)  # an error if anything cannot be written
    assert "..." in text
    assert "3 + 4" in text
    assert encodable("a…∑", "ascii") == "a...?"
    assert encodable("a…∑", "UTF-8") == "a…∑"


def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, width=100, height=40, force_terminal=True)
    console.print(Screen(state(alarms=(GAP,)), (), 0.0, 13.0))
    codes = {
        c for found in re.findall(r"\x1b\[([0-9;]*)m", out.getvalue()) for c in found.split(";")
    }
    assert codes <= {"0", "1", "2"}  # bold and dim alone
    assert "ALARM step 3 gap" in out.getvalue().replace(f"{ESC}[1m", "")


def test_what_was_drawn_is_kept_until_a_step_or_another_size():
    kept: dict = {}
    one, other = state(), state(sample=sample("Another one."))
    console = Console(file=io.StringIO(), width=80, height=40)

    def text(shown: RunState, now: float) -> str:
        with console.capture() as capture:
            console.print(Screen(shown, (), 0.0, now, kept))
        return capture.get()

    first = text(one, 13.0)
    drawn_once = kept["utf-8"]
    assert "elapsed 0:00:14" in text(one, 14.0)
    assert kept["utf-8"] is drawn_once
    assert "Another one." in text(other, 14.0)
    assert text(one, 13.0) == first
    console.width = 60
    assert max(map(len, text(one, 13.0).splitlines())) <= 60


# ---------------------------------------------------------------- plain lines


def plain_display() -> tuple[PlainDisplay, list[str], Time]:
    lines, clock = [], Time()
    display = PlainDisplay(RunState("RL (toy)", "runs/toy", 10), clock=clock, write=lines.append)
    display.open()
    return display, lines, clock


def begin(display: PlainDisplay, rows: list[dict] | None = None, done: int = 0) -> None:
    display.begin(RunState("RL (toy)", "runs/toy", 10, done).resumed(rows or [], ()))


def test_plain_lines():
    display, lines, clock = plain_display()
    begin(display, [{"step": 0, "val/numbers/avg_at_8": 0.5, "val/numbers/greedy": 0.4}])
    assert lines == [
        "RL (toy): 0/10 steps", "RL (toy): evaluation at step 0: numbers avg@8 0.500",
    ]  # fmt: skip
    lines.clear()
    clock.now += 4.0
    display.step(StepView(1, metrics(1), 300))
    assert lines == []
    clock.now += 6.0
    display.step(StepView(2, metrics(2), 300))
    assert lines == [
        "RL (toy): 2/10 steps, 5.0 s/step, 40 s left, 150 tokens/s, reward 0.52, verified 0.48, "
        "gap +0.04"
    ]


def test_plain_lines_are_few():
    display, lines, clock = plain_display()
    begin(display)
    lines.clear()
    for step in range(1, 10):
        clock.now += 3.0
        display.step(StepView(step, metrics(step)))
    # 27 s: lines at 12 and 24 s.
    assert [line.split(",")[0] for line in lines] == [
        "RL (toy): 4/10 steps",
        "RL (toy): 8/10 steps",
    ]
    clock.now += 0.1
    display.step(StepView(10, metrics(10)))
    assert lines[-1].startswith("RL (toy): 10/10 steps")
    assert ", 0 s left" in lines[-1]
    display.close()
    assert len(lines) == 3  # the end has been said


def test_plain_alarm_and_evaluation_come_at_once():
    display, lines, clock = plain_display()
    begin(display, [{"step": 0, "val/numbers/avg_at_8": 0.5}])
    lines.clear()
    clock.now += 1.0
    display.step(StepView(3, metrics(3, **{"val/numbers/avg_at_8": 0.75}), 300, (GAP,)))
    assert lines == [
        "RL (toy): ALARM at step 3, gap: the mean score exceeds accuracy by 0.40 "
        "(alarms/000003_gap.jsonl)",
        "RL (toy): evaluation at step 3: numbers avg@8 0.750 (start 0.500)",
    ]


def test_plain_end_of_a_stopped_run():
    display, lines, _ = plain_display()
    begin(display)
    display.step(StepView(1, metrics(1)))
    display.close()
    display.close()
    assert [line.split(",")[0] for line in lines] == [
        "RL (toy): 0/10 steps",
        "RL (toy): 1/10 steps",
    ]


def test_plain_resumed_run():
    display, lines, clock = plain_display()
    begin(display, [{"step": 0, "val/numbers/avg_at_8": 0.5}, {"step": 7, **metrics(7)}], done=7)
    assert lines == ["RL (toy): from step 7 of 10"]
    clock.now += 12.0
    display.step(StepView(8, metrics(8, **{"val/numbers/avg_at_8": 0.25}), 300))
    assert lines[1] == "RL (toy): evaluation at step 8: numbers avg@8 0.250 (start 0.500)"
    # The pace is that of this process: 12 s for the only step here.
    assert lines[2].startswith("RL (toy): 8/10 steps, 12.0 s/step, 24 s left")


def test_plain_bars_inside_speak_only_when_they_take_long(capsys):
    display, lines, clock = plain_display()
    with hosted(display), progress("evaluation", 64, "problem") as bar:
        clock.now += 5.0
        bar.advance(16)
        assert lines == []
        clock.now += 5.0
        bar.advance(16)
        clock.now += 5.0
        bar.advance(32)
    assert lines == ["evaluation: 32/64 problems"]
    assert capsys.readouterr().out == ""


def test_plain_lines_in_any_encoding(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    display = PlainDisplay(RunState("RL (é)", "r", 10))
    display.begin(RunState("RL (é)", "r", 10, 0))
    assert raw.getvalue() == b"RL (?): 0/10 steps\n"


# ---------------------------------------------------------------- bars and their host


def test_quiet_bars_are_silent(capsys):
    set_quiet(True)
    try:
        with progress("x", 3, "row") as bar:
            bar.advance()
    finally:
        set_quiet(False)
    with Silent().bar("x", 3, "row", 0) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_host_is_given_back(capsys):
    display, lines, _ = plain_display()
    with pytest.raises(RuntimeError, match="in the middle"), hosted(display):
        raise RuntimeError("in the middle")
    with progress("x", 1, "row") as bar:
        bar.advance()
    assert lines == []
    assert capsys.readouterr().out.startswith("x: 0/1 rows\n")


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_file_is_no_terminal_whatever_is_said(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not draws(Console(file=io.StringIO()))


# ---------------------------------------------------------------- in place


class Screenful(io.StringIO):
    def isatty(self) -> bool:
        return True


def live(width: int = 100, height: int = 30) -> tuple[LiveDisplay, Screenful, Time]:
    out, clock = Screenful(), Time()
    console = Console(
        file=out, width=width, height=height, force_terminal=True, color_system=None, _environ={}
    )
    # A refresh every hour: what is drawn is drawn by the test.
    display = LiveDisplay(RunState("RL (toy)", "r", 10), console, refreshes=1 / 3600, clock=clock)
    return display, out, clock


def refreshing() -> list[threading.Thread]:
    found = [thread for thread in threading.enumerate() if "Refresh" in type(thread).__name__]
    for thread in found:
        thread.join(timeout=5)
    return [thread for thread in found if thread.is_alive()]


def interrupted(display: LiveDisplay) -> None:
    try:
        display.open()
        display.begin(RunState("RL (toy)", "r", 10, 0))
        display.step(StepView(1, metrics(1)))
        with display.bar("evaluation, step 1", 64, "problem", 0) as bar:
            bar.advance(8)
            raise KeyboardInterrupt
    finally:
        display.close()
        display.close()


def test_live_shows_the_last_state_and_the_cursor_after_an_exception():
    display, out, _ = live()
    stdout, stderr = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt):
        interrupted(display)
    text = out.getvalue()
    last = text[text.rindex("RL (toy)") :]
    assert "1/10 steps" in last
    assert "evaluation" not in last
    assert text.count(f"{ESC}[?25l") == 1
    assert text.rindex(f"{ESC}[?25h") > text.rindex("1/10 steps")
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert refreshing() == []


def test_live_bars_nest_inside_the_display():
    display, out, clock = live()
    display.open()
    with hosted(display):
        display.begin(RunState("RL (toy)", "r", 10, 0))
        with progress("outer", 8, "row") as outer, progress("inner", 4, "row") as inner:
            outer.advance(2)
            clock.now += 1.0
            inner.advance(1, "note")
            assert [(bar.title, bar.done, bar.note) for bar in display.inside] == [
                ("outer", 2, ""), ("inner", 1, "note"),
            ]  # fmt: skip
            display._live.refresh()
            assert "2/8 rows" in out.getvalue()
            assert "1/4 rows" in out.getvalue()
            print("a word from elsewhere")
        assert display.inside == ()
    display.close()
    # What was printed stands on a line of its own, above the block.
    assert "a word from elsewhere\n" in out.getvalue().replace("\r", "")


def test_live_prints_alarms_above():
    display, out, _ = live()
    display.open()
    display.begin(RunState("RL (toy)", "r", 10, 2))
    display.step(StepView(3, metrics(3), 1, (GAP,)))
    display.close()
    assert (
        "ALARM at step 3, gap: the mean score exceeds accuracy by 0.40 (alarms/000003_gap.jsonl)\n"
        in out.getvalue()
    )


def test_live_clears_a_terminal_that_became_smaller():
    display, out, _ = live(100)
    display.open()
    display._live.refresh()
    assert f"{ESC}[2J" not in out.getvalue()
    display.console.size = (60, 30)
    display._live.refresh()
    assert out.getvalue().count(f"{ESC}[2J{ESC}[H") == 1
    display.console.size = (90, 30)
    display._live.refresh()
    assert out.getvalue().count(f"{ESC}[2J") == 1
    display.close()


def test_log_handlers_follow_the_streams():
    old, new, other = io.StringIO(), io.StringIO(), io.StringIO()
    held, foreign = logging.StreamHandler(old), logging.StreamHandler(other)
    logger = logging.getLogger("cooper.tests.display")
    logger.addHandler(held)
    logger.addHandler(foreign)
    try:
        with redirected_logs((old,), (new,)):
            logger.warning("inside")
        logger.warning("after")
    finally:
        logger.removeHandler(held)
        logger.removeHandler(foreign)
    assert new.getvalue() == "inside\n"
    assert old.getvalue() == "after\n"
    assert other.getvalue() == "inside\nafter\n"
