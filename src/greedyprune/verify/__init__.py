"""Proofs on a user's own checkpoint: measured on that model, pruning changes nothing that it must not change.

from greedyprune.verify import open_subject, prove

for verdict in prove(open_subject(model, folder)):
    print(verdict)
"""

from greedyprune.verify.cases import Case as Case
from greedyprune.verify.cases import Verdict as Verdict
from greedyprune.verify.cases import cases as cases
from greedyprune.verify.prompts import open_subject as open_subject
from greedyprune.verify.properties import PROPERTIES as PROPERTIES
from greedyprune.verify.properties import prove as prove
from greedyprune.verify.properties import stages_of as stages_of
from greedyprune.verify.ready import Unready as Unready
from greedyprune.verify.subject import Subject as Subject
