# SPDX-License-Identifier: Apache-2.0
"""Draws horizontal bars as SVG: a group for each row, a bar for each series."""

from html import escape

_COLOURS = ["#2f6fb0", "#c46a1b", "#4f9153", "#8a5fa8"]
_WIDTH = 1000
_LABEL_WIDTH = 370
_VALUE_WIDTH = 140
_BAR = 14
_GAP = 10
_TOP = 62
_FONT = 'font-family="sans-serif"'


def _text(x, y, text, size=12, anchor="start", colour="#222"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}">{escape(text)}</text>')


def _legend(series):
    parts, x = [], float(_LABEL_WIDTH)
    for index, name in enumerate(series):
        parts.append(f'<rect x="{x:.1f}" y="34" width="12" height="12" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        parts.append(_text(x + 17, 44.5, name))
        x += 17 + 7.2 * len(name) + 22
    return parts


def _bar(y, colour, scale, value, best, unit):
    """A full bar up to the median, and a thin line on to the best round."""
    width = value * scale
    parts = [f'<rect x="{_LABEL_WIDTH}" y="{y:.1f}" width="{width:.1f}" height="{_BAR - 3}" fill="{colour}"/>']
    end = width
    if best is not None and best > value:
        end = best * scale
        middle = y + (_BAR - 3) / 2
        parts.append(f'<line x1="{_LABEL_WIDTH + width:.1f}" y1="{middle:.1f}" x2="{_LABEL_WIDTH + end:.1f}" '
                     f'y2="{middle:.1f}" stroke="{colour}" stroke-width="2"/>')
    label = f"{value:.3g}" if best is None else f"{value:.3g} ({best:.3g})"
    parts.append(_text(_LABEL_WIDTH + end + 5, y + _BAR - 4.5, f"{label} {unit}", 10.5))
    return parts


def bar_chart(title, unit, series, groups):
    """`groups`: (label, [(value, best or None) or None for each of `series`]). Values are at least 0."""
    highest = max((max(bar[0], bar[1] or 0) for _, bars in groups for bar in bars if bar), default=0) or 1
    scale = (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) / highest
    parts, y = [], float(_TOP)
    for label, bars in groups:
        parts.append(_text(_LABEL_WIDTH - 8, y + len(bars) * _BAR / 2 + 3, label, 11.5, "end"))
        for index, bar in enumerate(bars):
            if bar is not None:
                parts += _bar(y + index * _BAR, _COLOURS[index % len(_COLOURS)], scale, *bar, unit)
        y += len(bars) * _BAR + _GAP
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y:.0f}" '
            f'viewBox="0 0 {_WIDTH} {y:.0f}">',
            f'<rect width="{_WIDTH}" height="{y:.0f}" fill="#ffffff"/>',
            _text(12, 24, title, 16)]
    axis = [f'<line x1="{_LABEL_WIDTH}" y1="{_TOP - 6}" x2="{_LABEL_WIDTH}" y2="{y - 4:.1f}" stroke="#888"/>']
    return "\n".join(head + _legend(series) + parts + axis + ["</svg>"]) + "\n"
