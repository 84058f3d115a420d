"""The other optimizers: torch's and timm's, one of pytorch-optimizer, and Adam first, then SGD.

Weight decay is decoupled (AdamW, https://arxiv.org/abs/1711.05101) or L2 in the gradient, as
``finetune.solvers`` says for each; ``phase.decoupled`` chooses where both exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from finetune.errors import TrainingError
from finetune.solvers import is_decoupled, missing_package
from finetune.strategy.plan import GradientPhase

Groups = Iterable[dict[str, Any]]


def adam_settings(phase: GradientPhase) -> dict[str, Any]:
    """``betas`` and ``eps`` where the phase names them; the library's defaults elsewhere."""
    named = {"betas": phase.betas, "eps": phase.eps}
    return {"lr": phase.lr, **{key: value for key, value in named.items() if value is not None}}


def _decoupled(phase: GradientPhase) -> bool:
    return is_decoupled(phase.optimizer, phase.decoupled)


def adagrad(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """AdaGrad, Duchi et al. 2011 (https://jmlr.org/papers/v12/duchi11a.html)."""
    return torch.optim.Adagrad(groups, **adam_settings(phase))


def rmsprop(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """RMSProp without momentum and with torch's decay of .99 (Tieleman and Hinton 2012, lecture 6e)."""
    return torch.optim.RMSprop(groups, **adam_settings(phase))


def adam(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """Adam, bias corrected, https://arxiv.org/abs/1412.6980."""
    kind = torch.optim.AdamW if _decoupled(phase) else torch.optim.Adam
    return kind(groups, **adam_settings(phase))


def amsgrad(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """Adam whose second moment never falls, https://arxiv.org/abs/1904.09237."""
    kind = torch.optim.AdamW if _decoupled(phase) else torch.optim.Adam
    return kind(groups, amsgrad=True, **adam_settings(phase))


def radam(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """Rectified Adam, https://arxiv.org/abs/1908.03265."""
    return torch.optim.RAdam(groups, decoupled_weight_decay=_decoupled(phase), **adam_settings(phase))


def nadam(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """Adam with Nesterov momentum, Dozat 2016."""
    return torch.optim.NAdam(groups, decoupled_weight_decay=_decoupled(phase), **adam_settings(phase))


def adabelief(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """AdaBelief without rectification, https://arxiv.org/abs/2010.07468."""
    from timm.optim.adabelief import AdaBelief

    made: torch.optim.Optimizer = AdaBelief(
        groups, rectify=False, decoupled_decay=_decoupled(phase), **adam_settings(phase)
    )
    return made


def lion(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """Lion, https://arxiv.org/abs/2302.06675."""
    from timm.optim.lion import Lion

    made: torch.optim.Optimizer = Lion(groups, **adam_settings(phase))
    return made


def diffgrad(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """diffGrad, https://arxiv.org/abs/1909.11015. Raises TrainingError where pytorch-optimizer is missing."""
    missing = missing_package("diffgrad")
    if missing:
        raise TrainingError(missing)
    from pytorch_optimizer import DiffGrad

    made: torch.optim.Optimizer = DiffGrad(groups, weight_decouple=_decoupled(phase), **adam_settings(phase))
    return made


def adam_then_sgd(groups: Groups, phase: GradientPhase) -> torch.optim.Optimizer:
    """AdamW for the share ``phase.switch`` of the schedule, then SGD."""
    return AdamThenSGD(
        groups, momentum=phase.momentum, nesterov=phase.nesterov, switch=phase.switch, **adam_settings(phase)
    )


class AdamThenSGD(torch.optim.Optimizer):
    """AdamW until the groups' ``progress`` (share of the schedule, 0 to 1) reaches ``switch``, then SGD.

    The idea is that of SWATS (https://arxiv.org/abs/1712.07628), the moment is the user's. SGD's learning rate is
    ``RATIO`` times AdamW's, as everywhere in this project, and its L2 as much weaker, so that a step shrinks
    the weights alike; momentum begins anew. All state is in the groups and the usual per-parameter state.
    """

    RATIO = 100.0

    def __init__(
        self, groups: Groups, lr: float, *, momentum: float = 0.9, nesterov: bool = True, switch: float = 0.5,
        **adam: Any,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "progress": 0.0, "switch": switch})
        # Both are made on the same groups, which from now on hold the settings of both.
        self._adam = torch.optim.AdamW(self.param_groups, lr, **adam)
        self._sgd = torch.optim.SGD(
            self.param_groups, lr, momentum=momentum, nesterov=nesterov and momentum > 0
        )

    def step(self, closure: Any = None) -> Any:
        """One step of whichever is at work; the loss that ``closure`` returns, if any."""
        adam = self.param_groups[0]["progress"] < self.param_groups[0]["switch"]
        worker: torch.optim.Optimizer = self._adam if adam else self._sgd
        # Loading a state replaces both, so they are shared again each time.
        worker.param_groups, worker.state = self.param_groups, self.state
        if adam:
            return worker.step(closure)
        for state in self.state.values():
            if "exp_avg" in state:
                state.clear()
        before = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group, (lr, decay) in zip(self.param_groups, before, strict=True):
            group["lr"], group["weight_decay"] = lr * self.RATIO, decay / self.RATIO
        try:
            return worker.step(closure)
        finally:
            for group, (lr, decay) in zip(self.param_groups, before, strict=True):
                group["lr"], group["weight_decay"] = lr, decay
