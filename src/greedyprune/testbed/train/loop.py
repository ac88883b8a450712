"""The common part of all stages: optimizer, schedule, checkpoints, mean gradients over processes, learning curve."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from greedyprune.outputs import replacing, write_csv


@dataclass
class Run:
    """One stage of a training: its steps, its learning rate and its files."""

    stage: str
    folder: Path
    seed: int
    steps: int
    stop: int | None = None  # end early after so many steps, with the schedule of the whole
    rank: int = 0
    world: int = 1
    device: str = "cpu"
    save_every: int = 100
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        return self.folder / f"{self.stage}.pt"

    def load(self, parts: Mapping[str, Any]) -> None:
        """Go on where the checkpoint of this stage left off, if there is one."""
        if self.path.exists():
            saved = torch.load(self.path, map_location=self.device, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]

    def save(self, parts: Mapping[str, Any]) -> None:
        if self.rank:
            return
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": self.step, "seconds": self.seconds, "history": self.history}
        with replacing(self.path) as fresh:
            try:
                torch.save(state, fresh)
            except RuntimeError as error:  # which torch raises if the disk is full
                raise OSError(f"cannot write {self.path}: {str(error).splitlines()[0]}") from error

    def record(self, **row: Any) -> None:
        """One row of the curve, also to the terminal."""
        if self.rank:
            return
        row = {"stage": self.stage, "step": self.step, "seconds": round(self.seconds), **row}
        self.history.append(row)
        sys.stdout.write(" ".join(f"{key}={value}" for key, value in row.items()) + "\n")
        sys.stdout.flush()
        keys = list(dict.fromkeys(key for old in self.history for key in old))
        write_csv(self.folder / f"{self.stage}.csv", self.history, keys)


@dataclass(frozen=True)
class Schedule:
    """How weights change over a stage."""

    constant: float = 0.6
    """The share of the run at the full learning rate. Then it falls along a cosine."""
    warm: int = 100
    """Steps until the learning rate is full."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    decay: float = 0.02
    """AdamW's weight decay."""
    test_every: int = 200
    """Steps between two rows of the curve."""

    def rate(self, step: int, done: float) -> float:
        """The share of the full learning rate, at this step and this share of the run."""
        warm = min(1.0, (step + 1) / self.warm)
        if done < self.constant:
            return warm
        falling = 0.5 * (1 + math.cos(math.pi * (done - self.constant) / (1 - self.constant)))
        return warm * (0.02 + 0.98 * falling)


def train(
    run: Run,
    parts: Mapping[str, Any],
    groups: list[dict[str, Any]],
    loss: Callable[[int, float], Tensor],
    test: Callable[[], dict[str, Any]],
    schedule: Schedule = Schedule(),
) -> None:
    """Take steps until the end of the run. `loss(step, done)` makes a batch of its own from the number of the step."""
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=schedule.betas, weight_decay=schedule.decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    kept = {**parts, "optimizer": optimizer}
    run.load(kept)
    last = min(run.stop or run.steps, run.steps)
    saved = run.step
    while run.step < last:
        started = time.perf_counter()
        done = run.step / run.steps
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.rate(run.step, done)
        optimizer.zero_grad()
        loss(run.step, done).backward()
        _average(weights, run.world)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        run.step += 1
        run.seconds += time.perf_counter() - started
        if (run.step % schedule.test_every == 0 or run.step == run.steps) and run.rank == 0:
            run.record(**test())
        if run.step % run.save_every == 0 or run.step == run.steps:
            run.save(kept)
            saved = run.step
    if saved != run.step or not run.path.exists():
        run.save(kept)


def _average(weights: Iterable[nn.Parameter], world: int) -> None:
    """The mean gradient over all processes, in every process."""
    if world == 1:
        return
    found = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([grad.flatten() for grad in found])
    dist.all_reduce(flat)
    flat /= world
    start = 0
    for grad in found:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()


class Attention:
    """The weight of each kind of question. Kinds that are answered badly come up to eight times as often."""

    def __init__(self) -> None:
        self.loss: defaultdict[str, float] = defaultdict(lambda: 1.0)

    def see(self, kind: str, loss: float) -> None:
        self.loss[kind] += 0.01 * (loss - self.loss[kind])

    @property
    def weights(self) -> defaultdict[str, float]:
        found = {kind: min(1.0, max(0.125, 3 * loss)) for kind, loss in self.loss.items()}
        return defaultdict(lambda: 1.0, found)

    def state_dict(self) -> dict[str, float]:
        return dict(self.loss)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.loss.update(state)
