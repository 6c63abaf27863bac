"""The results of the benchmarks as Markdown and as charts."""

import collections.abc
import dataclasses
import datetime
import os
import pathlib
import platform
import re
import statistics
import textwrap

from common import per_operation, ratio, table

OURS = "ours"
COLORS = {OURS: "#c2410c"}  # bars by name; those of the floor and of the others:
FLOOR_COLOR, OTHER_COLOR = "#1f2937", "#94a3b8"


@dataclasses.dataclass
class Goal:
    """The goal that a figure of ours is at most `most`."""

    figure: str
    value: float
    most: float
    unit: str = ""

    def met(self):
        return self.value <= self.most

    def row(self, title):
        value = f"{self.value:.3f}" if self.value < 10 else f"{self.value:.1f}"
        ours, most = (f"{text} {self.unit}".rstrip() for text in (value, f"{self.most:g}"))
        return [title, self.figure, ours, f"≤ {most}", "met" if self.met() else "**MISSED**"]


@dataclasses.dataclass
class Workload:
    title: str
    measure: collections.abc.Callable  # (args, title) -> Section
    quick: bool = False  # whether `make bench-quick` runs it


@dataclasses.dataclass
class Section:
    """A workload: how it was measured, a row and a bar (value, least, most) for each server."""

    title: str
    method: str
    header: list
    rows: list
    bars: dict
    unit: str
    floor: str
    goals: list

    def markdown(self, picture=""):
        method = textwrap.fill(self.method, 100, break_long_words=False, break_on_hyphens=False)
        return f"{method}\n\n{picture}{table(self.header, self.rows)}"

    def file_name(self):
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower().replace(",", "")) + ".svg"


def number(x):
    """Returns a number as text with at least three digits, but at most two after the point."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.1f}" if x >= 100 else f"{x:.2f}"


def ratio_text(m, least, most):
    return f"{m:.3f} ({least:.2f}–{most:.2f})"


def costs(title, method, results, calls, floor, most=None, most_calls=None):
    """Returns the section of a workload whose figure is the processor time of an operation.
    `results` and `calls` (the system calls of an operation) are by server; `most` and `most_calls`
    are goals."""
    cpu = {name: per_operation(bursts) for name, bursts in results.items()}
    header = ["", "CPU µs/op", f"of {floor} (min–max)", "op/s", "p50 µs", "p99 µs", "p99.9 µs"]
    header.append("calls/op")
    rows, bars = [], {}
    for name, bursts in results.items():
        micros = [seconds * 1e6 for seconds in cpu[name]]
        bars[name] = (statistics.median(micros), min(micros), max(micros))
        rate = statistics.median(b["operations"] / b["seconds"] for b in bursts)
        quantiles = [statistics.median(b[q] for b in bursts) for q in ("p50", "p99", "p999")]
        numbers = [number(x) for x in [bars[name][0], rate, *quantiles, calls[name]]]
        numbers.insert(1, ratio_text(*ratio(cpu[name], cpu[floor])))
        rows.append([name, *numbers])
    goals = []
    if most is not None:
        goals.append(Goal(f"CPU time, of {floor}", ratio(cpu[OURS], cpu[floor])[0], most))
    if most_calls is not None:
        goals.append(Goal("system calls of an operation", calls[OURS], most_calls))
    unit = "µs of processor time of an operation"
    return Section(title, method, header, rows, bars, unit, floor, goals)


def amounts(title, method, values, unit, floor, *goals):
    """Returns the section of a workload that gives one number for each server."""
    header = ["", unit, f"of {floor}"]
    rows = [[name, number(x), f"{x / values[floor]:.3f}"] for name, x in values.items()]
    bars = {name: (x, x, x) for name, x in values.items()}
    return Section(title, method, header, rows, bars, unit, floor, list(goals))


def goals_table(sections):
    rows = [goal.row(section.title) for section in sections for goal in section.goals]
    return table(["workload", "figure", "ours", "goal", "verdict"], rows)


def machine(congestion):
    with open("/proc/cpuinfo") as cpuinfo:
        model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read())
    rows = [
        ["date", datetime.date.today().isoformat()],
        ["processor", model[1] if model else platform.machine()],
        ["cores", str(os.cpu_count())],
        ["kernel", f"{platform.system()} {platform.release()}"],
        ["congestion control", f"{congestion}, loopback"],
    ]
    return "\n".join(f"- {name}: {value}" for name, value in rows)


def chart(section, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "netserver"  # the same picture makes the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    names = list(section.bars)
    values, least, most = zip(*section.bars.values())
    whiskers = [[v - a for v, a in zip(values, least)], [b - v for v, b in zip(values, most)]]
    colors = {**COLORS, section.floor: FLOOR_COLOR}
    figure, axes = pyplot.subplots(figsize=(7, 0.9 + 0.32 * len(names)), layout="constrained")
    bars = axes.barh(
        names, values, color=[colors.get(name, OTHER_COLOR) for name in names],
        xerr=whiskers if any(map(any, whiskers)) else None, ecolor="#64748b",
    )  # fmt: skip
    axes.bar_label(bars, [number(v) for v in values], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(section.unit)
    axes.set_title(section.title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(folder, introduction, congestion, sections):
    """Writes BENCHMARKS.md into the folder and the charts beside it."""
    charts = pathlib.Path(folder) / "benchmarks"
    charts.mkdir(parents=True, exist_ok=True)
    for old in charts.glob("*.svg"):
        old.unlink()
    parts = [f"# Benchmarks\n\n{introduction}\n\n{machine(congestion)}"]
    parts.append(f"## Goals\n\n{goals_table(sections)}")
    for section in sections:
        chart(section, charts / section.file_name())
        picture = f"![{section.title}](benchmarks/{section.file_name()})\n\n"
        parts.append(f"## {section.title}\n\n{section.markdown(picture)}")
    (pathlib.Path(folder) / "BENCHMARKS.md").write_text("\n\n".join(parts) + "\n")
