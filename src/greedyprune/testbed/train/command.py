"""Train a model of the testbed: `python -m greedyprune.testbed.train {llava,qwen,gemma} --out folder [--seed 0]`."""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from greedyprune.testbed import FURTHER, TASKS, load
from greedyprune.testbed.train import answers, symbols, vision
from greedyprune.testbed.train.export import export
from greedyprune.testbed.train.loop import Run
from greedyprune.testbed.train.models import ARCHITECTURES
from greedyprune.testbed.train.sheet import CHECKED, shares_right, write_sheet
from greedyprune.testbed.train.start import start_decoder, start_tower

STEPS = {"symbols": symbols.STEPS, "vision": vision.STEPS, "answers": answers.STEPS}
STAGES = (*STEPS, "export")


STOPPED = "stopped: the same command goes on from the last checkpoint."
INTERRUPTED = 130
"""The status of a process that Ctrl-C ended."""


def main() -> None:
    """Run all stages, or one. Each continues from its own checkpoint in the folder."""
    given = _arguments()
    try:
        _train(given)
    except KeyboardInterrupt:
        if not given.led:  # the process that started this one says it
            sys.stderr.write(f"{STOPPED}\n")
        raise SystemExit(INTERRUPTED) from None


def _train(given: argparse.Namespace) -> None:
    if given.model == "gemma":
        _train_gemma(given)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    if given.stage:
        if given.led:
            threading.Thread(target=_end_with_leader, daemon=True).start()
        _stage(given)
        return
    if given.vision:
        shutil.copy(given.vision, given.out / "vision.pt")
        _wait(_start(given, "symbols"))
    elif given.processes == 1:
        _wait(_start(given, "symbols"))
        _wait(_start(given, "vision"))
    else:
        _wait(_start(given, "symbols"), _start(given, "vision"))
    (given.out / "meeting").unlink(missing_ok=True)
    _wait(*(_start(given, "answers", rank) for rank in range(given.processes)))
    _wait(_start(given, "export"))


def _train_gemma(given: argparse.Namespace) -> None:
    """The model with a pretrained decoder. What this machine lacks is one line on standard error."""
    from greedyprune.testbed.train.gemma.packages import NotReady
    from greedyprune.testbed.train.gemma.run import train_gemma

    try:
        train_gemma(given.out, given.arm, given.seed, given.scale, given.stop, given.also)
    except (NotReady, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m greedyprune.testbed.train", description=__doc__)
    models = parser.add_subparsers(dest="model", required=True, metavar="{llava,qwen,gemma}")
    for name in ARCHITECTURES:
        _bundled_arguments(_common_arguments(models.add_parser(name, help="a bundled model, trained from scratch")))
    gemma = _common_arguments(models.add_parser("gemma", help="a model with a pretrained decoder, Gemma 3 270M"))
    gemma.add_argument("--arm", choices=("words", "random"), default="words", help="where the projector starts")
    gemma.set_defaults(led=False)
    given = parser.parse_args()
    if given.seed < 0:
        parser.error(f"--seed {given.seed} is negative: write 0 or more.")
    given.also = [task for task in FURTHER if task in given.also]
    return given


def _common_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, curves and the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="take this many times the usual steps")
    parser.add_argument("--stop", type=int, help="end the stage after so many steps, on the schedule of the whole")
    parser.add_argument("--also", nargs="+", choices=FURTHER, default=[], help="further tasks that it is asked")
    return parser


def _bundled_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2), help="each computes on one core")
    parser.add_argument("--ordinary-start", action="store_true", help="the decoder's attention starts as drawn")
    parser.add_argument("--separate", action="store_true", help="words share no basis with visual tokens")
    parser.add_argument("--vision", type=Path, metavar="FILE", help="a vision.pt of this model, instead of that stage")
    parser.add_argument("--stage", choices=STAGES, help="only this one")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--led", action="store_true", help=argparse.SUPPRESS)


def _start(given: argparse.Namespace, stage: str, rank: int = 0) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "greedyprune.testbed.train", given.model, "--out", str(given.out)]
    command += ["--seed", str(given.seed), "--processes", str(given.processes), "--scale", str(given.scale)]
    command += ["--stage", stage, "--rank", str(rank), "--led"]
    command += ["--stop", str(given.stop)] if given.stop else []
    command += ["--ordinary-start"] if given.ordinary_start else []
    command += ["--separate"] if given.separate else []
    command += ["--also", *given.also] if given.also else []
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # nothing is written to it: it closes when we end


def _end_with_leader() -> None:
    """End this process as soon as the process that started it has ended, even by a kill."""
    os.read(0, 1)
    os._exit(1)


def _wait(*running: "subprocess.Popen[bytes]") -> None:
    """Until all have ended; one that failed ends the others and this program."""
    waiting = list(running)
    while waiting:
        for process in list(waiting):
            try:
                code = process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            waiting.remove(process)
            if process.stdin is not None:
                process.stdin.close()
            if code:
                for other in waiting:
                    other.terminate()
                raise SystemExit(f"{process.args} ended with {code}.")


def _stage(given: argparse.Namespace) -> None:
    torch.manual_seed(given.seed)
    architecture = ARCHITECTURES[given.model]
    model = architecture.build()
    if given.stage == "export":
        model.load_state_dict(_saved(given.out / "answers.pt")["model"])
        export(architecture, model, given.out / "model")
        if given.also:
            tasks = (*TASKS, *given.also)
            shares = shares_right(*load(given.out / "model"), CHECKED, tasks, architecture.sizes)
            write_sheet(given.out / "model", {"seed": given.seed}, shares)
        return
    parallel = given.stage == "answers" and given.processes > 1
    if given.processes > 1:
        torch.set_num_threads(1)
    steps = round(STEPS[given.stage] * given.scale)
    run = Run(given.stage, given.out, given.seed, steps, given.stop)
    if given.stage == "symbols":
        symbols.run_symbols(run, architecture, model, not given.ordinary_start, given.separate, given.also)
    elif given.stage == "vision":
        start_tower(architecture, model)
        vision.run_vision(run, architecture, model)
    else:
        _join(given.out, architecture, model, given.separate)
        run.device = "cuda" if torch.cuda.is_available() else "cpu"
        if parallel:
            run.rank, run.world = given.rank, given.processes
            dist.init_process_group("gloo", f"file://{(given.out / 'meeting').resolve()}", None, run.world, run.rank)
        answers.run_answers(run, architecture, model.to(run.device), given.also)
        if parallel:
            dist.barrier()
            dist.destroy_process_group()


def _join(folder: Path, architecture: Any, model: Any, separate: bool) -> None:
    """The decoder of the first stage with the tower and projector of the second."""
    start_decoder(architecture, model, separate=separate)
    read, seen = _saved(folder / "symbols.pt"), _saved(folder / "vision.pt")
    architecture.decoder(model).load_state_dict(read["decoder"])
    model.lm_head.load_state_dict(read["head"])
    architecture.tower(model).load_state_dict(seen["tower"])
    architecture.projector(model).load_state_dict(seen["projector"])


def _saved(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)
