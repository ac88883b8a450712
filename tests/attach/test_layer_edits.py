"""What a forward over short cache layers decides about all decoder layers at once, and what they share."""

from itertools import product
from typing import Any

import pytest

from greedyprune.attach.forward.cache import Held
from greedyprune.attach.forward.decode import LayerEdits, TextInputs

BOTH = (True, False)
NONE, MASKED, ALL = "none", "those that get a mask", "all"
LAYERS = {
    **dict.fromkeys(product([True], [True], BOTH), NONE),
    (False, True, True): MASKED,
    (False, True, False): ALL,
    **dict.fromkeys(product(BOTH, [False], BOTH), ALL),
}
"""The layers to edit, by `masks_fit`, `numbered` and `unmasked`."""


@pytest.mark.parametrize("row", list(product(BOTH, BOTH, BOTH)), ids=str)
def test_layers_are_edited_as_the_table_says(row: tuple[bool, bool, bool]) -> None:
    edits = LayerEdits(*row)
    assert edits.none == (LAYERS[row] == NONE)
    if not edits.none:  # no layer is asked otherwise
        assert edits.only_masked == (LAYERS[row] == MASKED)


def test_a_shared_value_is_that_of_its_source_and_its_name() -> None:
    forward: Any = None
    text, source, other = TextInputs(forward, True, Held([]), 0, 4, None, None, outer_masks=False), [1], [1]
    assert text.made(("mask", "full"), source) is None
    assert text.share(("mask", "full"), source, "cut") == "cut"
    assert text.made(("mask", "full"), source) == "cut"
    assert text.made(("mask", "full"), other) is None, "an equal source is another one"
    assert text.made(("mask", "sliding"), source) is None
    assert text.made(("positions", "full"), source) is None
