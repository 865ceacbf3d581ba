"""A run on a terminal of any size: what matters most stays when there is little room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from cooper.display.plain import alarm_message, worst_file
from cooper.display.state import ACCURACY, AUROC, GAP, REWARD, Evaluated, RunState, Sample
from cooper.display.texts import clean, crop, duration, encodable, sparkline, wrap
from cooper.monitoring import Alarm
from cooper.progress import rate_text

Line = list[Segment]
# By encoding: a state, a width, and what has been drawn for the two.
Kept = dict[str, tuple[RunState, int, tuple[list[Line], ...]]]

_WIDEST = 120  # cells; longer lines are hard to read
_TWO_COLUMNS = 76  # cells from which the figures stand in two columns
_BAR = 12  # cells that a bar needs
_TITLE = 40  # cells that a bar's title may take
_ALARMS = 3
_RECENT = 20  # steps for which an alarm keeps its banner
_COMPLETION_LINES = 4
_FULL = 20  # rows from which there is room for empty ones

_DRAWN = (
    ("reward", REWARD, ".3f", "bold cyan"),
    ("verified", ACCURACY, ".3f", "bold green"),
    ("gap", GAP, "+.3f", "yellow"),
    ("AUROC", AUROC, ".3f", "magenta"),
)
_OTHERS = (
    ("KL", "policy/kl", ".4f"),
    ("entropy", "policy/entropy", ".3f"),
    ("mean length", "completions/mean_length", ".1f"),
    ("truncated", "completions/truncated_frac", ".1%"),
    ("undecided", "verifier/undecided", ".1%"),
    ("pairs", "pairs/built", ".0f"),
)
_VERDICTS = {"correct": "bold green", "incorrect": "bold red"}


@dataclass(frozen=True)
class Inside:
    """A bar of something that goes on inside a step.

    Attributes:
        title: what it is.
        total: units in all.
        unit: name of one, in the singular.
        done: units done.
        first: units done before it began.
        began: when, on the display's clock.
        note: how it goes.
    """

    title: str
    total: int
    unit: str
    done: int
    first: int
    began: float
    note: str = ""


class Screen:
    """Draws a state; a Rich renderable.

    Args:
        state: of the run.
        inside: bars inside it, the outermost first.
        began: when the display was opened, on its clock.
        now: on its clock.
        kept: what the screens before have drawn of the same run; filled here.
    """

    def __init__(
        self,
        state: RunState,
        inside: Sequence[Inside],
        began: float,
        now: float,
        kept: Kept | None = None,
    ) -> None:
        self.state, self.inside, self.began, self.now = state, inside, began, now
        self.kept: Kept = {} if kept is None else kept

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw as much as there is room for."""
        width = max(min(options.max_width, _WIDEST), 1)
        narrow = options.update(width=width, height=None)
        pen = _Pen(console, narrow, width)
        figures, evaluation, alarms, sample = self._still(pen)
        # Rank 0 stays longest. One row stays free for what is printed meanwhile.
        rows = console.size.height - 1
        gap = [[Segment("")]] if rows >= _FULL else []
        sections: list[tuple[int, list[Line]]] = [
            (2, self._header(pen)),
            (0, self._progress(pen)),
            (1, [line for bar in self.inside for line in self._inside(pen, bar)]),
            (7, gap),
            (4, figures),
            (5, evaluation),
            (7, gap if alarms else []),
            (3, alarms),
            (7, gap if sample else []),
            (6, sample),
        ]
        for line in fitted(sections, rows):
            yield from line
            yield Segment.line()

    def _still(self, pen: _Pen) -> tuple[list[Line], ...]:
        """What only a step or another size changes: drawn once, since drawing costs CPU time."""
        state, width, lines = self.kept.get(pen.encoding, (None, 0, ()))
        if state is not self.state or width != pen.width:
            parts = (self._figures, self._evaluation, self._alarms, self._sample)
            lines = tuple(part(pen) for part in parts)
            self.kept[pen.encoding] = (self.state, pen.width, lines)
        return lines

    def _header(self, pen: _Pen) -> list[Line]:
        title, folder = clean(self.state.title), clean(self.state.folder)
        elapsed = f"elapsed {duration(self.now - self.began)}"
        room = pen.width - cell_len(title) - cell_len(elapsed) - 4
        if room < 8:
            return pen.lines(pen.text(crop(title, pen.width), "bold"))
        folder = crop(folder, room, left=True)
        space = " " * (room - cell_len(folder) + 2)
        return pen.lines(
            Text.assemble((title, "bold"), "  ", (folder, "dim"), space, (elapsed, "dim"))
        )

    def _progress(self, pen: _Pen) -> list[Line]:
        state = self.state
        if state.done is None:
            return pen.lines(Text("preparing", style="dim"))
        pace = state.seconds_a_step
        ended = state.done >= state.total
        facts = [
            (f"{state.done}/{state.total} steps", "bold"),
            (f"left {duration(0 if ended else state.seconds_left(self.now))}", ""),
            (rate_text(1 / pace if pace else None, "step"), "cyan"),
        ]
        if state.tokens_per_second is not None:
            facts.append((f"{state.tokens_per_second:,.0f} tokens/s", "cyan"))
        return self._bar(pen, "", state.done, state.total, facts)

    def _inside(self, pen: _Pen, bar: Inside) -> list[Line]:
        seconds = self.now - bar.began
        speed = (bar.done - bar.first) / seconds if seconds > 0 else 0.0
        left = (bar.total - bar.done) / speed if speed else None
        facts = [
            (f"{bar.done}/{bar.total} {bar.unit}s", ""),
            (f"left {duration(left)}", ""),
            (rate_text(speed, bar.unit), "cyan"),
        ]
        if bar.note:
            facts.append((clean(bar.note), "dim"))
        return self._bar(pen, clean(bar.title), bar.done, bar.total, facts)

    def _bar(
        self, pen: _Pen, title: str, done: int, total: int, facts: list[tuple[str, str]]
    ) -> list[Line]:
        """A bar with as many of the facts as leave room for it and its title, in their order."""
        table = Table.grid(padding=(0, 2, 0, 0), expand=True, pad_edge=False)
        row: list[Text | ProgressBar] = []
        shown, room = [facts[0]], pen.width - cell_len(facts[0][0]) - 2
        needed = _BAR + (min(cell_len(title), _TITLE) + 2 if title else 0)
        for fact in facts[1:]:
            if room - cell_len(fact[0]) - 2 < needed:
                break
            shown.append(fact)
            room -= cell_len(fact[0]) + 2
        title = crop(title, min(room - _BAR - 2, _TITLE)) if room >= 2 * _BAR else ""
        if title:
            table.add_column(no_wrap=True)
            row.append(pen.text(title))
            room -= cell_len(title) + 2
        if room >= _BAR:
            table.add_column(ratio=1)
            row.append(
                ProgressBar(
                    total=max(total, 1),
                    completed=done,
                    complete_style="cyan",  # red is for alarms
                    finished_style="green",
                )
            )
        if not row:
            return pen.lines(pen.text(crop(facts[0][0], pen.width), facts[0][1]))
        for fact, style in shown:
            table.add_column(no_wrap=True)
            row.append(pen.text(fact, style))
        table.add_row(*row)
        return pen.lines(table)

    def _figures(self, pen: _Pen) -> list[Line]:
        if not self.state.metrics:
            return []
        two = pen.width >= _TWO_COLUMNS
        others = self._others(pen)
        if not two:
            table = Table.grid()
            table.add_row(self._drawn(pen, pen.width))
            table.add_row(others)
            return pen.lines(table)
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_row(self._drawn(pen, pen.width - 26), others)
        return pen.lines(table)

    def _drawn(self, pen: _Pen, width: int) -> Table:
        state = self.state
        shown = [spec for spec in _DRAWN if any(v is not None for v in state.drawn[spec[1]])]
        cells = min(width - 27, 40)
        spark = cells >= 8
        steps = min(len(state.drawn[REWARD]), cells)
        table = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "right", "right", "left")[: 4 if spark else 3]:
            table.add_column(justify=justify, no_wrap=True)
        heads = ("", "now", "mean10", f"last {steps} steps" if steps > 1 else "")
        table.add_row(*(Text(head, style="dim") for head in heads[: 4 if spark else 3]))
        # Reward and verified accuracy share a scale, so that one can be seen to leave the other.
        scales = {key: self._scale(key) for _, key, _, _ in shown}
        pair = [scales[key] for key in (REWARD, ACCURACY) if key in scales]
        common = (min(low for low, _ in pair), max(high for _, high in pair)) if pair else (0, 1)
        for name, key, form, style in shown:
            low, high = common if key in (REWARD, ACCURACY) else scales[key]
            row = [Text(name, style=style), number(state.figure(key), form)]
            row.append(number(state.mean(key), form, "dim"))
            if spark:
                drawn = sparkline(state.drawn[key][-cells:], low, high, pen.ascii)
                row.append(Text(drawn, style=style.removeprefix("bold ")))
            table.add_row(*row)
        return table

    def _scale(self, key: str) -> tuple[float, float]:
        known = [v for v in self.state.drawn[key] if v is not None]
        return min(known), max(known)

    def _others(self, pen: _Pen) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        if pen.width >= _TWO_COLUMNS:
            table.add_row("", "")  # beside the heads
        for name, key, form in _OTHERS:
            value = self.state.figure(key)
            if value is not None:
                table.add_row(name, number(value, form))
        return table

    def _evaluation(self, pen: _Pen) -> list[Line]:
        found = list(self.state.averages().items())[:3]
        if not found:
            return []
        width = max(cell_len(clean(name)) for name, _ in found)
        return [
            line
            for name, e in found
            for line in pen.lines(evaluation_text(clean(name), e, width, pen))
        ]

    def _alarms(self, pen: _Pen) -> list[Line]:
        alarms = self.state.alarms
        since = (self.state.done or 0) - _RECENT
        newest = [alarm for alarm in alarms if alarm.step > since][: -_ALARMS - 1 : -1]
        lines = [line for alarm in newest for line in self._alarm(pen, alarm)]
        older = len(alarms) - len(newest)
        if older:
            last = alarms[older - 1]
            more = f"{older} earlier alarm{'s' if older > 1 else ''} in alarms.jsonl, the last at "
            lines += pen.lines(pen.text(f"{more}step {last.step}: {clean(last.name)}", "red"))
        return lines

    def _alarm(self, pen: _Pen, alarm: Alarm) -> list[Line]:
        head = f" ALARM step {alarm.step} {alarm.name} "
        file = f"worst rollouts: {worst_file(alarm)}"
        room = pen.width - cell_len(head) - 1
        text = alarm_message(alarm)
        beside = room >= 20
        first = wrap(text, room, 1 if cell_len(text) <= room else 2)[:1] if beside else []
        rest = text[len(first[0]) :].lstrip() if first else text
        lines = pen.lines(
            Text.assemble(pen.text(head, "bold white on red"), " ", pen.text("".join(first), "red"))
        )
        for row in wrap(rest, max(pen.width - 2, 1), 2):
            lines += pen.lines(pen.text(f"  {row}", "red"))
        return lines + pen.lines(pen.text(f"  {crop(file, pen.width - 2, left=True)}", "dim"))

    def _sample(self, pen: _Pen) -> list[Line]:
        sample = self.state.sample
        if sample is None:
            return []
        lines = pen.lines(
            Text.assemble(
                (f"sample of step {sample.step}: ", "dim"),
                (sample.verdict, _VERDICTS.get(sample.verdict.lower(), "bold yellow")),
                (sample_figures(sample), "dim"),
            )
        )
        for name, text, most in (
            ("question", sample.question, 2),
            ("reference", sample.reference, 1),
            ("completion", sample.completion, _COMPLETION_LINES),
        ):
            rows = wrap(clean(text), max(pen.width - 12, 1), most) or ["-"]
            for index, row in enumerate(rows):
                label = name if index == 0 else ""
                lines += pen.lines(Text.assemble((f"{label:<12}", "dim"), pen.text(row)))
        return lines


class _Pen:
    """Turns renderables into lines of the screen's width."""

    def __init__(self, console: Console, options: ConsoleOptions, width: int) -> None:
        self.console, self.options, self.width = console, options, width
        self.encoding = options.encoding
        self.ascii = options.ascii_only

    def text(self, text: str, style: str = "") -> Text:
        return Text(encodable(text, self.encoding), style=style, no_wrap=True, overflow="crop")

    def lines(self, what: Text | Table) -> list[Line]:
        if isinstance(what, Text):
            what.no_wrap, what.overflow = True, "crop"
            what.plain = encodable(what.plain, self.encoding)
        return self.console.render_lines(what, self.options, pad=False)


def number(value: float | None, form: str, style: str = "") -> Text:
    """A figure, or ``-`` where there is none."""
    return Text("-" if value is None else f"{value:{form}}", style=style)


def evaluation_text(name: str, found: Evaluated, width: int, pen: _Pen) -> Text:
    """``val avg@8  0.612 at step 10 (start 0.556, +0.056)``."""
    text = Text.assemble(
        pen.text(f"{name:<{width}}  "), (f"{found.value:.3f}", "bold"), f" at step {found.step}"
    )
    if found.start is not None and found.step:
        change = found.value - found.start
        style = "green" if change > 0 else "red" if change < 0 else ""
        text.append(f" (start {found.start:.3f}, ", style="dim")
        text.append(f"{change:+.3f}", style=style)
        text.append(")", style="dim")
    return text


def sample_figures(sample: Sample) -> str:
    """``, score 0.93, reward 0.93``, as far as they are there."""
    score = "" if sample.score is None else f", score {sample.score:.2f}"
    return f"{score}, reward {sample.reward:.2f}"


def fitted(sections: Sequence[tuple[int, list[Line]]], rows: int) -> list[Line]:
    """Choose the lines that are shown.

    Args:
        sections: rank and lines of each, in the order of the screen. Those of low rank get their
            room first; the last one that gets any is cut.
        rows: at most so many, but always one.
    """
    room = max(rows, 1)
    taken = [0] * len(sections)
    for index in sorted(range(len(sections)), key=lambda i: sections[i][0]):
        taken[index] = min(len(sections[index][1]), room)
        room -= taken[index]
    return [line for (_, lines), n in zip(sections, taken, strict=True) for line in lines[:n]]
