"""Write the tables of `docs/performance.md`, its pictures and the README's figure, from `results/performance`.

python docs/make_performance.py
"""

from __future__ import annotations

from typing import Any

from pages import README, RESULTS, ROOT, Row, measured_on, of, rewrite

from greedyprune.outputs import read_csv

FOLDER = RESULTS / "performance"
PAGE = ROOT / "docs" / "performance.md"
MARKS = "performance"
PICTURES = {"speed": ROOT / "docs" / "performance-speed.png", "growth": ROOT / "docs" / "performance-growth.png"}
COLOURS = ("#c2410c", "#0072b2", "#009e73", "#e69f00", "#7b5ea7")


def main() -> None:
    """Rewrite what stands between the markers of both pages, and the pictures."""
    rewrite(PAGE, MARKS, tables())
    rewrite(README, "speed", claim())
    speed(sweeps()).savefig(PICTURES["speed"], dpi=110, bbox_inches="tight")
    growth(read_csv(FOLDER / "growth.csv")).savefig(PICTURES["growth"], dpi=110, bbox_inches="tight")


def claim() -> str:
    """What the default saves of one prompt with one picture, at two budgets."""
    rows = read_csv(FOLDER / "sweep-llava.csv")
    some, more = (row for row in rows if row["kept"] in ("58", "144"))
    return (
        f"**Speed**: on a CPU the decoder ({some['layers']} layers of {some['width']}) reads a prompt with "
        f"{some['tokens']} visual tokens {float(some['speedup']):.2f}x faster if {some['kept']} stay, "
        f"{float(more['speedup']):.2f}x if {more['kept']} do; a prompt that really is that short: "
        f"{float(some['oracle_speedup']):.2f}x and {float(more['oracle_speedup']):.2f}x "
        "([figures](docs/performance.md))."
    )


def sweeps() -> list[Row]:
    """The prefills at many budgets, of all models and batches."""
    return [row for path in sorted(FOLDER.glob("sweep*.csv")) for row in read_csv(path)]


def tables() -> str:
    """All parts of the page that hold figures."""
    rows, grown = sweeps(), read_csv(FOLDER / "growth.csv")
    return "\n\n".join(
        [
            "## Speed-up against the share kept",
            f"![Speed-up of the prefill against the share of visual tokens kept, and its share of the oracle's saving]"
            f"({PICTURES['speed'].name})",
            _prefills(rows),
            measured_on(rows),
            "## Memory",
            "The most bytes at a time during the prefill, KV cache included, above the weights and the inputs.",
            _memory(rows),
            "## Whole answers",
            _answers(read_csv(FOLDER / "generate.csv")),
            measured_on(read_csv(FOLDER / "generate.csv")),
            "## What this library's own code costs in a prefill",
            "CPU time inside all hooks, choosing included, with 95 % intervals. Equal: logits bit for bit, and cache "
            "bytes, are the oracle's.",
            _share(read_csv(FOLDER / "share.csv")),
            measured_on(read_csv(FOLDER / "share.csv")),
            "## What it costs in a step of decoding",
            "A pruned model against the same weights without hooks, over caches of equal size, one image of 144 tokens "
            "for each prompt. Ragged: two prompts that keep different numbers of tokens.",
            _steps(read_csv(FOLDER / "hooks.csv")),
            measured_on(of(read_csv(FOLDER / "hooks.csv"), threads="1")),
            "## Choosing, against a plain loop",
            "The loop makes the whole matrix of cosines and waits once for every token. GreedyPrune's is given its "
            "threshold for free. Floor: norms, saliencies, one gather and one product. Memory: above the input, as a "
            "share of the input's bytes.",
            _select(read_csv(FOLDER / "select.csv")),
            measured_on(read_csv(FOLDER / "select.csv")),
            "DivPrune and CDPruner against the formulations in which they were published:",
            _peers(read_csv(FOLDER / "peers.csv")),
            measured_on(read_csv(FOLDER / "peers.csv")),
            "## Choosing, against the number of tokens",
            f"![Time and memory of selections against the number of tokens]({PICTURES['growth'].name})",
            _growth(grown),
            measured_on(grown),
            "## A threshold read off a sample",
            "Above 192 tokens GreedyPrune reads its threshold off 192 of them. Here it is forced to read it off fewer "
            "than the images have, against all pairs: accuracy on the same questions, in points.",
            _quantile(read_csv(FOLDER / "quantile.csv")),
            measured_on(read_csv(FOLDER / "quantile.csv")),
        ]
    )


def _table(head: str, lines: list[str]) -> str:
    columns = head.split(" | ")
    return "\n".join([f"| {head} |", "|---|" + "---:|" * (len(columns) - 1), *(f"| {line} |" for line in lines)])


def _model(row: Row) -> str:
    return f"`{row['model']}`, {row['layers']} layers of {row['width']}, {row['dtype']}, batch {row['batch']}"


def _prefills(rows: list[Row]) -> str:
    """Dense, pruned and oracle of every sweep."""
    head = "model | method | kept | dense | pruned | speed-up (95 %) | oracle | of its saving | choosing, of pruned"
    return _table(
        head,
        [
            f"{_model(row)} | {row['method']} at `{row['at']}` | {row['kept']} of {row['tokens']} | "
            f"{float(row['dense_ms']):.0f} ms | {float(row['pruned_ms']):.0f} ms | {_ratio(row, 'speedup')} | "
            f"{float(row['oracle_speedup']):.2f}x | {100 * float(row['share']):.0f} % | "
            f"{100 * float(row['select_of_pruned']):.1f} %"
            for row in rows
        ],
    )


def _answers(rows: list[Row]) -> str:
    """Whole answers: dense, pruned and oracle."""
    head = "model | method | kept | tokens said | dense | pruned | speed-up (95 %) | oracle | same tokens as the oracle"
    return _table(
        head,
        [
            f"{_model(row)} | {row['method']} at `{row['at']}` | {row['kept']} of {row['tokens']} | "
            f"{row['generated']} | "
            f"{float(row['dense_ms']):.0f} ms | {float(row['pruned_ms']):.0f} ms | {_ratio(row, 'speedup')} | "
            f"{float(row['oracle_speedup']):.2f}x | {'yes' if row['equal'] == 'True' else 'no'}"
            for row in rows
        ],
    )


def _steps(rows: list[Row]) -> str:
    """Steps of decoding with hooks and without, on one thread."""
    head = "model | cut | ragged | without hooks | with | ratio of CPU time (95 %) | added"
    return _table(
        head,
        [
            f"{int(row['parameters']) / 1e6:.0f} M, {row['layers']} layers of {row['width']} | `{row['stage']}` | "
            f"{'yes' if row['ragged'] == 'True' else 'no'} | {float(row['bare_ms']):.2f} ms | "
            f"{float(row['hooked_ms']):.2f} ms | {float(row['cpu_ratio']):.3f} "
            f"({float(row['cpu_low']):.3f} to {float(row['cpu_high']):.3f}) | {float(row['extra_us']):.0f} us"
            for row in of(rows, threads="1")
        ],
    )


def _ratio(row: Row, name: str) -> str:
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{value:.2f}x ({low:.2f} to {high:.2f})"


def _memory(rows: list[Row]) -> str:
    """Peaks and caches of every sweep."""
    head = "model | kept | peak: dense | pruned | oracle | its bound | KV cache: dense | pruned"
    return _table(
        head,
        [
            f"{_model(row)} | {row['kept']} of {row['tokens']} | "
            + " | ".join(_megabytes(row[f"{side}_peak_bytes"]) for side in ("dense", "pruned", "oracle"))
            + f" | {_megabytes(int(row['oracle_peak_bytes']) + int(row['embeddings_bytes']))} | "
            + " | ".join(_megabytes(row[f"{side}_cache_bytes"]) for side in ("dense", "pruned"))
            for row in rows
        ],
    )


def _megabytes(count: str | int) -> str:
    return f"{int(count) / 1e6:.1f} MB"


def _share(rows: list[Row]) -> str:
    head = "model | method | kept | hooks | of dense | of pruned | equal"
    return _table(
        head,
        [
            f"{_model(row)} | {row['method']} at `{row['at']}` | {row['kept']} of {row['tokens']} | "
            f"{float(row['hooks_ms']):.1f} ms | {_percent(row, 'hooks_of_dense')} | "
            f"{_percent(row, 'hooks_of_pruned')} | "
            + ("yes" if row["equal"] == "True" and row["pruned_cache_bytes"] == row["oracle_cache_bytes"] else "no")
            for row in rows
        ],
    )


def _percent(row: Row, name: str) -> str:
    value, low, high = (100 * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{value:.2f} % ({low:.2f} to {high:.2f})"


def _select(rows: list[Row]) -> str:
    head = "method | tokens | width | regime | loop | here | ratio | of the floor | memory"
    return _table(
        head,
        [
            f"`{row['method']}` | {row['tokens']} to {row['kept']} | {row['width']} | {row['regime']} | "
            f"{_or_dash(row['usual_ms'], ' ms')} | {float(row['greedyprune_ms']):.1f} ms | "
            f"{_or_dash(row['ratio'], 'x')} | {_or_dash(row['of_floor'], 'x')} | {float(row['peak_of_input']):.2f}"
            for row in rows
        ],
    )


def _or_dash(value: str, unit: str) -> str:
    return f"{float(value):.1f}{unit}" if value else "–"


def _peers(rows: list[Row]) -> str:
    head = "method | tokens | width | published | here | ratio"
    return _table(
        head,
        [
            f"`{row['method']}` | {row['tokens']} to {row['kept']} | {row['width']} | "
            f"{float(row['published_ms']):.1f} ms | {float(row['greedyprune_ms']):.1f} ms | {row['ratio']}x"
            for row in rows
        ],
    )


def _growth(rows: list[Row]) -> str:
    """One line for each number of tokens."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    head = " | ".join(["tokens", *(f"`{name}`" for name in methods), "memory of the default, of the input"])
    lines: list[str] = []
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        mine = {row["method"]: row for row in of(rows, tokens=tokens)}
        cells = " | ".join(f"{float(mine[name]['ms']):.1f} ms" for name in methods)
        lines.append(f"{tokens} to {mine[methods[0]]['kept']} | {cells} | {mine[methods[0]]['peak_of_input']}")
    return _table(head, lines)


def _quantile(rows: list[Row]) -> str:
    head = "model | kept | tokens read | all pairs | sample | difference (95 %) | answers that changed"
    return _table(
        head,
        [
            f"`{row['model']}`, {row['split']} | {row['budget']} | {row['rows']} of {row['tokens_high']} | "
            f"{100 * float(row['first']):.1f} % | {100 * float(row['second']):.1f} % | "
            f"{100 * float(row['difference']):+.2f} "
            f"({100 * float(row['low']):+.2f} to {100 * float(row['high']):+.2f}) | "
            f"{row['changed']} of {row['questions']}"
            for row in rows
        ],
    )


def speed(rows: list[Row]) -> Any:
    """Speed-up against the share kept: pruned with intervals, the oracle dashed; and the share of its saving."""
    from greedyprune.plots.charts import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, name in zip(COLOURS, dict.fromkeys(map(_model, rows)), strict=False):
        mine = sorted((row for row in rows if _model(row) == name), key=lambda row: int(row["kept"]))
        x = [100 * int(row["kept"]) / int(row["tokens"]) for row in mine]
        low, middle, high = ([float(row[f"speedup{end}"]) for row in mine] for end in ("_low", "", "_high"))
        left.plot(x, middle, color=colour, marker="o", ms=3, label=name.replace("`", ""))
        left.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        left.plot(x, [float(row["oracle_speedup"]) for row in mine], color=colour, ls="--", lw=1)
        right.plot(x, [100 * float(row["share"]) for row in mine], color=colour, marker="o", ms=3)
    left.axhline(1, color="#9aa1ab", lw=0.8)
    right.axhline(100, color="#9aa1ab", lw=0.8)
    left.set(xlabel="visual tokens kept, %", ylabel="speed-up of the prefill (oracle dashed)")
    right.set(xlabel="visual tokens kept, %", ylabel="share of the oracle's saving, %")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def growth(rows: list[Row]) -> Any:
    """Time and memory of each method against the number of tokens, on logarithmic axes."""
    from greedyprune.plots.charts import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, name in zip(COLOURS, dict.fromkeys(row["method"] for row in rows), strict=False):
        mine = of(rows, method=name)
        n = [int(row["tokens"]) for row in mine]
        left.plot(n, [float(row["ms"]) for row in mine], color=colour, marker="o", ms=3, label=name)
        right.plot(n, [float(row["peak_of_input"]) for row in mine], color=colour, marker="o", ms=3)
    left.set(xscale="log", yscale="log", xlabel="visual tokens", ylabel="time of choosing 1/9 of them, ms")
    right.set(xscale="log", xlabel="visual tokens", ylabel="memory above the input, of the input")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
