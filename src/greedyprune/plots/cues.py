"""Tables of the rows of `greedyprune cues`, read from its CSV file or as they are: AUC by saliency and layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
OBJECTS, ALL = "objects", "all"


def kind_of(rows: Iterable[Row]) -> str:
    """What the rows tell the answer's tokens from: "objects" if any row does, else "all"."""
    return OBJECTS if any(row["against"] == OBJECTS for row in rows) else ALL


def by_layer(
    rows: Sequence[Row], against: str = OBJECTS, tasks: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """The mean AUC over tasks, each with the same weight. -> {saliency: {layer: AUC}}, in the order of the rows

        rows = greedyprune.outputs.read_csv(path)
        cues.by_layer(rows, tasks=("color", "where"))["cosine last"]["layer:2"]

    `rows` are those of one model; `tasks` None means all of them. Raises ValueError if no row is left.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["against"] == against and (tasks is None or row["task"] in tasks):
            found.setdefault(row["saliency"], {}).setdefault(row["layer"], []).append(float(row["auc"]))
    if not found:
        some = "" if tasks is None else f" of the tasks {', '.join(tasks)}"
        raise ValueError(f"no row{some} is against {against!r}: pass rows of greedyprune cues.")
    return {
        name: {layer: sum(values) / len(values) for layer, values in layers.items()} for name, layers in found.items()
    }


def layers_of(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The layers of a table in order, those that only some saliencies have included."""
    places = {layer for layers in table.values() for layer in layers}
    return sorted(places, key=lambda layer: int(layer.partition(":")[2] or 0))


def markdown(rows: Sequence[Row], against: str = OBJECTS, tasks: Sequence[str] | None = None) -> str:
    """The means of `by_layer` as a Markdown table: layers are columns, saliencies rows; a dash where there is none."""
    table = by_layer(rows, against, tasks)
    layers = layers_of(table)
    lines = ["| saliency | " + " | ".join(layers) + " |", "|---|" + "---|" * len(layers)]
    for name, values in table.items():
        lines.append(f"| {name} | " + " | ".join(cell(values.get(layer)) for layer in layers) + " |")
    return "\n".join(lines)


def cell(value: float | None) -> str:
    """An AUC in two digits, without the zero before the point; a dash if there is none."""
    return "–" if value is None else f"{value:.2f}".removeprefix("0")
