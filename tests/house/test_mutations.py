"""The proofs notice mistakes: every mutation of the package makes the test fail that is named beside it."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

import tiny
from mutations import MUTATIONS, QUICK, Mutation, OutOfDate
from proofs import CORE

TESTS = Path(__file__).parents[1]
FILES = {path.name: path for path in TESTS.rglob("test_*.py")}
OPTIONS = [
    *("-q", "--tb=short", "--assert=plain", "-o", "addopts=", f"--rootdir={TESTS.parent}"),
    *("-p", "no:cacheprovider", "-p", "no:xdist"),
]
LIMIT = 120
"""Seconds of CPU time that one mutation may take before it is given up, and a tenth of the seconds on the clock."""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="mutated packages run in forks of this process"
)


class Mutated(SourceFileLoader):
    """Loads one module of the package from another text, and all others as they are."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self._text = text

    def get_code(self, fullname: str) -> Any:
        """The code of the other text."""
        return compile(self._text, self.path, "exec")

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Found for this module alone."""
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


class Noted:
    """A pytest plugin that notes which tests failed, by which exception, and which were skipped."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.skipped: list[str] = []

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        """Note a failure."""
        self.failed[node.nodeid] = call.excinfo.type.__name__

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a skipped test."""
        if report.skipped:
            self.skipped.append(report.nodeid)


def named(checks: Sequence[str]) -> list[str]:
    """The tiny models that these tests run, of those that not all tests use."""
    ids = [check.partition("[")[2] for check in checks]
    return [name for name in tiny.NAMES if any(each.startswith(f"{name}-") for each in ids)]


@pytest.fixture(scope="module", autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """Make the models before the forks, each of which would make them for itself alone."""
    given = [getattr(item, "callspec", SimpleNamespace(params={})).params for item in request.session.items]
    for name in {*CORE, *named([params["mutation"].check for params in given if "mutation" in params])}:
        for attention in ("sdpa", "eager"):
            tiny.tiny(name, attention)


def located(check: str) -> str:
    """The same test with its folder, so that a file can move without its mutations."""
    file, test = check.split("::", 1)
    return f"{FILES[file]}::{test}"


def forget() -> None:
    """Have the package and all test modules that hold parts of it imported anew; the tiny models know none and stay."""
    mine = {path.stem for path in (*TESTS.glob("*.py"), *TESTS.glob("*/*.py"))} - {"tiny"}
    for name in list(sys.modules):
        if name.split(".")[0] in {"greedyprune", *mine}:
            del sys.modules[name]


def run(checks: Sequence[str], mutation: Mutation | None) -> dict[str, Any]:
    """Run these tests, against the package with the mistake in it."""
    torch.set_num_threads(1)
    gc.freeze()  # pytest collects garbage, and all that was here before is none
    forget()
    if mutation is not None:
        sys.meta_path.insert(0, Mutated(mutation.module, mutation.path, mutation.source()))
        importlib.import_module(mutation.module)
    tiny.NAMES[:] = named(checks)  # the matrix of all the others would be laid out for nothing
    noted = Noted()
    code = pytest.main([*OPTIONS, *map(located, checks)], plugins=[noted])
    return {"code": int(code), "failed": noted.failed, "skipped": noted.skipped}


def forked(work: Callable[[], dict[str, Any]], limit: float = LIMIT) -> dict[str, Any]:
    """What a piece of work returns, done in a fork of this process that leaves nothing behind."""
    with tempfile.NamedTemporaryFile("w+") as said, tempfile.NamedTemporaryFile("w+") as result:
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.setitimer(signal.ITIMER_PROF, limit)
                signal.setitimer(signal.ITIMER_REAL, 10 * limit)
                sys.stdout = sys.stderr = said.file
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                json.dump(work(), result)
                result.flush()
                code = 0
            except BaseException as error:
                said.write(f"{type(error).__name__}: {error}")
            finally:
                said.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        result.seek(0)
        assert status == 0, f"status {status}: {said.read()[-3000:]}"
        return {**json.load(result), "said": said.read()}


wide = pytest.mark.wide


@pytest.mark.parametrize("some", [pytest.param(QUICK, id="quick"), pytest.param(MUTATIONS, marks=wide, id="all")])
def test_the_checks_pass_where_nothing_is_mutated(some: list[Mutation]) -> None:
    outcome = forked(lambda: run(sorted({mutation.check for mutation in some}), None), 10 * LIMIT)
    assert outcome["code"] == 0, outcome["said"][-3000:]


@pytest.mark.parametrize(
    "mutation", [pytest.param(each, marks=() if each in QUICK else wide, id=str(each)) for each in MUTATIONS]
)
def test_the_mutation_is_noticed(mutation: Mutation) -> None:
    mutation.source()
    outcome = forked(lambda: run([mutation.check], mutation))
    if outcome["skipped"]:
        pytest.skip(f"{mutation.check} is skipped here")
    assert outcome["code"] == 1, f"{mutation.check} does not notice that {mutation.name}: {outcome['said'][-3000:]}"
    # A wrong answer that a proof notices, and no crash that anybody would.
    assert set(outcome["failed"].values()) <= {"AssertionError", "Failed"}, outcome["failed"]


def test_every_mutation_fits_the_package_and_names_a_test() -> None:
    for mutation in MUTATIONS:
        assert mutation.source() != mutation.path.read_text(encoding="utf-8")
        file, test = mutation.check.split("::", 1)
        assert f"def {test.partition('[')[0]}(" in FILES[file].read_text(encoding="utf-8"), mutation.check
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(
    ("where", "old", "why"),
    [
        ("keep.py:Keep.nowhere", "order", "there is no 'nowhere'; what there is: .*from_order"),
        ("nowhere.py", "order", "the package has no such file"),
        ("budget.py:Ratio.of", "as_budget", "stands there 0 times, not once, and [0-9]+ times elsewhere"),
        ("budget.py:Ratio.of", "self.share", "stands there 2 times, not once"),
    ],
)
def test_a_mutation_that_is_out_of_date_says_where_and_why(where: str, old: str, why: str) -> None:
    with pytest.raises(OutOfDate, match=f"'a mistake' of {where} is out of date: .*{why}"):
        Mutation("a mistake", where, old, "", "test_words.py::test_none").source()


def test_a_mutation_changes_its_function_alone() -> None:
    mutation = Mutation("a mistake", "budget.py:Ratio.of", "0.5", "0.25", "test_words.py::test_none")
    before, after = mutation.path.read_text(encoding="utf-8").splitlines(), mutation.source().splitlines()
    changed = [line for line, other in zip(before, after, strict=True) if line != other]
    assert len(changed) == 1
    assert "math.floor(self.share * n + 0.5)" in changed[0]


def drawing() -> list[Any]:
    """How hypothesis draws its examples."""
    return [settings.get_current_profile_name(), settings().deadline, settings().derandomize]


def test_forks_draw_their_examples_as_this_process_does() -> None:
    def work() -> dict[str, Any]:
        settings.load_profile("default")
        outcome = run(["test_split.py::test_parts_sum_up_and_are_near_their_shares"], None)
        return {**outcome, "drawing": drawing()}

    outcome = forked(work)
    assert outcome["code"] == 0, outcome["said"][-3000:]
    assert outcome["drawing"] == drawing()
