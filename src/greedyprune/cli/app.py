"""The typer application: every command is one file, and they meet here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import greedyprune
from greedyprune.cli._errors import OneLine
from greedyprune.cli._own import run_file
from greedyprune.cli.batch import EXAMPLES as BATCH
from greedyprune.cli.batch import batch
from greedyprune.cli.bench import bench
from greedyprune.cli.cues import EXAMPLES as CUES
from greedyprune.cli.cues import cues
from greedyprune.cli.demo import EXAMPLES as DEMO
from greedyprune.cli.demo import demo
from greedyprune.cli.doctor import EXAMPLES as DOCTOR
from greedyprune.cli.doctor import doctor
from greedyprune.cli.eval import EXAMPLES as EVAL
from greedyprune.cli.eval import evaluate
from greedyprune.cli.gui import EXAMPLES as GUI
from greedyprune.cli.gui import app as gui
from greedyprune.cli.methods import EXAMPLES as METHODS
from greedyprune.cli.methods import methods
from greedyprune.cli.models import EXAMPLES as MODELS
from greedyprune.cli.models import models
from greedyprune.cli.plan import EXAMPLES as PLAN
from greedyprune.cli.plan import plan
from greedyprune.cli.run import EXAMPLES as RUN
from greedyprune.cli.run import run
from greedyprune.cli.serve import EXAMPLES as SERVE
from greedyprune.cli.serve import serve
from greedyprune.cli.tune import EXAMPLES as TUNE
from greedyprune.cli.tune import tune
from greedyprune.cli.verify import EXAMPLES as VERIFY
from greedyprune.cli.verify import verify
from greedyprune.cli.vllm import ARGS as VLLM
from greedyprune.cli.vllm import group as vllm
from greedyprune.cli.vllm import vllm_args

EXIT = "Exit status: 0 done, 1 something failed, 2 the command line is wrong, 130 interrupted."

app = typer.Typer(
    cls=OneLine,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def greet(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
    own: Annotated[
        list[Path] | None,
        typer.Option("--import", metavar="FILE.py", help="Run a file of yours first, which registers methods."),
    ] = None,
) -> None:
    """Training-free pruning of the visual tokens of vision-language models.

    Start with [bold]greedyprune demo[/bold]: it needs no download.
    """
    for file in own or ():
        run_file(file)
    if version:
        typer.echo(f"greedyprune {greedyprune.__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
    else:
        return
    raise typer.Exit


def explain(
    ctx: typer.Context, command: Annotated[list[str] | None, typer.Argument(help="Explain this command.")] = None
) -> None:
    """Explain a command, as its own --help does."""
    assert ctx.parent is not None
    ctx.parent.command.main([*(command or ()), "--help"], prog_name="greedyprune", standalone_mode=False)


app.command("help")(explain)
app.command(epilog=DEMO)(demo)
app.command(epilog=RUN)(run)
app.command(epilog=PLAN)(plan)
app.command("app", epilog=GUI)(gui)
app.command(epilog=BATCH)(batch)
app.command("eval", epilog=EVAL)(evaluate)
app.command(epilog=TUNE)(tune)
app.command(epilog=SERVE)(serve)
app.command(epilog=CUES)(cues)
app.command(epilog=VERIFY)(verify)
app.command(epilog=DOCTOR)(doctor)
app.command(epilog=METHODS)(methods)
app.command(epilog=MODELS)(models)
app.command("families", epilog=MODELS, hidden=True)(models)
app.command("vllm-args", epilog=VLLM)(vllm_args)
app.add_typer(bench, cls=OneLine)
app.add_typer(vllm, cls=OneLine)
