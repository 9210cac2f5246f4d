#!/usr/bin/env python3
"""Draws what `build/bench ... -o json` wrote as an SVG bar chart.    python3 bench/plot.py run.json -o run.svg [--value KEY]

Rows of models: tokens a second, one bar a row, light up to where the read bandwidth or the matrix peak would be reached; a panel
for each test, told apart by what differs between rows.
Rows of --tables: how many times better than the origin's number, on a logarithmic axis. Rows of --matmul: GFLOPS.
Several files are drawn below each other: the same test of two builds is then easy to compare. Rows of --formats: distance from the
source against bits a weight, both down is better; a line joins those that nothing beats in both. Python standard library only."""
import argparse
import json
import math
import sys
from xml.sax.saxutils import escape

BAR, GAP, PANEL, WIDTH, TOP = 16, 6, 20, 560, 54
COLOURS = {"part": "#d8e4f2", "bar": "#3b6ea8", "worse": "#b5533c", "line": "#999", "text": "#222"}


def kind_of(row):
    return "table" if "what" in row else "product" if "GFLOPS" in row else "model"


def label_of(row, shown):
    """What is written left of a bar; `shown`: the columns of models' rows that tell them apart."""
    kind = kind_of(row)
    if kind == "table":
        return f"{row['table']}: {row['what']}"
    if kind == "product":
        return f"{row['product']} {row['type']}, {row['path']}, {row['threads']} threads"
    return ", ".join(f"{row[key]} threads" if key == "threads" else str(row[key]) for key in shown)


def columns_that_differ(rows):
    columns = ("path", "isa", "threads", "cache MB", "n_batch")
    return ["model"] + [key for key in columns if len({row.get(key) for row in rows}) > 1]


def panels_of(rows):
    """[(title, rows)]: models by test, each with its own scale; everything else in one."""
    if any(kind_of(row) != "model" for row in rows):
        return [("", rows)]
    return [(test, [row for row in rows if row["test"] == test]) for test in dict.fromkeys(row["test"] for row in rows)]


def value_of(row, key):
    default = {"table": "times better", "product": "GFLOPS", "model": "t/s"}[kind_of(row)]
    value = row.get(key or default)
    return value if isinstance(value, (int, float)) else None


def ceiling_of(row, key):
    """Where the nearer of the two limits lies, in the unit of the value; None when it is not told."""
    if key or kind_of(row) == "table":
        return None
    part = max(row.get("% bandwidth") or 0, row.get("% peak") or 0)
    value = value_of(row, key)
    return value * 100 / part if part > 0 and value is not None else None


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"


class Scale:
    """Values to pixels: linear from 0, or logarithmic when the values span more than a factor of 50 or are ratios."""

    def __init__(self, values, logarithmic):
        self.log = logarithmic
        high = max(values)
        self.low = 10 ** math.floor(math.log10(min(min(values), 1))) if logarithmic else 0
        self.high = max(high, self.low * 10) if logarithmic else high

    def at(self, value):
        if not self.log:
            return WIDTH * value / self.high
        return WIDTH * math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)


def draw_row(out, row, y, key, scale, label, left):
    value, ceiling = value_of(row, key), ceiling_of(row, key)
    ratio = kind_of(row) == "table" and not key
    out.append(f'<text x="{left - 8}" y="{y + BAR - 4}" text-anchor="end">{escape(label)}</text>')
    if ceiling is not None:
        out.append(f'<rect x="{left}" y="{y}" width="{min(scale.at(ceiling), WIDTH):.1f}" height="{BAR}" fill="{COLOURS["part"]}"/>')
    start, end = scale.at(1) if ratio else 0, scale.at(value)
    colour = COLOURS["worse" if ratio and value < 1 else "bar"]
    out.append(f'<rect x="{left + min(start, end):.1f}" y="{y}" width="{max(abs(end - start), 1):.1f}" height="{BAR}" fill="{colour}"/>')
    out.append(f'<text x="{left + max(start, end, scale.at(ceiling) if ceiling else 0) + 5:.1f}" y="{y + BAR - 4}">{number(value)}</text>')


def heading(title, machines, width, height):
    """The first lines of a picture."""
    told = "; ".join(dict.fromkeys(f"{m['cpu']}, {m['cores']} cores, {m['compiler']}, {m['date'][:10]}" for m in machines))
    return [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="12" fill="{COLOURS["text"]}">', '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="10" y="18" font-size="14">{escape(title)}</text>',
            f'<text x="10" y="36" fill="{COLOURS["line"]}">{escape(told)}</text>']


def free_place(taken, x, y, width):
    """Where a label of this width beside x, y meets none that is there: to the right, the left, or lower."""
    places = [(x + 7, y + 4), (x - 7 - width, y + 4)] + [(x + 7, y + 4 + 12 * k) for k in range(1, 9)]
    for place in places:
        if all(abs(place[1] - b) >= 12 or place[0] + width < a or a + w < place[0] for a, b, w in taken):
            break
    taken.append((*place, width))
    return place


def draw_formats(runs):
    rows = sorted((row for run in runs for row in run["rows"] if row["KL"] > 0), key=lambda row: (row["bits"], row["KL"]))
    if not rows:
        raise ValueError("no row has a number to draw")
    width, height, left, top = 760, 520, 70, 56
    bits_high = math.ceil(max(row["bits"] for row in rows)) + 0.5
    low, high = (f(math.log10(g(row["KL"] for row in rows))) for f, g in ((math.floor, min), (math.ceil, max)))
    x = lambda bits: left + (width - left - 40) * (bits - 1) / (bits_high - 1)
    y = lambda kl: top + (height - top - 50) * (high - math.log10(kl)) / max(high - low, 1)
    out = heading("KL divergence from the source (nats, logarithmic) against bits a weight", [run["machine"] for run in runs], width,
                  height)
    for power in range(low, high + 1):
        out.append(f'<line x1="{left}" x2="{width - 40}" y1="{y(10 ** power):.1f}" y2="{y(10 ** power):.1f}" stroke="{COLOURS["part"]}"/>'
                   f'<text x="{left - 8}" y="{y(10 ** power) + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
    for bits in range(1, int(bits_high) + 1):
        out.append(f'<text x="{x(bits):.1f}" y="{height - 28}" text-anchor="middle">{bits}</text>')
    best, edge, taken = math.inf, [], [(x(row["bits"]) - 4, y(row["KL"]) + 4, 8) for row in rows]
    for row in rows:
        if row["KL"] < best:
            best = row["KL"]
            edge.append(f'{x(row["bits"]):.1f},{y(row["KL"]):.1f}')
    out.append(f'<polyline points="{" ".join(edge)}" fill="none" stroke="{COLOURS["line"]}" stroke-dasharray="4 3"/>')
    for row in sorted(rows, key=lambda row: (row["bits"], -row["KL"])):
        ours = row["format"].startswith("QINS")
        px, py = x(row["bits"]), y(row["KL"])
        at = free_place(taken, px, py, 7 * len(row["format"]))
        out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{COLOURS["worse" if ours else "bar"]}"/>'
                   f'<text x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(row["format"])}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def draw(runs, key):
    if all("KL" in row for run in runs for row in run["rows"]) and not key:
        return draw_formats(runs)
    rows = [(run["machine"], row) for run in runs for row in run["rows"] if (value_of(row, key) or 0) > 0]
    if not rows:
        raise ValueError("no row has a number to draw")
    machines, rows = [m for m, _ in rows], [row for _, row in rows]
    ratios = any(kind_of(row) == "table" for row in rows) and not key
    unit = key or ("times better than the origin's number" if ratios else "GFLOPS" if kind_of(rows[0]) == "product" else
                   "tokens/s; light: what the read bandwidth or the peak of the arithmetic, whichever is nearer, would allow")
    panels, shown, y = panels_of(rows), columns_that_differ(rows), TOP
    left = 16 + 7 * max(len(label_of(row, shown)) for row in rows)
    out = heading(unit, machines, left + WIDTH + 90, TOP + len(rows) * (BAR + GAP) + len(panels) * PANEL)
    for title, members in panels:
        values = [value_of(row, key) for row in members] + [c for row in members if (c := ceiling_of(row, key))]
        scale = Scale(values, ratios or max(values) / min(values) > 50)
        note = " (logarithmic)" if scale.log else ""
        out.append(f'<text x="{left}" y="{y + 12}" font-weight="bold">{escape(title)}{note}</text>')
        y += PANEL
        if ratios:
            x = left + scale.at(1)
            end = y + len(members) * (BAR + GAP)
            out.append(f'<line x1="{x:.1f}" y1="{y - 4}" x2="{x:.1f}" y2="{end}" stroke="{COLOURS["line"]}"/>')
        for row in members:
            draw_row(out, row, y, key, scale, label_of(row, shown), left)
            y += BAR + GAP
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", help="files of build/bench -o json")
    parser.add_argument("-o", "--output", required=True, help="the SVG file")
    parser.add_argument("--value", help="another column, for example '%% bandwidth'")
    args = parser.parse_args()
    try:
        runs = []
        for path in args.json:
            with open(path, encoding="utf-8") as f:
                runs.append(json.load(f))
        svg = draw(runs, args.value)
        with open(args.output, "w", encoding="utf-8") as f:
            f.write(svg)
    except (OSError, ValueError, KeyError) as error:
        print(f"plot.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
