"""The table on the terminal, and the same as JSON."""

import json
import statistics


def number(value):
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def spread(values):
    """The median, and half of the distance from the lowest to the highest round."""
    if not values:
        return ""
    middle = statistics.median(values)
    around = (max(values) - min(values)) / 2
    return number(middle) + (f" ±{100 * around / middle:.0f}%" if len(values) > 1 and middle > 0 else "")


def ratio_of(row):
    if row.most_loss is not None:
        low, high = row.interval
        return f"{statistics.fmean(row.ratios):.4f} ({low:.4f}..{high:.4f})"
    return spread(row.ratios)


def to_reach(row):
    if row.most_loss is not None:
        return f"loss < {100 * row.most_loss:g}% or none in interval"
    for bound, sign in ((row.at_least, ">="), (row.at_most, "<=")):
        if bound is not None:
            return f"{'' if row.ratios else row.unit + ' '}{sign} {bound:g}"
    return "shown"


def verdict(row):
    return {True: "yes", False: "NO", None: ""}[row.reached]


def table(rows):
    lines = [("workload", "unit", "figure", "limit", "ratio", "to reach", "reached")]
    lines += [(row.workload, row.unit, spread(row.figures), spread(row.limits), ratio_of(row), to_reach(row), verdict(row)) for row in rows]
    below = [None] + ["; ".join(word for word in (row.limit and "limit: " + row.limit, row.note) if word) for row in rows]
    return aligned(lines, (0, 1, 5, 6), below)


def aligned(lines, left, below=None):
    """The first line is the heading. left: the columns that hold words; below: a remark under each line."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    text = []
    for n, line in enumerate(lines):
        cells = [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        text.append("  ".join(cells).rstrip())
        if n == 0:
            text.append("  ".join("-" * width for width in widths))
        elif below and below[n]:
            text.append("    " + below[n])
    return "\n".join(text)


def as_markdown(facts, rows):
    lines = ["| workload | figure | limit | ratio | to reach | reached |", "|---|--:|--:|--:|---|---|"]
    lines += ["| " + " | ".join((f"{row.workload} ({row.unit})", spread(row.figures), spread(row.limits), ratio_of(row), to_reach(row), verdict(row))) + " |"
              for row in rows]
    return "; ".join(f"{name}: {facts[name]}" for name in ("at", "PostgreSQL", "machine", "kernel, file system", "form") if name in facts) + "\n\n" + "\n".join(lines) + "\n"


def as_json(about, rows):
    return json.dumps({"about": about, "rows": [{
        "workload": row.workload, "unit": row.unit, "figures": row.figures, "limits": row.limits, "ratios": row.ratios,
        "limit": row.limit, "to_reach": to_reach(row), "reached": row.reached, "note": row.note,
        **({"mean_ratio": statistics.fmean(row.ratios), "interval_95": row.interval} if row.most_loss is not None else {}),
        "detail": row.detail} for row in rows]}, indent=1) + "\n"
