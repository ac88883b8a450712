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
from typing import Any

import pytest
import torch

import tiny
from greedyprune import attach
from mutations import MUTATIONS, Mutation
from proofs import CORE

TESTS, ATTACH = Path(__file__).parent, Path(attach.__file__).parent
PACKAGE = ATTACH.parent
OPTIONS = [
    *("-q", "--tb=short", "--assert=plain", "-o", "addopts=", f"--rootdir={TESTS.parent}"),
    *("-p", "no:cacheprovider", "-p", "no:xdist"),
]
LIMIT = 120
"""Seconds that one mutation may take before it is given up."""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="mutated packages run in forks of this process"
)


def path_of(mutation: Mutation) -> Path:
    """The file that it is made in: of `attach/` where no other folder is named and it has one of that name."""
    own = ATTACH / mutation.file
    return own if own.exists() and "/" not in mutation.file else PACKAGE / mutation.file


def source(mutation: Mutation) -> str:
    """The file with the mistake in it."""
    text = path_of(mutation).read_text(encoding="utf-8")
    found = text.count(mutation.old)
    assert found == 1, (
        f"the mutation {mutation.name!r} is out of date: {mutation.file} holds {mutation.old!r} {found} times, "
        "not once. Write what stands there now, and see that the check still notices."
    )
    return text.replace(mutation.old, mutation.new)


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
def built() -> None:
    """Make the models before the forks, each of which would make them for itself alone."""
    for name in {*CORE, *named([mutation.check for mutation in MUTATIONS])}:
        for attention in ("sdpa", "eager"):
            tiny.tiny(name, attention)


def forget() -> None:
    """Have the package and all test modules that hold parts of it imported anew; the tiny models know none and stay."""
    mine = {path.stem for path in TESTS.glob("*.py")} - {"tiny"}
    for name in list(sys.modules):
        if name.split(".")[0] in {"greedyprune", *mine}:
            del sys.modules[name]


def run(checks: Sequence[str], mutation: Mutation | None) -> dict[str, Any]:
    """Run these tests, against the package with the mistake in it."""
    torch.set_num_threads(1)
    gc.freeze()  # pytest collects garbage, and all that was here before is none
    forget()
    if mutation is not None:
        path = path_of(mutation)
        name = ".".join(("greedyprune", *path.relative_to(PACKAGE).with_suffix("").parts))
        sys.meta_path.insert(0, Mutated(name, path, source(mutation)))
        importlib.import_module(name)
    tiny.NAMES[:] = named(checks)  # the matrix of all the others would be laid out for nothing
    noted = Noted()
    code = pytest.main([*OPTIONS, *(f"{TESTS}/{check}" for check in checks)], plugins=[noted])
    return {"code": int(code), "failed": noted.failed, "skipped": noted.skipped}


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a piece of work returns, done in a fork of this process that leaves nothing behind."""
    with tempfile.NamedTemporaryFile("w+") as said, tempfile.NamedTemporaryFile("w+") as result:
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(LIMIT)
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


def test_the_checks_pass_where_nothing_is_mutated() -> None:
    outcome = forked(lambda: run(sorted({mutation.check for mutation in MUTATIONS}), None))
    assert outcome["code"] == 0, outcome["said"][-3000:]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_the_mutation_is_noticed(mutation: Mutation) -> None:
    source(mutation)
    outcome = forked(lambda: run([mutation.check], mutation))
    if outcome["skipped"]:
        pytest.skip(f"{mutation.check} is skipped here")
    assert outcome["code"] == 1, f"{mutation.check} does not notice that {mutation.name}: {outcome['said'][-3000:]}"
    # A wrong answer that a proof notices, and no crash that anybody would.
    assert set(outcome["failed"].values()) <= {"AssertionError", "Failed"}, outcome["failed"]
