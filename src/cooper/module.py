"""Cooper: a policy and its reward model, trained in the same step (arXiv 2508.05613).

``CooperModule.training_step`` is the algorithm; everything it names is a part that can be swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

import lightning as L
import torch
from torch import Tensor

from cooper import defaults
from cooper.clock import Clock
from cooper.collectives import Parted, gathered, own_batches, own_part, ranks, summed, waited
from cooper.data.prompts import PromptBuilder
from cooper.data.stream import ProblemStream
from cooper.dynamic_sampling import Drawn, join_rollouts, refill
from cooper.early_pairs import EarlyPairs
from cooper.functional import offsets_from, segment_mean, token_positions
from cooper.metrics import (
    Metrics,
    completion_metrics,
    pair_metrics,
    reward_metrics,
    score_metrics,
    verifier_metrics,
)
from cooper.models.adapted import Adapted
from cooper.models.average import averaged
from cooper.models.policy import Policy
from cooper.models.reward_heads import Row
from cooper.models.reward_model import RewardModel
from cooper.monitoring import Alarm
from cooper.objectives import FixedLogprobs, PolicyObjective, RewardObjective
from cooper.optim import OptimizerSettings
from cooper.pairs import PairBuilder, Pairs
from cooper.reward_examples import Contrast, Heldout, RewardData, RewardExamples
from cooper.rewards import Reward, Rewards
from cooper.rng import generator
from cooper.samplers.base import OnGroup, Sampler
from cooper.samplers.guests import Guests
from cooper.samplers.probe import require_fresh
from cooper.scoring import SpreadScorer
from cooper.strategies.engine import Engine
from cooper.strategies.engines import Engines, make_engines
from cooper.types import LabelledCompletion, Problem, Rollouts, SamplingParams, Verdict
from cooper.updates import ModelUpdater, Totals, UpdateResult
from cooper.verifiers.base import Verifier
from cooper.verifiers.pending import Verification


class Stateful(Protocol):
    """Something with a state to save: plain texts, numbers and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Give the state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""


@dataclass
class StepRecord:
    """Everything one step saw and did, for the callbacks that log it."""

    step: int
    rollouts: Rollouts
    verdicts: Sequence[Verdict]
    scores: Tensor | None  # [N] probabilities
    rewards: Rewards
    advantages: Tensor  # [N]: mean over each completion's tokens
    pairs: Pairs = field(default_factory=lambda: Pairs((), {}))
    metrics: Metrics = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)  # the monitor's, for whoever comes after it


class CooperModule(L.LightningModule):
    """Holds policy and reward model, each with its own optimizer, schedule and clip.

    Args:
        policy: trained by stage 1.
        reward_model: trained by stage 2; None when the reward needs no model.
        verifier: the training verifier.
        sampling: temperature, cut-offs and length limit of the rollouts.
        reference: the frozen start of the policy; None: a copy of it, if ``kl_coef`` is above 0.
        group_size: completions a problem.
        prompts: turns problems into prompts; by default the chat template and an instruction.
        sampler: draws the rollouts; by default :class:`~cooper.samplers.NativeSampler`.
        reward: rule, model or hybrid; by default the reward model's score, or without one the rule.
        pairs: builds stage 2's pairs; by default with the policy's own wrong completions.
        objective: stage 1's loss.
        reward_objective: stage 2's loss.
        policy_optimizer: settings of the policy's optimizer.
        reward_model_optimizer: settings of the reward model's.
        max_steps: RL steps of the whole run, for schedules that end and warm-ups by share.
        max_skips: non-finite updates in a row that stop the run.
        seed: of all generators.
        stream: more problems, for an objective with dynamic sampling.
        reward_data: remembers what the reward model replays; by default from nothing.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        reward_model: RewardModel | None = None,
        verifier: Verifier,
        sampling: SamplingParams,
        reference: Policy | None = None,
        group_size: int = 16,
        prompts: PromptBuilder | None = None,
        sampler: Sampler | None = None,
        reward: Reward | None = None,
        pairs: PairBuilder | None = None,
        objective: PolicyObjective | None = None,
        reward_objective: RewardObjective | None = None,
        policy_optimizer: OptimizerSettings | None = None,
        reward_model_optimizer: OptimizerSettings | None = None,
        max_steps: int = 0,
        max_skips: int = 5,
        seed: int = 0,
        stream: ProblemStream | None = None,
        reward_data: RewardData | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        objective = defaults.objective(objective, sampling)
        self.policy, self.reward_model = policy, reward_model
        self.reference = reference or defaults.reference(policy, objective)
        self.prompts = prompts or PromptBuilder(policy.tokenizer)
        self.sampler, self.sampling = sampler or defaults.sampler(), sampling
        self.group_size, self.verifier = group_size, verifier
        self.reward = reward or defaults.reward(reward_model)
        self.pairs = pairs or defaults.pairs(verifier)
        self.objective, self.reward_objective = objective, reward_objective or RewardObjective()
        self.optimizer_settings = {
            "policy": policy_optimizer or defaults.optimizer(),
            "reward_model": reward_model_optimizer or defaults.optimizer(),
        }
        self.max_steps, self.max_skips = max_steps, max_skips
        for name, settings in self.optimizer_settings.items():
            defaults.check_steps(f"{name}_optimizer", settings, max_steps)
        defaults.check_temperature(policy, sampling)
        self.generators = {
            purpose: generator(seed, purpose)
            for purpose in ("sampling", "minibatches", "pairs", "replay")
        }
        self.stream = stream
        learns = self.reward_objective if self.trains_reward_model else RewardObjective()
        self.reward_data = reward_data or RewardData(learns)
        self.rl_step = 0  # steps done; Lightning's global_step counts both optimizers' steps
        self.clock = Clock()
        models = {"policy": policy, "reward_model": reward_model}
        # In a Trainer the strategy's own take their place.
        self.engines = Engines({name: Engine(m) for name, m in models.items() if m is not None})
        self.last: StepRecord | None = None
        self.extra_inner_steps = 0  # that the monitor asks of stage 2, beside the objective's
        self.attached: dict[str, Stateful] = {}  # what callbacks keep in checkpoints, by name
        for frozen in (self.reference, reward_model if not self.trains_reward_model else None):
            if frozen is not None:
                frozen.freeze()
        self.average = None
        if self.trains_reward_model and (decay := self.reward_objective.ema_decay):
            self.average = averaged(self._require_reward_model(), decay)

    @property
    def scoring_model(self) -> RewardModel | None:
        """What scores the rollouts: the reward model, or the moving average of its weights."""
        return self.reward_model if self.average is None else cast(RewardModel, self.average.module)

    @property
    def scorer(self) -> SpreadScorer | None:
        """The same, each process scoring a part; called by all of them at once."""
        model = self.scoring_model
        return None if model is None else SpreadScorer(model, self.whole)

    @property
    def trains_reward_model(self) -> bool:
        """Whether there is a stage 2 at all."""
        return self.reward_model is not None and self.reward.trains_model

    # ------------------------------------------------------------------ the algorithm

    def training_step(self, problems: list[Problem], batch_idx: int = 0) -> None:
        """One RL step: METHOD's two stages."""
        step, clock = self.rl_step + 1, self.clock.start(self.rl_step + 1)
        self.last = None  # whatever fails before there are rollouts must not show the last step's

        # Stage 1: the policy learns from the reward (GRPO).
        drawn = self.draw(problems)  # whose verification goes on meanwhile
        if self.objective.dynamic_sampling:
            drawn = refill(self.verified(drawn), self.objective.dynamic_sampling, self.draw_more)
        rollouts = drawn.rollouts
        with clock("score"):
            scores = self.score(rollouts)
        verdicts = self.verified(drawn).verdicts
        rewards = self.objective.shape(
            self.reward(verdicts, scores, rollouts.problem_of), rollouts, drawn.silent
        )
        with clock("policy"):
            fixed = self.fixed_logprobs(rollouts)
            advantages = self.objective.advantages(rewards, rollouts, fixed)
            self.last = StepRecord(
                step,
                rollouts,
                verdicts,
                scores,
                rewards,
                segment_mean(advantages, rollouts.offsets),
            )
            policy_metrics = self.update_policy(rollouts, fixed, advantages)

        # Stage 2: the reward model learns from verified pairs of the same rollouts.
        reward_model_metrics: Metrics = {}
        if self.trains_reward_model and self.reward_objective.due(step):
            with clock("pairs"):
                with self.whole(*self.pairs.negatives.models):
                    self.last.pairs = self.pairs.build(
                        rollouts, verdicts, scores, self.generators["pairs"], drawn.begun
                    )
                examples = self.reward_data.examples(
                    self.last.pairs, rollouts, verdicts, self.generators["replay"]
                )
            with clock("reward_model"):
                reward_model_metrics = self.update_reward_model(examples)

        self.rl_step = step
        self.last.metrics = {
            **reward_metrics(rewards, self.last.advantages, rollouts.problem_of),
            **verifier_metrics(verdicts),
            **(score_metrics(scores, verdicts) if scores is not None else {}),
            **policy_metrics,
            **reward_model_metrics,
            **pair_metrics(self.last.pairs),
            **completion_metrics(rollouts),
            **(drawn.metrics if self.objective.dynamic_sampling else {}),
            **clock.stop(),
            **({"time/wait": waited()} if ranks() > 1 else {}),
        }

    def draw(self, problems: Sequence[Problem]) -> Drawn:
        """Draw completions of the problems, each process those of its part of them.

        Each group is verified from when it is there; pairs may begin meanwhile.
        """
        mine = own_part(len(problems))
        own = problems[mine.start : mine.stop]
        verification = Verification(self.verifier, own)
        early = self.early_pairs(verification)
        with self.clock("sample"):
            try:
                rollouts = self.sample(own, verification.on_group, mine.start, len(problems), early)
            except BaseException:
                verification.cancel()
                raise
            verdicts = verification.verdicts(rollouts)
            drawn = Drawn(join_rollouts(gathered(rollouts)), Parted(verdicts))
            return drawn if early is None else replace(drawn, begun=early.begun)

    def early_pairs(self, verification: Verification) -> EarlyPairs | None:
        """Whoever begins this step's pairs while it draws; None: they begin when all is there."""
        due = self.trains_reward_model and self.reward_objective.due(self.rl_step + 1)
        if not due or ranks() > 1 or self.objective.dynamic_sampling:
            return None
        return self.pairs.early(
            self.policy, verification, self.group_size, self.generators["pairs"]
        )

    def draw_more(self) -> Drawn:
        """Draw completions of as many problems again, the next ones of the run's stream."""
        if self.stream is None:
            raise RuntimeError("dynamic sampling needs the module's `stream` of problems")
        return self.verified(self.draw(self.stream.take()))

    def sample(
        self,
        problems: Sequence[Problem],
        on_group: OnGroup | None = None,
        before: int = 0,
        of: int | None = None,
        guests: Guests | None = None,
    ) -> Rollouts:
        """Draw `group_size` completions for each problem from the policy as it is now.

        Args:
            problems: of this process.
            on_group: told each group as it ends.
            before: problems of the step that are other processes', in front of these.
            of: problems of the step; None: these are all.
            guests: who may join the sampler's batch.
        """
        prompts = [self.prompts(problem) for problem in problems]
        every = len(prompts) if of is None else of
        rng = self.generators["sampling"]
        if ranks() > 1:
            rng = self.sampler.part(rng, before * self.group_size, every * self.group_size)
        with self.whole(self.policy):
            self.sampler.sync(self.policy, self.updaters["policy"].steps)
            sample = self.sampler.sample
            if guests is not None:
                sample = partial(self.sampler.sample_with, guests)
            rollouts = sample(prompts, self.group_size, self.sampling, rng, on_group)
            require_fresh(self.policy, rollouts, self.sampling)
        return rollouts

    def verified(self, drawn: Drawn) -> Drawn:
        """Wait for the training verifier's verdicts."""
        with self.clock("verify"):
            return replace(drawn, verdicts=list(drawn.verdicts))

    def score(self, rollouts: Rollouts) -> Tensor | None:
        """R = sigmoid(M(q, r, o)) for every rollout: [N], or None without a reward model."""
        if self.scorer is None:
            return None
        return self.scorer.probabilities(
            rollouts.questions, rollouts.references, rollouts.completions
        )

    def fixed_logprobs(self, rollouts: Rollouts) -> FixedLogprobs:
        """Log-probabilities of the policy before its updates, and of the reference."""
        drawn = rollouts.logprobs.to(self.device)
        old = drawn if self.drawn_from_policy(rollouts) else self.logprobs(self.policy, rollouts)
        ref = None if self.reference is None else self.logprobs(self.reference, rollouts)
        return FixedLogprobs(old, drawn, ref)

    def update_policy(
        self, rollouts: Rollouts, fixed: FixedLogprobs, advantages: Tensor
    ) -> Metrics:
        """Take the objective's epochs and mini-batches over the rollouts."""
        everything = torch.arange(len(rollouts))
        self.policy.train()
        totals = Totals()
        for _ in range(self.objective.epochs):
            order = everything
            if self.objective.minibatches > 1:
                order = torch.randperm(len(rollouts), generator=self.generators["minibatches"])
            # After a refill that fell short there may be fewer rollouts than mini-batches.
            for rows in order.tensor_split(min(self.objective.minibatches, len(rollouts))):
                losses = self.policy_losses(rollouts, rows, fixed, advantages, totals)
                totals.add_update(self.step_model("policy", losses))
        self.policy.eval()
        totals.share_out()
        return totals.metrics("policy", self.updaters["policy"].skipped)

    def policy_losses(
        self,
        rollouts: Rollouts,
        rows: Tensor,
        fixed: FixedLogprobs,
        advantages: Tensor,
        totals: Totals,
    ) -> Iterator[Tensor]:
        """Yield each micro-batch's share in the loss of the mini-batch `rows`."""
        weights = torch.zeros(len(rollouts.ids))
        weights[token_positions(rollouts.offsets, rows)] = self.objective.token_weights(
            rollouts, rows
        )
        for micro, counts in self.micro_batches(rollouts, rows):
            where = token_positions(rollouts.offsets, micro)
            scores = self.engines["policy"](
                rollouts,
                micro.tolist(),
                entropy=self.objective.needs_entropy,
                entropy_gradient=self.objective.entropy_coef > 0,
            )
            loss, shares = self.objective.loss(
                scores,
                fixed.at(where.to(self.device)),
                advantages[where].to(self.device),
                weights[where].to(self.device),
                offsets_from(rollouts.lengths[micro]),
            )
            if counts:
                totals.add_shares(shares)
            yield loss if counts else 0 * loss

    def update_reward_model(self, examples: RewardExamples) -> Metrics:
        """Take the objective's inner steps on the examples; without any, none."""
        if not len(examples):
            return {}
        model, objective = self._require_reward_model(), self.reward_objective
        totals, heldout = (
            Totals(),
            Heldout(SpreadScorer(model, self.whole), self.reward_data.heldout),
        )
        fewest = objective.inner_steps + self.extra_inner_steps
        model.train()
        for taken in range(1, max(fewest, objective.most_steps) + 1):
            losses = self.reward_model_losses(examples, totals)
            totals.add_update(self.step_model("reward_model", losses))
            if taken >= fewest and objective.satisfied(heldout.accuracy):
                break
        model.eval()
        if self.average is not None:
            self.average.update_parameters(model)
        totals.share_out()
        skipped = self.updaters["reward_model"].skipped
        return {**totals.metrics("reward_model", skipped), **heldout.metrics}

    def reward_model_losses(self, examples: RewardExamples, totals: Totals) -> Iterator[Tensor]:
        """Yield each micro-batch's share in the losses: mean over pairs, mean over labels."""
        model, objective = self._require_reward_model(), self.reward_objective
        engine, tokens = self.engines["reward_model"], objective.micro_batch_tokens
        chosen, rejected = tokenise_pairs(model, examples.pairs)
        pairs = list(zip(chosen, rejected, strict=True))
        for micro, counts in own_batches(
            [sum(map(len, pair)) for pair in pairs],
            lambda part: parts_of(part, model.pair_batches([pairs[k] for k in part], tokens)),
        ):
            logits = engine([chosen[k] for k in micro] + [rejected[k] for k in micro])
            right, wrong = logits.chunk(2)
            if counts:
                totals.add_shares(
                    {
                        "margin": float((right - wrong).detach().sum()) / len(chosen),
                        "offset": float((right + wrong).detach().sum()) / (2 * len(chosen)),
                    }
                )
            loss = objective.pair_losses(right, wrong).sum() / len(chosen)
            yield loss if counts else 0 * loss
        rows = tokenise_labelled(model, examples.labelled)
        for micro, counts in own_batches(
            [len(row) for row in rows],
            lambda part: parts_of(part, model.batches([rows[k] for k in part], tokens)),
        ):
            labels = torch.tensor([float(examples.labelled[k].label) for k in micro])
            losses = objective.label_losses(
                engine([rows[k] for k in micro]), labels.to(self.device)
            )
            yield losses.sum() / len(rows) if counts else 0 * losses.sum()

    # ------------------------------------------------------------------ its mechanics

    def step_model(self, name: str, losses: Iterator[Tensor]) -> UpdateResult:
        """Take one optimizer step of one model."""
        schedulers: Any = self.lr_schedulers()
        if len(self.updaters) == 1:
            schedulers = [schedulers]
        index = list(self.updaters).index(name)
        return self.updaters[name].step(losses, self.engines[name], schedulers[index])

    @torch.no_grad()
    def logprobs(self, model: Policy, rollouts: Rollouts) -> Tensor:
        """Log-probabilities of all tokens without gradient: [S]. Each process computes a part."""
        logprobs = torch.zeros(len(rollouts.ids), device=self.device)
        with self.whole(model):
            for micro, counts in self.micro_batches(rollouts, torch.arange(len(rollouts)), model):
                if counts:
                    where = token_positions(rollouts.offsets, micro).to(self.device)
                    logprobs[where] = model(rollouts, micro.tolist()).logprobs
        return summed(logprobs)

    def micro_batches(
        self, rollouts: Rollouts, rows: Tensor, model: Policy | None = None
    ) -> Iterator[tuple[Tensor, bool]]:
        """Rows of each of this process's forwards, and whether they count.

        Args:
            rollouts: of the step.
            rows: wanted, of all processes.
            model: that computes; None: the policy.
        """
        model, tokens = model or self.policy, self.objective.micro_batch_tokens
        # Groups side by side, so that few are cut and share their prompt.
        order = sorted(rows.tolist(), key=lambda row: (rollouts.owners[row], row))
        lengths = rollouts.lengths.tolist()
        for micro, counts in own_batches(
            [lengths[row] for row in order],
            lambda part: parts_of(
                {row: at for at, row in enumerate(order)},
                model.micro_batches(rollouts, [order[at] for at in part], tokens),
            ),
        ):
            yield torch.tensor([order[at] for at in micro]), counts

    def drawn_from_policy(self, rollouts: Rollouts) -> bool:
        """Whether the sampler's log-probabilities are those of the policy as it is now.

        They are when no update lies between, and nothing was cut from the distribution.
        """
        cut = self.sampling
        whole = cut.top_p == 1 and cut.top_k == 0 and cut.min_p == 0
        return whole and rollouts.policy_version == self.updaters["policy"].steps

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        """One optimizer and one schedule per trained model; the policy's come first."""
        per_step = {
            "policy": self.objective.epochs * self.objective.minibatches * self.max_steps,
            "reward_model": self.reward_objective.inner_steps
            * self.reward_objective.updates(self.max_steps),
        }
        models: dict[str, Adapted] = {"policy": self.policy}
        if self.trains_reward_model:
            models["reward_model"] = self._require_reward_model()
        self.updaters: dict[str, ModelUpdater] = {}
        optimizers, schedulers = [], []
        for name, model in models.items():
            settings = self.optimizer_settings[name]
            optimizer, scheduler = settings.build(model.weights.trained, per_step[name])
            optimizers.append(optimizer)
            schedulers.append({"scheduler": scheduler, "interval": "step"})
            self.updaters[name] = ModelUpdater(name, settings.clip_norm, self.max_skips)
        return optimizers, schedulers

    def on_fit_start(self) -> None:
        """Make the models' engines, as the strategy has them."""
        frozen = [self.reference, None if self.trains_reward_model else self.reward_model]
        self.engines = make_engines(
            self,
            {name: getattr(self, name) for name in self.updaters},
            [model for model in frozen if model is not None],
        )

    def on_fit_end(self) -> None:
        """Leave ordinary models behind."""
        for engine in (*self.engines.values(), *self.engines.frozen):
            engine.release()

    def whole(self, *models: Adapted) -> AbstractContextManager[None]:
        """All weights of some models on every process, to compute without gradient."""
        return self.engines.whole(*models)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave the problems alone: they are text."""
        return batch

    def _require_reward_model(self) -> RewardModel:
        if self.reward_model is None:
            raise RuntimeError("there is no reward model in this run")
        return self.reward_model


def parts_of(places: Any, batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Batches by the places that their members stand at."""
    return [[places[k] for k in batch] for batch in batches]


def tokenise_pairs(model: RewardModel, pairs: Sequence[Contrast]) -> tuple[list[Row], list[Row]]:
    """Render and tokenise both sides of K pairs."""
    questions = [pair.question for pair in pairs]
    references = [pair.reference for pair in pairs]
    return (
        model.tokenise(questions, references, [pair.chosen for pair in pairs]),
        model.tokenise(questions, references, [pair.rejected for pair in pairs]),
    )


def tokenise_labelled(model: RewardModel, items: Sequence[LabelledCompletion]) -> list[Row]:
    """Render and tokenise labelled completions."""
    return model.tokenise(
        [item.question for item in items],
        [item.reference for item in items],
        [item.completion for item in items],
    )
