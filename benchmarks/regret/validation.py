"""What a user would have seen of a plan before the test: accuracy and log-loss on images held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.strategy.plan import GradientPhase, Plan, ProbePhase

if TYPE_CHECKING:
    from finetune.features.extract import Features


def held_out(training: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Validation figures from training.json: of the last phase that held validation images out.

    Where there was a safety net, those of the point that it took, on a line between the points that it measured;
    else the kept epoch's.
    """
    judged = [
        training["phases"].get(str(i), {})
        for i, phase in enumerate(plan.phases)
        if isinstance(phase, GradientPhase) and phase.fit_on == "train"
    ]
    if not judged:
        return {}
    facts = judged[-1]
    points = sorted(facts.get("blend", {}).get("points", ()), key=lambda point: point["alpha"])
    if points:
        alphas = [point["alpha"] for point in points]
        accuracy, loss = (
            float(np.interp(facts["blend"]["alpha"], alphas, [point[name] for point in points]))
            for name in ("accuracy", "log_loss")
        )
        return {"val_accuracy": round(accuracy, 5), "val_loss": round(loss, 5)}
    best = facts.get("best")
    if not best:
        return {}
    return {"val_accuracy": round(best["val_accuracy"], 5), "val_loss": round(best["val_loss"], 5)}


def probe_held_out(plan: Plan, train: Features, val: Features, num_classes: int, seed: int) -> dict[str, Any]:
    """A head that was fitted on validation images too is fitted once more without them, to be judged on them.

    Features are cached, so this costs what the fit costs; it is not part of the row's seconds.
    """
    from finetune.features.probe import fit_probe

    phase = plan.phases[-1]
    if not isinstance(phase, ProbePhase):
        return {}
    alone = phase.model_copy(update={"fit_on": "train"})
    logits = fit_probe(alone, train.taps, train.labels, num_classes, seed).logits(val.taps)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(len(val.labels)), val.labels].mean()
    accuracy = (logits.argmax(axis=1) == val.labels).mean()
    return {"val_accuracy": round(float(accuracy), 5), "val_loss": round(float(loss), 5)}
