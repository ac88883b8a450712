"""Evaluation: questions with known answers, answered by the dense model and by every pruned configuration.

A task makes items, `configurations` lists the ways to answer, `evaluate` runs all of them over the same questions, and
`rows` turns the answers into accuracies with intervals. `greedyprune eval` is this from the command line.

    engine = Engine(*greedyprune.testbed.load("llava"))
    configs = configurations(["greedyprune", "random"], {"1/9": Ratio(1 / 9)})
    answers = evaluate(engine, Job(Scenes(20).items(), configs), Path("my-run"))
    for row in rows(answers):
        print(row["method"], row["task"], row["accuracy"])

`cue_rows` answers nothing: it measures how well cues find the tokens of the answer, as `greedyprune cues` does, and
`state_rows` describes the states that they are computed from.
"""

from greedyprune.eval.answers import Answers as Answers
from greedyprune.eval.configs import Config as Config
from greedyprune.eval.configs import configurations as configurations
from greedyprune.eval.cues import cue_rows as cue_rows
from greedyprune.eval.engine import Engine as Engine
from greedyprune.eval.items import Item as Item
from greedyprune.eval.loop import Job as Job
from greedyprune.eval.loop import evaluate as evaluate
from greedyprune.eval.paired import paired as paired
from greedyprune.eval.perturbed import Perturbed as Perturbed
from greedyprune.eval.perturbed import with_perturbations as with_perturbations
from greedyprune.eval.public import Public as Public
from greedyprune.eval.reader import saliencies as saliencies
from greedyprune.eval.scenes import Scenes as Scenes
from greedyprune.eval.states import state_rows as state_rows
from greedyprune.eval.table import rows as rows
from greedyprune.eval.tune import tuned as tuned
