"""Write the load table of `docs/server.md` and a line of `docs/batch.md` from `results/serving` and `results/batch`.

python docs/make_load.py
"""

from __future__ import annotations

from pathlib import Path

from pages import RESULTS, ROOT, Row, measured_on, of, rewrite

from greedyprune.outputs import read_csv

SERVED = RESULTS / "serving"
ACTORS = RESULTS / "batch" / "actors.csv"
PAGES = {"load": ROOT / "docs" / "server.md", "actors": ROOT / "docs" / "batch.md"}


def main() -> None:
    """Rewrite what stands between the markers of the pages."""
    for marks, made in tables().items():
        rewrite(PAGES[marks], marks, made)


def tables() -> dict[str, str]:
    """Each part by the name of its markers."""
    served = [_load(path) for path in sorted(SERVED.glob("*.csv"))]
    return {"load": "\n\n".join(served), "actors": _actors(read_csv(ACTORS))}


def _load(path: Path) -> str:
    """What fewer tokens change at every number of clients, for one model."""
    rows = read_csv(path)
    first = rows[0]
    dense = {row["concurrency"]: row for row in rows if row["kept"] == row["tokens"]}
    lines = [
        f"`{first['model']}`: {float(first['parameters']) / 1e6:.0f} M parameters, {first['tokens']} visual tokens, "
        f"answers of {float(first['answer_tokens']):.0f} tokens, `{first['method']}`.",
        "",
        "| clients | kept | requests in a second | time to the first token |",
        "|---|---|---|---|",
    ]
    for clients, whole in dense.items():
        lines.append(f"| {clients} | all | {float(whole['per_second']):.2f} | {float(whole['first_ms']) / 1e3:.2f} s |")
        lines += [
            f"| {clients} | {row['keep']} | {float(row['speedup']):.2f}x | {1 / float(row['first_speedup']):.2f}x |"
            for row in of(rows, concurrency=clients)
            if row is not whole and row["kept"] != row["tokens"]
        ]
    return "\n".join([*lines, "", measured_on(rows)])


def _actors(rows: list[Row]) -> str:
    """The speed-up of several actors, in words."""
    told = " and ".join(f"{row['actors']} actors answer {float(row['speedup']):.2f}x" for row in rows[1:])
    return (
        f"`greedyprune bench actors`: {told} the rows per second of one, with one thread each and the bundled model. "
        f"{measured_on(rows)}"
    )


if __name__ == "__main__":
    main()
