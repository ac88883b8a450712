"""Mistakes that the package could make, each with the test that must notice it."""

from mutations.around import AROUND
from mutations.batches import BATCHES
from mutations.calls import CALLS
from mutations.cuts import CUTS
from mutations.engines import ENGINES
from mutations.guards import REFUSALS
from mutations.images import IMAGE
from mutations.mutation import Mutation as Mutation
from mutations.mutation import OutOfDate as OutOfDate
from mutations.served import SERVED
from mutations.vllm import VLLM
from mutations.words import WORDS

MUTATIONS = [*CUTS, *IMAGE, *CALLS, *REFUSALS, *WORDS, *ENGINES, *AROUND, *SERVED, *BATCHES, *VLLM]

_QUICK = {
    "kept tokens stand one place too far",
    "the columns of a mask are the last ones, not the kept ones",
    "the budgets of two images are swapped",
    "a newline goes though some of its row stays",
    "a short layer reports how many tokens it holds",
    "the cut stays while beams move",
    "the last context wins over the function that runs",
    "prompts packed in one row are one prompt",
    "the answer so far is part of the question",
    "a small share of a small image keeps nothing",
    "float32 decides near the threshold",
    "a run folder does not know its weights",
    "a word in an answer is enough",
    "a hundred times the tolerance",
    "the model's thread ends if all that waited have left",
}
QUICK = [mutation for mutation in MUTATIONS if mutation.name in _QUICK]
"""Those that `make test` tries: positions, masks, decisions, caches, requests, refusals, and what is around."""
assert len(QUICK) == len(_QUICK), _QUICK - {mutation.name for mutation in QUICK}
