"""A mark for tests whose model is given vision features. Old releases take none, and benches say that."""

from __future__ import annotations

import inspect

import pytest
from transformers import LlavaModel

from greedyprune.bench.calls import FEATURES

features_given = pytest.mark.skipif(
    FEATURES not in inspect.signature(LlavaModel.forward).parameters,
    reason="models of this release of transformers take no vision features: `bench prefill` refuses them by name",
)
