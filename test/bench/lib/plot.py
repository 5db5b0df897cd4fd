"""The table as a picture: SVG written by hand, no library needed."""

import statistics
from html import escape

from .report import number, to_reach

WIDTH, LEFT, BAR, LINE = 1080, 330, 360, 24
GOOD, BAD, SHOWN, MARK, INK, FAINT = "#2e8b57", "#c0562f", "#8a97a5", "#1d2733", "#1d2733", "#6b7785"


def limits(facts, rows):
    """Two panels: where more is better, the ratio to the limit; where less is better, what is judged over what is allowed."""
    more = [row for row in rows if row.at_least is not None or row.most_loss is not None]
    less = [row for row in rows if row.at_most is not None]
    marks, y = [], 66
    for heading, some in (("More is better: ratio to the limit (the mark is what is to be reached)", more),
                          ("Less is better: share of what is allowed (the mark)", less)):
        if not some:
            continue
        marks.append(text(20, y, heading, weight="bold"))
        y += 14
        for row in some:
            marks += bar(y, row)
            y += LINE
        y += 30
    return page(facts, "underway beside plain SQL", marks, y)


def systems(facts, groups):
    """groups: (heading, unit, {system: figure}); each with a scale of its own."""
    marks, y = [], 66
    for heading, unit, figures in groups:
        marks.append(text(20, y, heading, weight="bold"))
        y += 10
        for system, figure in figures.items():
            length = BAR * figure / max(figures.values())
            marks += [text(LEFT - 8, y + LINE / 2 + 4, system, anchor="end"), rectangle(y, length, GOOD if system == "underway" else SHOWN),
                      text(LEFT + BAR + 12, y + LINE / 2 + 4, f"{number(figure)} {unit}", size=11, fill=FAINT)]
            y += LINE
        y += 26
    return page(facts, "underway beside its peers", marks, y)


def page(facts, title, marks, height):
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            text(20, 26, f"{title}, {facts['form']} form, {facts['at']}", size=16, weight="bold"),
            text(20, 44, f"PostgreSQL {facts['PostgreSQL']}; {facts['machine']}; load at the start {facts['load at the start']:.1f}",
                 fill=FAINT, size=11)]
    return "\n".join([*head, *marks, "</svg>"]) + "\n"


def bar(y, row):
    value = statistics.fmean(row.ratios) if row.most_loss is not None else statistics.median(row.judged)
    if row.at_most is not None:
        share, mark, most = value / row.at_most, 1, 1.5
    else:
        share, mark = value, row.at_least or 1 - row.most_loss
        most = max(1.25, 1.25 * mark)
    length = BAR * min(share, most) / most
    at = LEFT + BAR * mark / most
    middle = y + LINE / 2
    shown = f"{number(statistics.median(row.figures))} {row.unit}"
    shown += f", {value:.3g} of the limit" if row.ratios and row.judged == row.ratios else ""
    return [text(LEFT - 8, middle + 4, row.workload, anchor="end"),
            rectangle(y, length, {True: GOOD, False: BAD, None: SHOWN}[row.reached]),
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 1}" y2="{y + LINE - 1}" stroke="{MARK}" stroke-width="2"/>',
            text(LEFT + BAR + 12, middle + 4, f"{shown}  ({to_reach(row).strip()})", size=11, fill=FAINT)]


def rectangle(y, length, fill):
    return f'<rect x="{LEFT}" y="{y + 4}" width="{length:.1f}" height="{LINE - 8}" rx="2" fill="{fill}"/>'


def text(x, y, words, anchor="start", size=13, weight="normal", fill=INK):
    return f'<text x="{x}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{fill}">{escape(words)}</text>'
