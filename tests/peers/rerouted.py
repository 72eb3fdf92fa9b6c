"""Run the unit tests of a peer from its installed package, with its losses replaced by ours."""

from __future__ import annotations

import functools
import sys
import unittest
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from peers import Result

Losses = Mapping[ModuleType, Mapping[str, Callable[..., Any]]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


class Judge(unittest.TestResult):
    """Puts our losses in their places before each test, and collects one result a test, whatever its subtests are."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self.losses, self.results = losses, []
        self.error, self.calls = "", 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.error, self.calls = "", 0
        np.random.seed(0)  # many tests draw without a seed
        # Anew for each test: jit would take a function that it knows from its cache, and no call would be seen.
        for module, functions in self.losses.items():
            for name, function in functions.items():
                setattr(module, name, self.counted(name, function))

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return function(*args, **kwargs)

        call.__name__ = name  # as the peer calls it: some tests look at it
        return call

    def blame(self, error: ExcInfo) -> None:
        lines = [line.strip() for line in f"{error[0].__name__}: {error[1]}".splitlines()]
        self.error = self.error or " ".join(line for line in lines if line)[:300]

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self.blame(err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.blame(err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.blame(err)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        outcome = "not ours" if not self.calls else "differ" if self.error else "agree"
        self.results.append(Result(name_of(test), outcome, self.error))


def name_of(test: unittest.TestCase) -> str:
    return f"{type(test).__name__}.{test._testMethodName}"


def run(
    losses: Losses,
    tests: Iterable[ModuleType],
    skipped: Callable[[unittest.TestCase], bool] = lambda test: False,
) -> list[Result]:
    """The results of all tests of the modules, with `losses[module][name]` in the place of `module.name`."""
    missing = [name for module, functions in losses.items() for name in functions if not hasattr(module, name)]
    if missing:
        raise AttributeError(f"the peer has no {missing}")
    # NaN equals NaN for NumPy: then a test would pass that compares nothing.
    np.testing.assert_allclose = functools.partial(np.testing.assert_allclose, equal_nan=False)
    judge = Judge(losses)
    for module in tests:
        cases = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, unittest.TestCase)]
        for case in cases:
            if case.__module__ != module.__name__:
                continue
            for test in map(case, unittest.TestLoader().getTestCaseNames(case)):
                if skipped(test):
                    judge.results.append(Result(name_of(test), "not ours", "skipped by the peer itself"))
                else:
                    test(judge)
        print(f"{module.__name__}: {len(judge.results)} tests so far", file=sys.stderr, flush=True)
    return judge.results
