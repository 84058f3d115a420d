"""The sections of a recipe: what comes in, how heads are solved, how networks are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from finetune.errors import did_you_mean
from finetune.recipe_values import (
    Crop,
    Part,
    Policy,
    augmentation,
    not_empty,
    rate_or_auto,
    seconds_of,
)
from finetune.regularise import Regularisers
from finetune.solvers import OPTIMIZERS, SCHEDULES, optimizer_problems, schedule_problems

EFFECTIVE_BATCH = 64
"""Images per optimizer step where the batch size is left to the memory."""

AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DataRecipe(Section):
    """What comes in."""

    path: Annotated[str | None, BeforeValidator(not_empty)] = None
    """Folder with one sub-folder per class, with or without train/ val/ test/ above the classes; a table (CSV, TSV,
    JSON lines, Parquet) with a row per image; an archive (zip, tar, tar.gz) of either, read in place; WebDataset
    shards, by a pattern such as shards/{000..009}.tar or their folder; hf:NAME, or a folder by its save_to_disk."""
    image_column: str | None = None
    """Of a table: the column of image paths; default: path, image, file ..., the first that is there."""
    label_column: str | None = None
    """Of a table: the column of labels; default: label, class, target ..., the first that is there."""
    split_column: str | None = None
    """Of a table: the column that says train, val or test; default: split, set ... where it says so."""
    task: Literal["auto", "single-label", "multi-label", "regression"] = "auto"
    """What is learned: one class an image, any number of labels, or a number. auto: multi-label where labels of a
    table are lists, regression where all are numbers and some not whole, else single-label."""
    label_separator: str = Field("|", min_length=1, max_length=8)
    """Of a multi-label table: what stands between the labels of an image."""
    root: str | None = None
    """Of a table: where relative paths start; default: its own folder."""
    group_by: str | None = None
    """Images of one group (patient, track, video) are kept on one side of every split: a column of the table, or
    a regular expression with one part in parentheses that is searched in each image's name."""
    val_fraction: float = Field(0.15, gt=0, lt=0.5)
    """Share of the training images held out for validation where no val/ folder is given."""
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    """Share of the images held out for the final test where neither val/ nor test/ is given."""
    folds: int | None = Field(None, ge=2, le=100)
    """k of k-fold cross-validation: k networks, each tested on the fold that it has not seen. A given val set joins the
    images that are divided, a given test set stays out."""
    fold: int | None = Field(None, ge=1)
    """Train and test this fold alone, 1 to folds; default: all, and their summary."""
    split_seed: int | None = Field(None, ge=0, lt=2**32)
    """Seeds the splits and limit_per_class; default: the recipe's seed. The same in runs of several seeds, they can
    be compared and put together on one test split."""
    limit_per_class: int | None = Field(None, ge=1)
    """Use at most this many training images of each class (drawn with the seed). Where the task is regression: of each
    tenth of the numbers (of each number where there are at most ten). Where it is multi-label: this many of each label
    and of images without any, or all where there are fewer; frequent labels come along with rare ones and have more."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Side of the square network input, in pixels; default: the backbone card's own."""
    normalise: Literal["backbone", "data", "mean-image"] = "backbone"
    """Whose mean and standard deviation of each channel the pixels are normalised by: those that the backbone was
    trained with, or those of the training images (training from scratch, pictures unlike photographs). mean-image
    subtracts the training images' mean at each place instead of one mean a channel."""
    workers: AtLeastOne | Literal["auto"] = "auto"
    """Threads that decode and augment images."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Images with more pixels are quarantined as decompression bombs."""
    depth: int | None = Field(None, ge=8, le=32)
    """Bits a pixel that images of more than 8 bits use (12: values up to 4095), whatever the file could hold; default:
    16 of integers, and floats from 0 to 1 or to 255."""
    decode: Literal["fast", "exact"] = "fast"
    """fast: JPEGs far larger than the network's input are decoded at 1/2, 1/4 or 1/8, and training crops resized by
    torch; pixels differ by less than 1 of 255 on average. exact: in full, by Pillow alone."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Resized images between epochs: in memory while they fit; what does not, and large photos, also on disk for the
    next epoch and the next run. memory: nothing on disk; disk: everything. Changes no pixel."""

    @field_validator("fold")
    @classmethod
    def _one_of_folds(cls, value: int | None, info: ValidationInfo) -> int | None:
        folds = info.data.get("folds")
        if value is not None and (folds is None or value > folds):
            raise ValueError(f"must be 1 to {folds}" if folds else "must be left out where data.folds is")
        return value


class ProbeRecipe(Section):
    """Linear heads solved on cached features."""

    folds: int = Field(5, ge=2, le=20)
    """Cross-validation folds for the L2 strength."""
    solver: Literal["auto", "logistic", "ridge", "lda", "centroid"] = "auto"
    """Multinomial logistic regression, ridge regression, shrunk LDA or nearest centroid; auto: logistic, but
    below a median of 5 images a class the simplest that is as good as the best by held-out log-loss."""
    combine: Literal["auto", "pick", "average"] = "auto"
    """Where several heads are within one standard error of the best: one of them, or the mean of all; auto: the
    mean below a median of 30 images a class."""
    stages: Literal["last", "best"] | None = None
    """Stages that feed the head solved before finetuning: the last, or it with those earlier ones that give the least
    cross-validated log-loss; default: the last, and `auto` takes the best."""
    norms: Literal["source", "target", "try"] | None = None
    """Batch norms' statistics: the pretrained ones, re-estimated on the images, or the better; default: source."""
    fit_on: Literal["train", "train+val"] = "train+val"
    """Images that a head alone is fitted on: `train` keeps the validation images out, to judge it by them."""
    cache: bool = True
    """Keep features on disk, keyed by image bytes, weights and preprocessing."""


class _Steps(Section):
    """How to train by gradient steps; TrainRecipe adds what the loss and the regularisers are."""

    epochs: int | None = Field(None, ge=1)
    """Passes over the training images in the main phase; default: by the number of images."""
    epochs_factor: float = Field(1.0, gt=0, le=100)
    """Multiple of that default, which remains at least 300 steps: 0.25 for a quick answer."""
    batch_size: AtLeastOne | Literal["auto"] = 64
    """Images per micro-batch; auto: as many of effective_batch as fit into memory."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches per optimizer step."""
    effective_batch: int | None = Field(None, ge=1)
    """Images per optimizer step, which learning rates are scaled to; default: batch_size * accumulate, 64 with auto."""
    lr: Annotated[float | Literal["auto"] | None, BeforeValidator(rate_or_auto)] = None
    """Peak learning rate of the body; default: 1/10 of the card's source LR, Adam's scaled to the batch; auto: found by
    a range test (arXiv 1506.01186) when the phase begins, ratios between groups as they would be."""
    head_lr: float | None = Field(None, gt=0, le=1000)
    """Peak learning rate of the head; default: the body's, which suits a head that was fitted first. Beside lr auto
    only the ratio to the default counts."""
    stage_decay: float | None = Field(None, gt=0, le=1)
    """Factor between the LRs of neighbouring stages, towards the input."""
    optimizer: str | None = None
    """sgd, adagrad, rmsprop, adam, adamw, amsgrad, radam, nadam, adabelief, diffgrad, lion, muon or adam-then-sgd;
    default: the one the backbone was pretrained with, by its card."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd (0: plain SGD), muon and the second part of adam-then-sgd."""
    nesterov: bool = True
    """Whether that momentum is Nesterov's or the classical one."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Decay rates of both moments, for Adam's kin and lion; default: the optimizer's own."""
    eps: float | None = Field(None, gt=0)
    """What is added to the denominator, where the optimizer has one; default: the optimizer's own."""
    weight_decay: float | None = Field(None, ge=0)
    """Norms and biases are excluded; default: 1e-4 as L2, .05 decoupled (more where rates are lower)."""
    decoupled: bool | None = None
    """Weight decay apart from the gradient (AdamW's way) or in it (L2), where the optimizer has both; default:
    L2 for sgd and adam, decoupled for the others."""
    switch: float = Field(0.5, gt=0, lt=1)
    """Share of the schedule after which adam-then-sgd goes on with SGD, at a hundred times the LR."""
    schedule: str = "cosine"
    """Shape of the LR after warm-up: cosine, constant, step, exponential, inverse-time, linear-to-tau, one-cycle,
    cyclic, sgdr or plateau."""
    schedule_args: dict[str, Any] = {}
    """The schedule's own arguments, such as {milestones: [.5, .75], gamma: .1} of step (docs/techniques.md)."""
    warmup: float | None = Field(None, ge=0, lt=1)
    """Share of the steps spent in linear warm-up; default: .1, and 0 for one-cycle and cyclic, which begin low."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without an improvement of `monitor`; default: never."""
    monitor: Literal["loss", "accuracy", "score"] = "loss"
    """Of the validation images (the training images where there are none): for patience and plateau. score: accuracy,
    or what another task has for it, F1 of an image's labels or R2."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Weight of the past in the exponential average of `monitor` that is watched."""
    stop_at: float | None = Field(None, gt=0, le=1)
    """Stop when the validation accuracy (F1, R2) reaches this; 1.0: on a perfect score."""
    time: Annotated[float, BeforeValidator(seconds_of), Field(gt=0)] | None = None
    """Time for the whole run from the start of the command (90s, 10m, 1.5h): schedules are shortened so that the LR
    comes to its end; where even that is too long there is no refit, or no training but the head's."""
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    """Mass moved from the label to the other classes."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest global gradient norm; null turns clipping off."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of the exponential moving average of the weights; default: by run length."""
    swa: float | None = Field(None, gt=0, lt=1)
    """Share of the epochs, the last ones, whose final weights are averaged, each alike (arXiv 1803.05407);
    instead of ema. Norms that train are re-estimated at the end."""
    swa_lr: float = Field(0.5, gt=0, le=1)
    """Constant learning rate of the epochs that swa averages, as a share of the peak."""
    snapshots: int | None = Field(None, ge=2)
    """Cosine cycles of an epoch or more, each of which leaves a network; the mean of their probabilities answers
    (arXiv 1704.00109). Instead of ema and swa, and without the safety net."""
    augment: Annotated[Policy | tuple[Part, ...] | None, BeforeValidator(augmentation)] = None
    """Augmentation policy: none, light, standard, strong, trivial, rand, autoaugment or rich; or a list of operations,
    such as [crop, flip, rotation, lighting], as strong as in rich. Default: by amount of data."""
    crop: Crop = "area"
    """How a policy crops. area: a share of the area, anywhere (arXiv 1409.4842); short-side: the short side is scaled
    to 256/224 to 480/224 of the network's size, and a square of that size cut out (arXiv 1512.03385)."""
    augment_on: Literal["auto", "loader", "device"] = "auto"
    """Where images are augmented: each in the loader's threads, or a batch at a time on the device that trains; auto:
    in the loader on a CPU, else on the device."""
    avoid: tuple[Literal["flip", "crop", "colour", "rotation"], ...] | None = None
    """Families of augmentation to leave out; default: those that the labels are found to mind; []: none."""
    batch_norm: Literal["frozen", "train"] | None = None
    """Statistics of the batch norms: the pretrained ones, or learned on; default: frozen, but trained from scratch and
    where many images are far from the source, unless the card says that they must stay."""
    train_stages: int | None = Field(None, ge=1)
    """How many stages `partial` trains, counted from the head."""
    lora_rank: int = Field(8, ge=1)
    """Rank of the adapters of `lora`."""
    keep: Literal["best", "last"] | None = None
    """Which epoch's weights; default: the best on validation, the last with under 500 validation images."""
    safety_net: bool = True
    """Look for the best point between the head alone and the tuned network (WiSE-FT, arXiv 2109.01903)."""
    refit: bool | Literal["auto"] = "auto"
    """Train once more with the validation images; auto: with under 1,500 images."""
    preflight: bool = True
    """Look for what goes wrong in silence (labels, gradients, frozen parts, preprocessing, loader) before training."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto measures bf16 against fp32 for a few batches and keeps the faster."""
    channels_last: bool | Literal["auto"] = "auto"
    """auto measures both layouts."""
    shard: bool = False
    """Divide weights, gradients and optimizer state between the processes (FSDP), for networks that do not fit; only
    with several processes."""
    sync_norms: bool = True
    """Batch norms that train see the batches of all processes, as a single one would; false: each process its share,
    which saves talk where connections are slow."""
    rollbacks: int = Field(3, ge=0)
    """Returns to the last good state, each with half the learning rate, before divergence stops a phase."""
    coach: bool = True
    """Read the curves while training and at its end, and say in words what is wrong and which key mends it."""
    log_every: int = Field(10, ge=1)
    """Optimizer steps between two rows of metrics.jsonl."""
    save_every: int | None = Field(None, ge=1)
    """Optimizer steps between two checkpoints; default: at each epoch's end and about once a minute."""
    trackers: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    """Where the metrics go beside metrics.jsonl and .csv: tensorboard, wandb, mlflow (an extra each)."""

    @field_validator("accumulate")
    @classmethod
    def _found_with_auto(cls, value: int, info: ValidationInfo) -> int:
        if value != 1 and info.data.get("batch_size") == "auto":
            raise ValueError("must be left out where batch_size is auto: effective_batch says what to reach")
        return value

    @field_validator("effective_batch")
    @classmethod
    def _whole_batches(cls, value: int | None, info: ValidationInfo) -> int | None:
        size, accumulate = info.data.get("batch_size", "auto"), info.data.get("accumulate", 1)
        if value is None or size == "auto":
            return value
        if value % size:
            raise ValueError(f"must be a multiple of batch_size ({size}), or batch_size be auto")
        if accumulate not in (1, value // size):
            raise ValueError(
                f"must be batch_size * accumulate ({size * accumulate}), or accumulate be left out"
            )
        return value

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step that were asked for."""
        if self.effective_batch is not None:
            return self.effective_batch
        return EFFECTIVE_BATCH if self.batch_size == "auto" else self.batch_size * self.accumulate

    @field_validator("optimizer", "schedule")
    @classmethod
    def _registered(cls, name: str | None, info: ValidationInfo) -> str | None:
        known = (OPTIMIZERS if info.field_name == "optimizer" else SCHEDULES).names()
        if name is not None and name not in known:
            hint = did_you_mean(name, known).strip().rstrip("?")
            raise ValueError(f"must be one of {', '.join(known)}{f' ({hint}?)' if hint else ''}")
        return name

    @field_validator("betas", "eps", "decoupled")
    @classmethod
    def _suits_the_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        """Where the recipe leaves the optimizer to the card, the plan is checked instead."""
        optimizer = info.data.get("optimizer")
        for _, constraint, _ in (
            optimizer_problems(optimizer, **{str(info.field_name): value}) if optimizer else ()
        ):
            raise ValueError(f"must be {constraint}")
        return value

    @field_validator("schedule_args")
    @classmethod
    def _known_to_the_schedule(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        problems = schedule_problems(info.data["schedule"], value) if "schedule" in info.data else []
        if problems:
            raise ValueError("; ".join(f"{name}: {what.rstrip('.')}" for name, what in problems))
        return value


class TrainRecipe(Regularisers, _Steps):
    """Gradient training. Every key left out is chosen by the strategy."""
