"""Around: the base of methods that prepare what another method, the inner one, then decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from greedyprune.method import Method
from greedyprune.naming import as_method

if TYPE_CHECKING:
    from greedyprune.cues import Need
    from greedyprune.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Around(Method):
    """A method around another one. It needs, merges and promises what that does, and may run where that may.

    DyToK(inner="divprune").inner  # DivPrune()
    """

    inner: Method = cast("Any", "fastv")
    """The method that chooses: an instance, or the name or plain dict of a registered one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", as_method(self.inner, own=False))

    @property
    def needs(self) -> tuple[Need, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the inner method."""
        return self.inner.needs

    @property
    def merges(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the inner method does."""
        return self.inner.merges

    @property
    def weighs_relevance(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the inner method does."""
        return self.inner.weighs_relevance

    @property
    def exact(self) -> bool:
        """As the inner method is."""
        return self.inner.exact

    @property
    def reads(self) -> frozenset[str]:
        """What the inner method reads, and what this one needs besides."""
        return self.inner.reads | {need.word for need in self.needs if need not in self.inner.needs}

    def check_stage(self, stage: Stage) -> None:
        """Raise ValueError unless this method and the inner one may run at that stage."""
        super().check_stage(stage)
        self.inner.check_stage(stage)
