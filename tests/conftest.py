"""What all tests share: no network, quiet libraries, and shared tiny models that every test leaves as they were."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
pytest.register_assert_rewrite("proofs")


def pytest_configure(config: pytest.Config) -> None:
    """Say how hypothesis draws: a quarter of the examples where wide tests are left out, as `make test` does.

    No test is timed: a busy machine is no mistake. Where nobody watches, the same examples are drawn every time.
    """
    examples = 25 if "not wide" in config.option.markexpr else 100
    settings.register_profile(
        "greedyprune", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=examples
    )
    settings.load_profile("greedyprune")


@pytest.fixture
def untouched():
    """The tiny models are shared between tests: whoever leaves a trace on one fails, and not the tests after it."""
    import proofs  # here: tests without a model need neither transformers nor this

    yield
    assert proofs.pruned_still() == []
