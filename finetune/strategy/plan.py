"""A Plan: what was decided, as a list of phases that one executor carries out.

A plan prints as a table, saves as YAML and can be written by hand. A phase never names its strategy:
it says which stages train, how the head is solved, at which learning rates, for how long.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from finetune.data.policies import joined_parts, policy_name
from finetune.errors import ConfigError, did_you_mean, must
from finetune.recipe_values import Crop
from finetune.regularise import Regularisers


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ProbePhase(_Frozen):
    """Fit a linear head in closed form on cached features of the frozen backbone."""

    kind: Literal["probe"] = "probe"
    name: str = "linear probe"
    """What the phase is called on the screen and in metrics."""
    candidates: tuple[tuple[int, ...], ...]
    """Sets of stage indices (input to head, 0-based) whose pooled taps feed the head. With several
    candidates the one of least held-out log-loss is taken; ties go to the first."""
    solver: Literal["auto", "logistic", "ridge", "lda", "centroid"] = "auto"
    """``auto``: logistic from a median of 5 images a class on; with fewer all four are compared."""
    combine: Literal["auto", "pick", "average"] = "auto"
    """``average`` takes the mean of all heads within one standard error of the best instead of one;
    ``auto`` does so below a median of 30 images a class."""
    lambdas: tuple[float, ...] = Field(default=())
    """L2 strengths to try; empty = the solver's own log grid."""
    folds: int = Field(5, ge=2)
    """Of the cross-validation that chooses the L2 strength and the candidate."""
    fit_on: Literal["train", "train+val"] = "train"
    """``train+val`` when no later phase needs the validation split: lambda is cross-validated anyway."""
    restart: bool = False
    """Whether the pretrained weights are put back first: a refit begins where the first fit began."""
    norms: Literal["source", "target", "try"] = "source"
    """Running statistics of batch norms: the pretrained ones, re-estimated on these images (AdaBN, arXiv
    1603.04779), or whichever of the two gives the head the lower held-out log-loss."""


class _Steps(_Frozen):
    """What trains, how fast and how long; GradientPhase adds what the loss and the regularisers are."""

    kind: Literal["gradient"] = "gradient"
    name: str = "finetune"
    """What the phase is called on the screen and in metrics."""
    train_from: int = Field(ge=0)
    """Index of the first stage that trains; everything below is frozen, running statistics too.
    ``num_stages`` trains the head alone, 0 trains everything, 1 all but the stem."""
    epochs: int = Field(ge=1)
    """Passes over the training images."""
    trains: Literal["all", "norms-biases", "lora"] = "all"
    """Which parameters of those stages move: all, only the scales and shifts of norms and the biases, or
    low-rank adapters beside the linear layers (LoRA, arXiv 2106.09685; needs the extra ``lora``)."""
    lora_rank: int = Field(8, ge=1)
    """Rank of the adapters, where they train."""
    optimizer: str = "sgd"
    """sgd, adagrad, rmsprop, adam, adamw, amsgrad, radam, nadam, adabelief, diffgrad, lion, muon or adam-then-sgd."""
    lr: float = Field(gt=0, le=1000)
    """Learning rate of the last stage at its peak, already scaled to the batch size."""
    head_lr: float = Field(gt=0, le=1000)
    """Learning rate of the head at its peak."""
    find_lr: bool = False
    """Whether a range test at the phase's beginning sets lr and head_lr, in their ratio; where its curve suggests
    nothing they stay, or come down to a tenth of where the loss rose."""
    stage_decay: float = Field(1.0, gt=0, le=1)
    """Each stage further from the head gets this factor of the LR of the next one (layer-wise decay)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd, muon and the second part of adam-then-sgd; 0 is plain SGD."""
    nesterov: bool = True
    """Whether that momentum is Nesterov's or the classical one."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Decay rates of both moments, for Adam's kin and lion; null: the optimizer's own."""
    eps: float | None = Field(None, gt=0)
    """What is added to the denominator, where the optimizer has one; null: the optimizer's own."""
    weight_decay: float = Field(1e-4, ge=0)
    """Norms and biases are excluded."""
    decoupled: bool | None = None
    """Whether weights decay apart from the gradient or in it (L2); null: the optimizer's own way."""
    switch: float = Field(0.5, gt=0, lt=1)
    """Share of the schedule after which adam-then-sgd goes on with SGD."""
    schedule: str = "cosine"
    """Shape of the learning rate after the warm-up: cosine (down to 0), constant, step, exponential, inverse-time,
    linear-to-tau, one-cycle, cyclic, sgdr or plateau."""
    schedule_args: dict[str, Any] = {}
    """The schedule's own arguments; those left out have their defaults."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps spent in linear warm-up."""
    patience: Annotated[int, Field(ge=1)] | Literal["earlier"] | None = None
    """Epochs without an improvement of ``monitor`` after which training stops; null: it does not. ``earlier``: it
    stops after as many epochs as an earlier phase of the plan, for want of images to validate on."""
    monitor: Literal["loss", "accuracy", "score"] = "loss"
    """What is watched for that, and by the schedule plateau."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Weight of the past in the exponential average of what is watched."""
    stop_at: float | None = Field(None, gt=0, le=1)
    """Validation accuracy at which training stops."""
    time: float | None = Field(None, gt=0)
    """Seconds for the phase: the schedule is shortened so that it fits. In a run with train.time what is left of that
    counts instead; in a plan that was given, this."""
    batch_size: int = Field(64, ge=1)
    """Images a micro-batch."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches a step; the effective batch is batch_size * accumulate."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Most images in the network at once, where batch_size is too many for the memory: gradients of the parts of
    a batch are added up. auto finds it before the phase begins; None: whole batches."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest global norm of the gradient; null turns clipping off."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the label that is spread over the other classes."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights, per step; None turns it off."""
    swa: float | None = Field(None, gt=0, lt=1)
    """Share of the epochs, the last ones, whose final weights are averaged, each alike (SWA, arXiv 1803.05407);
    None turns it off. Instead of ema; norms that train are re-estimated at the end."""
    swa_lr: float = Field(0.5, gt=0, le=1)
    """Constant learning rate of the averaged epochs, as a share of the peak; reached within one epoch."""
    snapshots: int | None = Field(None, ge=2)
    """Cosine cycles the epochs are divided into; the network is kept at the end of each, and the answer is the
    mean of their probabilities (arXiv 1704.00109). Instead of ema and swa, and without blend."""
    augment: Annotated[str, BeforeValidator(joined_parts)] = "standard"
    """Augmentation policy of the training images: none, light, standard, strong, trivial, rand, autoaugment or rich;
    or operations, as a list or joined by +, as in crop+flip+rotation."""
    crop: Crop = "area"
    """How the policy crops: a share of the area, or a square of an image whose short side was scaled (short-side)."""
    augment_on: Literal["loader", "device"] = "loader"
    """Where it is computed: an image at a time in the loader's threads, or a batch at a time on the device."""
    avoid: tuple[Literal["flip", "crop", "colour", "rotation"], ...] = ()
    """Families of augmentation that the policy leaves out, because the labels were found to mind them."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Whether norm layers of *trained* stages update their running statistics."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights: the best on validation, or the last, where validation is too small to tell."""
    blend: tuple[Annotated[float, Field(ge=0, le=1)], ...] | Literal["earlier"] = ()
    """Points tried at the end on the line from the weights the phase began with (0) to those it trained (1),
    the safety net: their mean is kept, each weighted by the likelihood of the validation labels under it. Empty:
    the trained weights. ``earlier``: the point that an earlier phase of the plan chose."""
    fit_on: Literal["train", "train+val"] = "train"
    """``train+val``: validation images train too and nothing is held out, so the last weights are kept."""


class GradientPhase(Regularisers, _Steps):
    """Train some stages and the head by gradient steps."""

    @property
    def policy(self) -> str:
        """The augmentation policy and how it crops, as AUGMENTATIONS knows it."""
        return policy_name(self.augment, self.crop)

    @property
    def on_device(self) -> bool:
        """Whether batches are augmented on the device."""
        return self.augment_on == "device" and self.augment != "none"


Phase = Annotated[ProbePhase | GradientPhase, Field(discriminator="kind")]


class Plan(_Frozen):
    """The phases, in order, and how the weights start."""

    strategy: str
    """A name for the result; nothing follows from it."""
    init: Literal["pretrained", "random"] = "pretrained"
    """The weights to begin with."""
    phases: tuple[Phase, ...] = Field(min_length=1)
    """What is done, in order."""
    why: str = ""
    """One sentence for the reader."""

    def rows(self) -> list[dict[str, str]]:
        """One row a phase for printing: what trains, how, how long."""
        rows = []
        for phase in self.phases:
            if isinstance(phase, ProbePhase):
                taps = " | ".join("+".join(map(str, c)) for c in phase.candidates)
                rows.append(
                    {
                        "phase": phase.name,
                        "trains": "head",
                        "how": f"{phase.solver}, stages {taps}",
                        "lr": "-",
                        "epochs": "-",
                    }
                )
            else:
                rows.append(
                    {
                        "phase": phase.name,
                        "trains": _what(phase),
                        "how": f"{phase.optimizer}, {phase.schedule}, {_augmentation(phase)}",
                        "lr": "by range test"
                        if phase.find_lr
                        else f"{phase.lr:.2g} (head {phase.head_lr:.2g})",
                        "epochs": str(phase.epochs),
                    }
                )
        return rows

    def annotated_yaml(self, title: str, stage_names: Sequence[str]) -> str:
        """``to_yaml`` below a comment that says what each key means; ``title`` comes first, line by line."""
        lines = [*title.splitlines(), ""]
        lines += ["Stages, input to head: " + ", ".join(f"{i} {n}" for i, n in enumerate(stage_names)), ""]
        lines += _glossary(Plan, "The plan")
        kinds = {type(phase) for phase in self.phases}
        if ProbePhase in kinds:
            lines += _glossary(ProbePhase, "A phase of kind probe")
        if GradientPhase in kinds:
            lines += _glossary(GradientPhase, "A phase of kind gradient")
        return "".join(f"# {line}".rstrip() + "\n" for line in lines) + self.to_yaml()

    def to_yaml(self) -> str:
        """For plan.yaml; ``from_yaml`` gives an equal plan back, and a person may edit it in between."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, source: str = "plan.yaml") -> Plan:
        """Read a plan; raises ConfigError with every problem, unknown keys with the nearest known one."""
        plan, problems = cls.examine(read_tree(text, source))
        if plan is None or problems:
            raise ConfigError(join_problems(problems, source))
        return plan

    @classmethod
    def examine(cls, tree: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
        """The plan that a mapping describes, or None and what is wrong with it, a line a problem."""
        try:
            return cls.model_validate(tree), []
        except ValidationError as error:
            # Where every phase has a mistake, pydantic counts the right ones and finds too few.
            items = [i for i in error.errors() if not (i["type"] == "too_short" and i["input"])]
            return None, [_problem(item) for item in items]


def _augmentation(phase: GradientPhase) -> str:
    named = f"{phase.policy} on the device" if phase.on_device else phase.policy
    return f"{named} without {', '.join(phase.avoid)}" if phase.avoid else named


def _glossary(model: type[BaseModel], title: str) -> list[str]:
    """What each key of a model means, wrapped to a comment."""
    lines = [f"{title}:"]
    for key, field in model.model_fields.items():
        if field.description:
            text = " ".join(field.description.replace("``", "").split())
            lines += textwrap.wrap(f"{key}: {text}", 104, initial_indent="  ", subsequent_indent="    ")
    return lines


def read_tree(text: str, source: str) -> Mapping[str, Any]:
    """The mapping in a plan file's text. Raises ConfigError naming the line."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{where} is not valid YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(must(source, "a mapping with strategy and phases", type(tree).__name__))
    return tree


def join_problems(problems: list[str], source: str) -> str:
    """All problems of a plan in one message."""
    noun = "problem" if len(problems) == 1 else "problems"
    return f"{len(problems)} {noun} in {source}: {' · '.join(problems)}"


def _what(phase: GradientPhase) -> str:
    which = {"all": "", "norms-biases": "norms and biases of ", "lora": "adapters in "}[phase.trains]
    images = "" if phase.fit_on == "train" else ", on train+val"
    return f"{which}stages {phase.train_from}.. + head{images}"


def _problem(item: Any) -> str:
    """One line about one pydantic error."""
    tags = ("probe", "gradient")  # pydantic names a phase's kind behind its number
    where = [
        str(part)
        for i, part in enumerate(item["loc"])
        if i == 0 or part not in tags or not isinstance(item["loc"][i - 1], int)
    ]
    if item["type"] == "extra_forbidden":
        known = {*Plan.model_fields, *ProbePhase.model_fields, *GradientPhase.model_fields}
        return f"{'.'.join(where)}: unknown key.{did_you_mean(where[-1], known)}"
    if item["type"] in ("missing", "union_tag_not_found"):
        key = ".".join(where) if item["type"] == "missing" else ".".join([*where, "kind"])
        return f"{key}: must be given"
    message = item["msg"].replace("Input should be", "must be").rstrip(".")
    return f"{'.'.join(where)}: {message}. Got {item['input']!r} instead."
