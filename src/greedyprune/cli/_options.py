"""Options that several commands share."""

from typing import Annotated

import typer

Longest = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="auto, float32, bfloat16 or float16.", show_default="float32 on cpu, else the checkpoint's"
    ),
]
