"""MLflow: a run in the store that ``$MLFLOW_TRACKING_URI`` names, or in MLflow's own default."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import final

from finetune.training.trackers.base import Tracked, Tracker

_LONGEST = 500  # characters of a parameter that every version's store takes
_MOST = 100  # parameters in one call


@final
class MLflow(Tracker):
    """A run of the experiment ``finetune``, or of ``$MLFLOW_EXPERIMENT_NAME``. No global state is touched."""

    package, extra = "mlflow", "mlflow"

    def __init__(self, run: Tracked) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        if "id" in run.memory:
            self._client.update_run(run.memory["id"], status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "finetune")
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            made = self._client.create_run(experiment, run_name=run.folder.name)
            run.memory["id"] = made.info.run_id
            parameters = [Param(k, str(v)[:_LONGEST]) for k, v in run.parameters.items()]
            for start in range(0, len(parameters), _MOST):
                self._client.log_batch(run.memory["id"], params=parameters[start : start + _MOST])
        self._id = run.memory["id"]

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def picture(self, name: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), name.rpartition("/")[0] or None)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
