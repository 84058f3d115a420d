"""What sets the strategies apart, their defaults, and plan files with mistakes."""

from __future__ import annotations

import pytest

from finetune.errors import ConfigError, StrategyError
from finetune.recipe import Recipe
from finetune.strategy import STRATEGIES
from finetune.strategy.auto import plan_of
from finetune.strategy.context import Context
from finetune.strategy.decision import given
from finetune.strategy.explanation import Explanation
from finetune.strategy.measure import Evidence
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.zoo.card import ModelCard

CARD = ModelCard(name="net", arch="resnet10t", source_lr=0.4, source_batch=128)


def unmeasured() -> Evidence:
    raise AssertionError("only auto measures")


def plan(
    name: str, n: int = 1000, classes: int = 10, stages: int = 5, card: ModelCard = CARD, **keys: object
) -> Plan:
    recipe = Recipe().override(*(f"train.{k}={v}" for k, v in keys.items()))
    return STRATEGIES.get(name)().plan(Context(recipe, (n // classes,) * classes, card, stages, unmeasured))


def tuning(p: Plan) -> GradientPhase:
    phase = p.phases[-1]
    assert isinstance(phase, GradientPhase)
    return phase


def probing(p: Plan) -> ProbePhase:
    phase = p.phases[0]
    assert isinstance(phase, ProbePhase)
    return phase


def test_heads_alone() -> None:
    assert probing(plan("linear")).candidates == ((4,),)
    assert probing(plan("linear")).fit_on == "train+val"
    several = probing(plan("multistage")).candidates
    assert several == ((4,), (3, 4), (1, 2, 3, 4))


def test_the_first_head_reads_the_last_stage_or_the_best_ones() -> None:
    several = probing(plan("multistage")).candidates
    for name in ("partial", "lp-ft", "full", "norm-bias"):
        assert probing(plan(name)).candidates == ((4,),)
        for asked, candidates in (("best", several), ("last", ((4,),))):
            recipe = Recipe().override(f"probe.stages={asked}", "train.refit=true")
            ctx = Context(recipe, (10,) * 10, CARD, 5, unmeasured, n_val=20)
            made = STRATEGIES.get(name)().plan(ctx)
            assert {p.candidates for p in made.phases if isinstance(p, ProbePhase)} == {candidates}
            # auto takes the best where the recipe is silent, and obeys it where it is not.
            assert plan_of(ctx, name) == made
        recipe = Recipe().override("probe.folds=3")
        chosen = plan_of(Context(recipe, (10,) * 10, CARD, 5, unmeasured), name)
        assert (probing(chosen).candidates, probing(chosen).folds) == (several, 3)
        for made, told in ((chosen, True), (plan(name), False), (plan("multistage"), False)):
            found = Explanation(given(ctx, name), made, CARD, (), ())
            assert ((found.first_head() or "").startswith("The first head reads the stages")) is told


def test_what_trains() -> None:
    first = {name: tuning(plan(name)).train_from for name in ("partial", "lp-ft", "full", "scratch")}
    assert first == {"partial": 4, "lp-ft": 1, "full": 0, "scratch": 0}
    assert tuning(plan("partial", train_stages=2)).train_from == 3
    assert tuning(plan("partial", stages=13)).train_from == 10
    assert plan("scratch").init == "random"
    for name in ("partial", "lp-ft", "full"):
        assert probing(plan(name)).fit_on == "train"
    with pytest.raises(StrategyError, match=r"train\.train_stages must be at most 5 for net"):
        plan("partial", train_stages=6)


def tuned(name: str, n: int, n_val: int, **keys: object) -> Plan:
    recipe = Recipe().override(*(f"train.{k}={v}" for k, v in keys.items()))
    return STRATEGIES.get(name)().plan(Context(recipe, (n // 10,) * 10, CARD, 5, unmeasured, n_val))


@pytest.mark.parametrize("name", ["norm-bias", "partial", "lp-ft", "full"])
def test_few_images_end_in_a_refit_at_the_point_that_validation_chose(name: str) -> None:
    head, tune, head_again, tune_again = tuned(name, n=500, n_val=90).phases
    assert isinstance(tune, GradientPhase)
    assert isinstance(tune_again, GradientPhase)
    assert isinstance(head_again, ProbePhase)
    assert (tune.keep, tune.blend, tune.fit_on) == ("last", (0.0, 0.25, 0.5, 0.75, 1.0), "train")
    assert (head_again.restart, head_again.fit_on) == (True, "train+val")
    assert (tune_again.keep, tune_again.blend, tune_again.fit_on) == ("last", "earlier", "train+val")
    same = {"name", "keep", "blend", "fit_on"}
    assert tune.model_dump(exclude=same) == tune_again.model_dump(exclude=same)
    assert head.kind == "probe"


def test_when_there_is_no_refit_and_no_safety_net() -> None:
    assert len(tuned("partial", n=1000, n_val=499).phases) == 4
    assert len(tuned("partial", n=1000, n_val=500).phases) == 2
    assert len(tuned("partial", n=1000, n_val=500, refit="true").phases) == 4
    assert len(tuned("partial", n=500, n_val=90, refit="false").phases) == 2
    assert len(tuned("partial", n=500, n_val=0).phases) == 2
    assert tuning(tuned("partial", n=500, n_val=0)).blend == ()
    assert tuning(tuned("partial", n=5000, n_val=800, safety_net="false")).blend == ()
    assert tuning(tuned("partial", n=5000, n_val=800)).keep == "best"
    assert tuning(tuned("partial", n=5000, n_val=800, keep="last")).keep == "last"


def test_norms_and_biases_have_rates_of_their_own() -> None:
    phase = tuning(plan("norm-bias"))
    assert (phase.trains, phase.train_from, phase.lr, phase.head_lr) == ("norms-biases", 0, 0.01, 0.01)
    assert phase.weight_decay == 0
    assert tuning(plan("norm-bias", lr=0.3)).lr == 0.3
    assert tuning(plan("norm-bias", weight_decay=0.1)).weight_decay == 0.1
    adam = ModelCard(name="v", arch="vit", source_lr=1e-3, source_optimizer="adamw")
    assert tuning(plan("norm-bias", card=adam)).lr == 1e-3


def test_one_tenth_of_the_source_learning_rate() -> None:
    """A tenth of SGD's 0.4, no less for a batch smaller than the source's 128, more for a larger one; the head, which
    was solved first, goes with it. From scratch the rate goes with the batch, and Adam's with its square root."""
    phase = tuning(plan("partial"))
    assert phase.lr == pytest.approx(0.04)
    assert phase.head_lr == pytest.approx(0.04)
    unfitted = plan("partial", head="bottleneck").phases[0]
    assert isinstance(unfitted, GradientPhase)
    assert unfitted.head_lr == pytest.approx(0.4)
    assert tuning(plan("scratch")).lr == pytest.approx(0.2)
    assert tuning(plan("partial", accumulate=2)).lr == pytest.approx(0.04)
    assert tuning(plan("partial", accumulate=4)).lr == pytest.approx(0.08)
    adam = ModelCard(name="a", arch="vit", source_lr=1e-3, source_batch=4096, source_optimizer="adamw")
    assert tuning(plan("partial", card=adam)).lr == pytest.approx(1.25e-5)
    assert tuning(plan("partial", card=adam)).weight_decay == 0.05
    assert tuning(plan("partial", optimizer="adamw")).lr == pytest.approx(4e-4)
    assert tuning(plan("partial", card=adam, optimizer="sgd")).lr == pytest.approx(1.25e-3)


def test_depth_decides_the_decay_a_stage() -> None:
    """Whatever the depth, the first trained stage of lp-ft moves at a quarter of the last one's rate."""
    for stages in (5, 13):
        phase = tuning(plan("lp-ft", stages=stages))
        assert phase.stage_decay ** (stages - 2) == pytest.approx(0.25, rel=1e-2)
    assert tuning(plan("full")).stage_decay == 1.0


def test_amount_sets_length_batch_norms_and_smoothing() -> None:
    few, many = tuning(plan("lp-ft", n=40, classes=2)), tuning(plan("lp-ft", n=20_000))
    assert (few.batch_size, many.batch_size) == (16, 64)
    assert few.epochs == 100
    assert many.epochs == 10
    assert (few.batch_norm, many.batch_norm) == ("frozen", "train")
    assert (few.label_smoothing, many.label_smoothing) == (0.0, 0.1)
    assert (few.augment, many.augment) == ("light", "standard")
    assert (
        tuning(plan("lp-ft", n=20_000, card=CARD.model_copy(update={"freeze_norms": True}))).batch_norm
        == "frozen"
    )


def test_batch_norms_are_what_the_recipe_asks_for() -> None:
    still = CARD.model_copy(update={"freeze_norms": True})
    for card in (CARD, still):
        assert tuning(plan("scratch", card=card)).batch_norm == "train"
        assert tuning(plan("partial", card=card)).batch_norm == "frozen"
        assert tuning(plan("partial", card=card, batch_norm="train")).batch_norm == "train"
        assert tuning(plan("lp-ft", n=20_000, card=card, batch_norm="frozen")).batch_norm == "frozen"


def test_a_factor_shortens_or_lengthens_the_default_alone() -> None:
    usual = tuning(plan("lp-ft", n=5000)).epochs
    assert tuning(plan("lp-ft", n=5000, epochs_factor=0.5)).epochs == pytest.approx(usual / 2, abs=1)
    assert tuning(plan("lp-ft", n=5000, epochs_factor=2)).epochs == pytest.approx(2 * usual, abs=1)
    assert tuning(plan("lp-ft", n=5000, epochs_factor=2, epochs=7)).epochs == 7
    least = tuning(plan("partial", n=640, epochs_factor=0.01))
    assert (least.batch_size, least.epochs) == (64, 30), "300 steps remain"


def test_plan_files_with_mistakes_name_all_of_them() -> None:
    text = plan("lp-ft").to_yaml()
    with pytest.raises(
        ConfigError, match=r'2 problems in mine\.yaml.*epochz: unknown key\. Did you mean "epochs"'
    ):
        Plan.from_yaml(text.replace("epochs:", "epochz:"), "mine.yaml")
    with pytest.raises(ConfigError, match=r"lr: must be greater than 0. Got -1"):
        Plan.from_yaml(text.replace("  lr: 0.04", "  lr: -1"))
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Plan.from_yaml("phases: [")
    with pytest.raises(ConfigError, match=r"must be a mapping with strategy and phases\. Got list"):
        Plan.from_yaml("[]")
    with pytest.raises(ConfigError, match=r"phases.0.kind: must be given"):
        Plan.from_yaml(text.replace("- kind: probe\n  name", "- name"))


def test_where_images_are_augmented_is_settled_by_the_device() -> None:
    def settled(device: str, **train: str) -> set[str]:
        recipe = Recipe.from_mapping({"train": train})
        plan = STRATEGIES.get("full")().plan(Context(recipe, (100,) * 10, CARD, 5, unmeasured, device=device))
        return {phase.augment_on for phase in plan.phases if isinstance(phase, GradientPhase)}

    assert settled("cpu") == {"loader"}
    assert settled("cuda") == settled("mps") == {"device"}
    assert settled("cuda", augment_on="loader") == {"loader"}
    assert settled("cpu", augment_on="device") == {"device"}
    assert settled("cuda", augment="none") == {"loader"}
    assert settled("cuda", augment="crop+noise") == {"device"}


@pytest.mark.parametrize("name", ["full", "lp-ft", "partial", "scratch"])
def test_operations_and_crops_reach_the_plan_and_its_file(name: str) -> None:
    made = plan(name, augment="[crop,flip,rotation]", crop="short-side")
    phase = tuning(made)
    assert (phase.augment, phase.crop) == ("crop+flip+rotation", "short-side")
    assert phase.policy == "crop+flip+rotation/short-side"
    assert Plan.from_yaml(made.to_yaml()) == made
    assert "crop+flip+rotation/short-side" in made.rows()[-1]["how"]
    assert tuning(plan(name)).policy == tuning(plan(name)).augment
