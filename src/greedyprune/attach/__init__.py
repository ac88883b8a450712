"""The one place that joins methods and models: it owns the cut of the sequence and everything that must follow it."""

from greedyprune.attach.decide import PruneWarning as PruneWarning
from greedyprune.attach.handle import Pruned as Pruned
from greedyprune.attach.handle import prune as prune
from greedyprune.attach.handle import remove as remove
from greedyprune.selection import Report as Report
from greedyprune.selection import Selection as Selection
