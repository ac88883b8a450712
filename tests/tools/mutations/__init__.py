"""Mistakes that the package could make, each with the test that must notice it."""

from mutations.around import AROUND
from mutations.attach import ATTACH
from mutations.engines import ENGINES
from mutations.mutation import Mutation as Mutation
from mutations.mutation import OutOfDate as OutOfDate
from mutations.words import WORDS

MUTATIONS = [*ATTACH, *WORDS, *ENGINES, *AROUND]
