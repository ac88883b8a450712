"""Evaluation: questions with known answers, answered by the dense model and by every pruned configuration.

A task makes items, `configurations` lists the ways to answer, `evaluate` runs all of them over the same questions, and
`rows` turns what was told into accuracies with intervals. `greedyprune eval` is this from the command line.
"""

from greedyprune.eval.answers import Answers as Answers
from greedyprune.eval.configs import Config as Config
from greedyprune.eval.configs import configurations as configurations
from greedyprune.eval.engine import Engine as Engine
from greedyprune.eval.items import Item as Item
from greedyprune.eval.loop import Job as Job
from greedyprune.eval.loop import evaluate as evaluate
from greedyprune.eval.scenes import Scenes as Scenes
from greedyprune.eval.table import rows as rows
