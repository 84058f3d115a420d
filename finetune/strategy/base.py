"""What a strategy is: one method, from a Context to a Plan."""

from __future__ import annotations

from abc import ABC, abstractmethod

from finetune.strategy.context import Context
from finetune.strategy.plan import Plan


class Strategy(ABC):
    """Decides, never trains. Concrete strategies are final: one file each, registered in ``__init__.py``."""

    @abstractmethod
    def plan(self, ctx: Context) -> Plan:
        """The phases to carry out. Raises StrategyError where the strategy cannot be applied."""
