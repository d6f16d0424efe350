"""A figure of a table that is already shown: the same numbers as a picture, and nothing more.

`draw_png` takes the text of a `ShownTable`, never a count, so a picture cannot say what its table
does not. The same table gives the same bytes: bundled fonts, default settings whatever the machine's
matplotlibrc says, and no metadata in the file.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import matplotlib
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from opensafely_lab.disclosure.figure_limits import MOST_ALONG_AXIS, MOST_SERIES
from opensafely_lab.disclosure.outcome import REDACTED, ShownTable

MOST_BARS_WITH_NUMBERS = 40

_WIDTH, _DPI = 8.4, 150
_LEFT, _RIGHT, _PLOT_HEIGHT = 0.85, 0.3, 3.3  # inches
_INK, _QUIET, _RULE, _PAPER = "#1d2733", "#5b6775", "#dde3ea", "#ffffff"
# Told apart by people who do not see red and green apart, and in grey by their order of lightness.
_COLOURS = ("#1f5a94", "#e5962d", "#3f9a73", "#8c4a86", "#7d8794", "#c7b436", "#5bb0d6", "#b3452f")
_STUB = 0.035  # height of the mark for a hidden cell, as a part of the axis
_CHARACTER = 0.0085  # width of a character in inches per point of size, about


class CannotDraw(Exception):
    """A table without the shape that a figure needs. Admission refuses these before."""


@frozen
class Caption:
    """The words around the picture. `hidden` explains the hatched mark."""

    title: str
    axis: str
    note: str
    hidden: str
    dummy: bool


@frozen
class _Chart:
    """A table turned for drawing: values by series and place, None where hidden, no totals."""

    along: str
    places: tuple[str, ...]
    series_name: str
    series: tuple[str, ...]
    values: Mapping[tuple[str, str], int | None]

    def value(self, series: str, place: str) -> int | None:
        return self.values[series, place]

    @property
    def top(self) -> int:
        return max((value for value in self.values.values() if value is not None), default=0)

    @property
    def any_hidden(self) -> bool:
        return any(value is None for value in self.values.values())


def draw_png(table: ShownTable, plot: str, caption: Caption) -> bytes:
    """The PNG of a table with one or two groups: the first along the axis, the second as colours.

    `plot` is "bar" or "line". Totals are not drawn. Hidden cells are hatched stubs of one height, so
    that they look neither like zero nor like a number. Raises `CannotDraw`.
    """
    chart = _chart(table)
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.simplefilter("ignore")  # a character that the font lacks is drawn as a box
        matplotlib.rcParams["hatch.linewidth"] = 0.8
        figure, axes = _page(chart, caption)
        draw = {"bar": _bars, "line": _lines}.get(plot)
        if draw is None:
            raise CannotDraw("unknown kind of plot")
        draw(axes, chart)
        written = io.BytesIO()
        # Software is the one chunk that matplotlib adds by itself.
        figure.savefig(written, format="png", dpi=_DPI, facecolor=_PAPER, metadata={"Software": None})
    return written.getvalue()


def _chart(table: ShownTable) -> _Chart:
    if table.label_columns not in (1, 2) or len(table.columns) != table.label_columns + 1:
        raise CannotDraw("a figure needs one or two groups and one measure")
    rows = [row for index, row in enumerate(table.rows) if index not in set(table.total_rows)]
    two = table.label_columns == 2
    places = tuple(dict.fromkeys(row[0] for row in rows))
    series = tuple(dict.fromkeys(row[1] for row in rows)) if two else ("",)
    if not rows or len(places) > MOST_ALONG_AXIS or len(series) > MOST_SERIES:
        raise CannotDraw("too much for one figure")
    values = {(row[1] if two else "", row[0]): None if row[-1] == REDACTED else int(row[-1]) for row in rows}
    if len(values) != len(rows) or len(values) != len(places) * len(series):
        raise CannotDraw("the table is not whole")
    return _Chart(table.columns[0], places, table.columns[1] if two else "", series, values)


# The page: everything that is not a bar or a line.


def _page(chart: _Chart, caption: Caption) -> tuple[Figure, Axes]:
    """A page just high enough: title, legend, room for the plot, labels below it, note."""
    title = textwrap.wrap(caption.title, 78) or [""]
    note = textwrap.wrap(caption.note, 122) or [""]
    labels, slanted, label_height = _axis_labels(chart.places)
    legend = _legend(chart, caption)
    top = 0.2 + 0.26 * len(title) + 0.28 + 0.3 * len(legend)
    bottom = label_height + 0.42 + 0.17 * len(note) + 0.14
    height = top + _PLOT_HEIGHT + bottom

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((_LEFT / _WIDTH, bottom / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, _PLOT_HEIGHT / height))

    def write(x: float, y: float, text: str, font: FontProperties, colour: str) -> None:
        figure.text(x / _WIDTH, y / height, text, fontproperties=font, color=colour, va="top", parse_math=False)

    y = height - 0.2
    for line in title:
        write(0.28, y, line, _font(13, "Bold"), _INK)
        y -= 0.26
    for line_of_legend in legend:
        drawn = figure.legend(
            [handle for handle, _ in line_of_legend],
            [text for _, text in line_of_legend],
            loc="upper left",
            bbox_to_anchor=(0.2 / _WIDTH, y / height),
            ncols=len(line_of_legend),
            frameon=False,
            prop=_font(9.5),
            labelcolor=_INK,
            handlelength=1.3,
            handleheight=1.0,
            columnspacing=1.5,
            borderpad=0.3,
        )
        for text in drawn.get_texts():
            text.set_parse_math(False)
        y -= 0.3
    write(0.28, y - 0.04, caption.axis, _font(9), _QUIET)
    y = 0.14 + 0.17 * len(note)
    for line in note:
        write(0.28, y, line, _font(8), _QUIET)
        y -= 0.17
    _frame(axes, chart, labels, slanted)
    if caption.dummy:
        _watermark(figure, axes)
    return figure, axes


def _frame(axes: Axes, chart: _Chart, labels: list[str], slanted: bool) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_QUIET)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.6, len(chart.places) - 0.4)
    axes.set_xticks(range(len(chart.places)))
    axes.set_xticklabels(
        labels,
        fontproperties=_font(9.5),
        color=_INK,
        parse_math=False,
        rotation=38 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
    )
    axes.tick_params(axis="x", length=0, pad=5)
    axes.set_xlabel(_in_words(chart.along), fontproperties=_font(9.5, "Bold"), color=_INK, labelpad=5, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=4, labelcolor=_QUIET)
    if chart.top == 0:  # nothing is shown: an axis with numbers would pretend that something is
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        return
    axes.set_ylim(0, chart.top * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    for label in axes.get_yticklabels():
        label.set_fontproperties(_font(9))


def _axis_labels(places: tuple[str, ...]) -> tuple[list[str], bool, float]:
    """The labels as they fit: wrapped if they can be, else slanted and cut. And their height in inches."""
    room = int((_WIDTH - _LEFT - _RIGHT) / (len(places) + 0.2) / (9.5 * _CHARACTER)) - 1
    wrapped = [textwrap.wrap(place, max(room, 1), break_long_words=False) or [""] for place in places]
    if all(len(line) <= room for lines in wrapped for line in lines) and max(map(len, wrapped)) <= 3:
        return ["\n".join(lines) for lines in wrapped], False, 0.08 + 0.17 * max(map(len, wrapped))
    cut = [place if len(place) <= 28 else place[:27] + "…" for place in places]
    return cut, True, 0.15 + max(map(len, cut)) * 9.5 * _CHARACTER * 0.62


def _legend(chart: _Chart, caption: Caption) -> list[list[tuple[Patch, str]]]:
    """What each colour is, and the hatching, in as many lines as the page is wide."""
    entries: list[tuple[Patch, str]] = []
    if chart.series_name:
        for number, series in enumerate(chart.series):
            entries.append((Patch(facecolor=_COLOURS[number]), series if len(series) <= 40 else series[:39] + "…"))
    if chart.any_hidden:
        entries.append((Patch(facecolor=_PAPER, edgecolor=_QUIET, hatch="/////", linewidth=0.8), caption.hidden))
    lines: list[list[tuple[Patch, str]]] = []
    left = 0.0
    for entry in entries:
        width = 0.6 + len(entry[1]) * 9.5 * _CHARACTER
        if width > left:
            lines.append([])
            left = _WIDTH - 0.4
        lines[-1].append(entry)
        left -= width
    return lines


def _watermark(figure: Figure, axes: Axes) -> None:
    box = axes.get_position()
    figure.text(
        box.x0 + box.width / 2,
        box.y0 + box.height / 2,
        "DUMMY DATA",
        fontproperties=_font(54, "Bold"),
        color="#b3452f",
        alpha=0.16,
        rotation=18,
        ha="center",
        va="center",
        zorder=10,
    )


# The data.


def _bars(axes: Axes, chart: _Chart) -> None:
    width = 0.78 / len(chart.series)
    numbers = len(chart.values) <= MOST_BARS_WITH_NUMBERS
    longest = len(f"{chart.top:,}")
    size, upright = _number_size(width, len(chart.places), longest)
    for number, series in enumerate(chart.series):
        for place, label in enumerate(chart.places):
            left = place - 0.39 + number * width
            value = chart.value(series, label)
            if value is None:
                _stub(axes, left, width, _COLOURS[number], note=numbers, size=size, upright=upright)
                continue
            axes.add_patch(Rectangle((left + width * 0.03, 0), width * 0.94, value, color=_COLOURS[number], lw=0))
            if numbers:
                _above(axes, left + width / 2, value, f"{value:,}", size=size, upright=upright, colour=_INK)


def _lines(axes: Axes, chart: _Chart) -> None:
    width = 0.34 / len(chart.series)
    for number, series in enumerate(chart.series):
        values = [chart.value(series, label) for label in chart.places]
        axes.plot(
            range(len(values)),
            [float("nan") if value is None else value for value in values],
            color=_COLOURS[number],
            linewidth=2.2,
            marker="o",
            markersize=5 if len(values) <= 30 else 3,
            solid_capstyle="round",
            clip_on=False,
        )
        for place, value in enumerate(values):
            if value is None:
                _stub(axes, place - 0.17 + number * width, width, _COLOURS[number], note=False, size=7, upright=False)


def _stub(axes: Axes, left: float, width: float, colour: str, *, note: bool, size: float, upright: bool) -> None:
    """The mark for a hidden cell: hatched, of one height, its edge in the colour of its series."""
    height = axes.get_ylim()[1] * _STUB
    axes.add_patch(
        Rectangle(
            (left + width * 0.06, 0),
            width * 0.88,
            height,
            facecolor=_PAPER,
            edgecolor=colour,
            hatch="/////",
            linewidth=0.9,
        )
    )
    if note:
        _above(axes, left + width / 2, height, "hidden", size=min(size, 8), upright=upright, colour=_QUIET)


def _above(axes: Axes, x: float, y: float, text: str, *, size: float, upright: bool, colour: str) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=90 if upright else 0,
        fontproperties=_font(size),
        color=colour,
        parse_math=False,
    )


def _number_size(width: float, places: int, longest: int) -> tuple[float, bool]:
    """The size of the numbers over the bars, and whether they have to stand upright."""
    inches = (_WIDTH - _LEFT - _RIGHT) / (places + 0.2) * width
    fits = inches / ((1 + max(longest, len("hidden"))) * _CHARACTER)
    return (min(fits, 9.0), False) if fits >= 6.5 else (min(8.0, inches * 60), True)


def _in_words(name: str) -> str:
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


@cache
def _font(size: float, face: str = "") -> FontProperties:
    """DejaVu Sans from matplotlib's own files: a system font of the same name may differ."""
    name = f"DejaVuSans-{face}.ttf" if face else "DejaVuSans.ttf"
    return FontProperties(fname=Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size=size)
