"""The recipe: everything that decides what is trained or measured. Loading and errors live in `recipe_io.py`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

Schedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
]


class Section(BaseModel):
    """A part of the recipe. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class PluginSection(BaseModel):
    """A part whose remaining keys are keyword arguments of the plugin named by `name`."""

    model_config = ConfigDict(extra="allow", validate_default=True)
    name: str

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keys that are not fields of the schema: keyword arguments for the plugin."""
        return dict(self.__pydantic_extra__ or {})


class TaskSection(PluginSection):
    """Where task rows come from: the generators countdown and fiction, jsonl (`path`), hub (`path`, `config`, `split`),
    or a mix of several (`sources`, each of them a task section)."""

    name: str = Field(description="countdown, fiction, jsonl, hub or mix")
    path: str | None = Field(None, description="file (jsonl, may be .gz) or hub data set id")
    split: str = Field("train", description="split of a hub data set, or train/heldout of a generator")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="task column -> source column, e.g. prompt: problem, or a key in one, e.g. type: metadata.type",
    )
    constants: dict[str, Any] = Field(default_factory=dict, description="columns that are the same in every row")
    limit: int | None = Field(None, ge=1, description="use the first N rows")
    max_ungradable: float = Field(
        0.0, ge=0, le=1, description="share of rows allowed whose gold does not grade as right"
    )


class EnvironmentSection(PluginSection):
    """How an episode runs. Length limits have no default."""

    name: str = Field("single_turn", description="single_turn, search, package.module:Class or path/file.py:Class")
    max_completion_length: int = Field(ge=1, description="policy tokens per episode")
    max_turn_length: int | None = Field(None, ge=1, description="policy tokens per turn; default: the episode's limit")
    system: str | None = Field(None, description="system message (only with a chat template)")
    suffix: str = Field("", description="text added after each prompt, e.g. an instruction to box the answer")
    chat_template: Literal["auto", "always", "never"] = Field("auto", description="auto: when the tokenizer has one")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="passed to the chat template, e.g. enable_thinking: false"
    )
    answer: str = Field("tag", description="where the answer is: tag, boxed, hash, last_line, or regex:<pattern>")
    stop: list[str] = Field(default_factory=list, description="stop strings")
    timeout: float | None = Field(None, gt=0, description="seconds per generation")


class EngineSection(Section):
    """The engine that samples completions."""

    name: Literal["transformers", "vllm"] = Field("transformers", description="transformers runs anywhere")
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1, description="vllm on GPU: its share of the device's memory")
    max_model_len: int | None = Field(None, description="prompt and completion together; default: what the model holds")
    max_num_seqs: int = Field(256, ge=1, description="requests in the running batch")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="vllm: default the policy's")
    tensor_parallel_size: int = Field(1, ge=1, description="vllm: GPUs per engine")
    threads: int | None = Field(
        None, ge=1, description="transformers on CPUs: threads of a decode step; default: as many as the update has"
    )
    sleep: bool = Field(False, description="vllm on GPU: free weights and cache between rollout and update")
    check_every: int = Field(50, ge=0, description="steps between log-probability checks; 0: at the first sync only")
    max_logprob_gap: float | None = Field(
        None, gt=0, description="nats; default 1e-3 for fp32, else 0.5 (99% quantile)"
    )


class SamplingSection(Section):
    """How completions are sampled in training."""

    temperature: float = Field(1.0, gt=0, description="also that of the log-probabilities trained on")
    top_p: float = Field(1.0, gt=0, le=1, description="1: off")
    top_k: int = Field(0, ge=0, description="0: off")
    min_p: float = Field(0.0, ge=0, lt=1, description="0: off")
    repetition_penalty: float = Field(1.0, gt=0, description="1: off")
    min_tokens: int = Field(0, ge=0, description="no end of sequence before so many tokens")
    group_size: int = Field(8, ge=1, description="completions per prompt")


class RewardSection(PluginSection):
    """One reward. Its other keys are the reward's own keywords."""

    name: str = Field(description="built-in name, entry point, package.module:name or path/file.py:name")
    kind: Literal["outcome", "shaping"] | None = Field(None, description="default: what the plugin declares")
    weight: float = Field(1.0, allow_inf_nan=False, description="factor in the sum of rewards")
    label: str | None = Field(None, description="name in logs; default: the reward's name")
    only_when_correct: bool = Field(False, description="shaping: count only for successful completions")
    weight_schedule: dict[NonNegativeInt, FiniteFloat] | None = Field(
        None, min_length=1, description="step: factor of the weight; straight lines between, constant outside"
    )
    call_timeout: float | None = Field(None, gt=0, description="async rewards: seconds for one call")
    call_concurrency: int | None = Field(
        None, ge=1, description="async rewards: one call per group, so many at once; default: one call for all groups"
    )
    max_error_share: float = Field(
        0.5, ge=0, le=1, description="share of a window's completions it may fail on; above it the run stops"
    )


class SuccessSection(Section):
    """Which completions are successes: they are the accuracy in logs, and open the gate of `only_when_correct`."""

    outcome: str | None = Field(None, description="label of one outcome reward; default: the weighted sum of all")
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="least value of a success; default: 0.5, or half of the most the weighted sum could be",
    )


class CreditSection(PluginSection):
    """A stage of credit assignment. Its other keys are the stage's own keywords.

    First a baseline: `group` (keys scale, floor, epsilon, leave_one_out, token_rewards), `gdpo` (epsilon) or, with
    trainer ppo, `gae` (gamma, lam, whiten, bootstrap_truncated); then those that reshape what it gave, such as
    `difficulty` or `hicra`.
    """

    name: str = Field(description="group, gdpo, gae, difficulty, hicra, package.module:name or path/file.py:name")


class FilterSection(Section):
    """Replacement of groups that carry no signal (training only)."""

    zero_variance: Literal["off", "outcome", "total"] = Field(
        "off", description="replace groups in which all completions have the same outcome, or the same total reward"
    )
    tolerance: float = Field(1e-6, ge=0, description="values that differ by no more are the same")
    max_extra_groups: float = Field(1.0, ge=0, description="cap on replacement groups, in multiples of the batch")


class ImportanceSection(Section):
    """Correction for the gap between engine and trainer: w = min(exp(trainer - engine), clip_max), per token."""

    enabled: Literal["auto"] | bool = Field(
        "auto", description="auto: on for every engine but the one that samples from the trainer's own weights"
    )
    clip_max: float = Field(2.0, gt=0, description="largest weight")
    clip_min: float = Field(0.0, ge=0, description="smallest weight")
    allow_truncated_sampling: bool = Field(False, description="insist, although top_p, top_k, … bias the ratio")

    def applies_to(self, engine: str) -> bool:
        """Whether the correction is on with this engine."""
        return engine != "transformers" if self.enabled == "auto" else self.enabled


class TrainerSection(Section):
    """The optimisation. Batch sizes count over all processes."""

    name: Literal["grpo", "ppo"] = Field("grpo", description="ppo: with a critic (section `critic`), and GAE")
    steps: int = Field(ge=1, description="optimizer steps")
    prompts_per_step: int = Field(ge=1, description="groups per optimizer step")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="completions per forward-backward and process: bounds the memory; default: all of a step",
    )
    token_budget: int | None = Field(None, ge=1, description="tokens per forward pass: like lengths go together")
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"] = Field(
        "dapo", description="TRL's loss_type"
    )
    importance_level: Literal["token", "sequence"] = Field("token", description="TRL's importance_sampling_level")
    learning_rate: float = Field(gt=0, description="of AdamW")
    schedule: Schedule = Field(
        "constant_with_warmup", description="of the learning rate; `constant` alone ignores warmup_ratio"
    )
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    epsilon: float = Field(0.2, gt=0, description="the ratio is clipped to 1 - epsilon")
    epsilon_high: float | None = Field(None, gt=0, description="and to 1 + epsilon_high; default: epsilon")
    kl: float = Field(0.0, ge=0, description="coefficient of the KL term against the reference (the start)")
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="reward: taken from the reward of each token before the baseline"
    )
    kl_estimator: Literal["k1", "k3"] = Field("k1", description="of the KL in the reward; the loss has TRL's, k3")
    entropy: float = Field(
        0.0, ge=0, description="coefficient of an entropy bonus: TRL's entropy_coef, per mean token of a micro-batch"
    )
    max_kl: float | None = Field(
        None, gt=0, description="rest of a window's policy updates left out once KL(old | new) per token is above it"
    )
    num_iterations: int = Field(
        1, ge=1, description="passes over each window of completions, each in an order of its own"
    )
    steps_per_window: int = Field(1, ge=1, description="optimizer steps per window of completions")
    mask_truncated: bool = Field(False, description="leave completions that a limit cut off out of the loss")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the policy's weights")
    autocast_bf16: bool = Field(False, description="forward and backward in bfloat16, weights in dtype")
    filter: FilterSection = Field(default_factory=FilterSection, description="groups without a signal")
    importance: ImportanceSection = Field(default_factory=ImportanceSection, description="engine against trainer")
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep_checkpoints: int | None = Field(None, ge=1, description="the newest so many; default: all")
    deepspeed: str | None = Field(None, description="path of a DeepSpeed configuration")


class LoraSection(Section):
    """Low-rank adapters instead of full fine-tuning."""

    r: int = Field(16, ge=1, description="rank")
    alpha: int = Field(32, ge=1, description="the adapter counts alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input")
    target_modules: str | list[str] = Field("all-linear", description="PEFT's: a pattern, or a list of name endings")


class CriticSection(Section):
    """The critic of trainer ppo: a learner of its own beside the policy."""

    model: str | None = Field(
        None, description="its start: hub id, folder, run, checkpoint or shipped:NAME; default: the policy's model"
    )
    backbone: Literal["own", "policy"] = Field(
        "own", description="policy: no model, only a value head on the policy's last hidden states"
    )
    detach: bool = Field(True, description="backbone policy: the value loss trains the head alone")
    coefficient: float = Field(0.5, gt=0, description="backbone policy, not detached: factor of the value loss")
    learning_rate: float = Field(1.0e-5, gt=0, description="of its AdamW")
    schedule: Schedule = Field("constant_with_warmup", description="of the learning rate")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0, description="of its AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="its gradients are clipped to this norm")
    value_clip: float | None = Field(
        0.5, gt=0, description="values move at most so far from the old ones in the loss; null: no clip"
    )
    warmup_steps: int = Field(0, ge=0, description="steps at the start in which the critic alone learns")
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="of its weights; default: the policy's")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    lora: LoraSection | None = Field(None, description="adapters instead of the whole critic")


class BudgetSection(Section):
    """A token budget: the weight of one shaping reward is moved until it is met (see `trainers.budget`)."""

    tokens: float | str = Field(description="-40% of the tokens at the start, or a number of tokens per completion")
    reward: str | None = Field(None, description="label of the shaping reward; default: the only one")
    count: Literal["all", "right"] = Field("all", description="whose tokens: of all completions, or of right ones")
    rate: float = Field(0.1, ge=0, description="integral gain, in reward per window and unit of relative error")
    gain: float = Field(10.0, ge=0, description="proportional gain, in reward per unit of relative error")
    smoothing: float = Field(0.5, ge=0, lt=1, description="share of the past in the mean of tokens")
    min_price: float = Field(0.0, le=0, description="reward that a completion like those of the start costs, at least")
    max_price: float = Field(2.0, gt=0, description="and at most")

    @field_validator("tokens")
    @classmethod
    def _a_share_or_a_number(cls, tokens: float | str) -> float | str:
        if isinstance(tokens, str):
            if not re.fullmatch(r"-\d+(\.\d+)?%", tokens) or not 0 < float(tokens[1:-1]) < 100:
                raise ValueError(f"write a cut such as -40% or a number of tokens, not {tokens!r}")
        elif not tokens >= 1:
            raise ValueError(f"a budget must be at least one token, got {tokens}")
        return tokens


class EvaluationSection(Section):
    """Held-out evaluation before, during and after training, on the same environment, engine and grading."""

    task: TaskSection | None = Field(None, description="the held-out rows; must be given")
    problems: int = Field(500, ge=1, description="the first so many rows")
    samples: int = Field(1, ge=1, description="answers per problem")
    by: str | None = Field(None, description="column of the rows: their kinds of question are also reported apart")
    temperature: float = Field(1.0, ge=0, description="0: the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="1: off")
    every: int = Field(0, ge=0, description="steps between evaluations; 0: only before and after")
    before: bool = Field(True, description="evaluate before training")
    after: bool = Field(True, description="evaluate after training")
    seed: int = Field(1234, description="of the samples")


class LoggingSection(Section):
    """Where metrics go beside RUN/metrics.jsonl."""

    tensorboard: bool = Field(True, description="RUN/tensorboard")
    trackio: bool = Field(False, description="needs the package trackio")
    wandb: bool = Field(False, description="needs the package wandb")
    every: int = Field(1, ge=1, description="steps between lines of metrics")
    trajectories: bool = Field(True, description="save every trajectory as parquet")


def defaults_of_trainer(data: dict[str, Any]) -> dict[str, Any]:
    """Of a recipe's data: what stands for the sections that it leaves out. GRPO to PPO is one key."""
    trainer = data.get("trainer")
    if isinstance(trainer, dict) and trainer.get("name") == "ppo":
        return {"critic": {}, "credit": [{"name": "gae"}]}
    return {}


class Recipe(Section):
    """A whole training run."""

    model: str = Field(description="hub id, folder, run or checkpoint; shipped:NAME for weights in the package")
    tokenizer: str | None = Field(None, description="default: the model's")
    seed: int = Field(0, description="of prompts, samples and the optimisation")
    deterministic: bool = Field(False, description="fixed batches and order: runs repeat to the last digit")
    output: str = Field("runs", description="folder in which the run folder is made")
    run_name: str | None = Field(None, description="default: recipe name and time")
    task: TaskSection
    environment: EnvironmentSection
    engine: EngineSection = Field(default_factory=EngineSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    rewards: list[RewardSection] = Field(min_length=1)
    success: SuccessSection = Field(default_factory=SuccessSection)
    trainer: TrainerSection
    critic: CriticSection | None = Field(None, description="trainer ppo has one")
    credit: list[CreditSection] = Field(
        default_factory=lambda: [CreditSection(name="group")], min_length=1, description="with trainer ppo: gae"
    )
    budget: BudgetSection | None = None
    lora: LoraSection | None = None
    evaluation: EvaluationSection | None = None
    logging: LoggingSection = Field(default_factory=LoggingSection)
    _source_name: str = PrivateAttr("recipe")

    @property
    def source_name(self) -> str:
        """The name of the file this recipe was read from, without suffix; no part of the recipe itself."""
        return self._source_name

    @source_name.setter
    def source_name(self, name: str) -> None:
        self._source_name = name

    def __eq__(self, other: object) -> bool:
        # Where a recipe was read from makes no difference to what it says.
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        return defaults_of_trainer(data) | data if isinstance(data, dict) else data

    @field_validator("rewards")
    @classmethod
    def _labels_are_unique(cls, rewards: list[RewardSection]) -> list[RewardSection]:
        labels = [r.label or r.name for r in rewards]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two rewards are labelled {label!r}: give one of them another `label`")
        return rewards

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        # Rules between sections that need no file, model or data; what needs them is checked by the dry run.
        importance = self.trainer.importance
        truncating = [
            k
            for k, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0), ("min_tokens", 0))
            if getattr(self.sampling, k) != off
        ]
        correcting = importance.applies_to(self.engine.name)
        if correcting and truncating and not importance.allow_truncated_sampling:
            raise ValueError(
                f"sampling.{truncating[0]} draws from a truncated or altered distribution, which biases the importance "
                "ratio; remove it, or set trainer.importance.enabled: false, or insist with "
                "trainer.importance.allow_truncated_sampling: true"
            )
        if correcting and self.trainer.loss == "vespo":
            raise ValueError(
                "trainer.importance cannot be folded into the advantages of loss vespo; use another loss "
                "or set trainer.importance.enabled: false"
            )
        self._check_trainer()
        if self.sampling.group_size == 1 and self.credit[0].name in ("group", "gdpo"):
            raise ValueError(
                f"sampling.group_size: 1 leaves the baseline {self.credit[0].name!r} no other completion to compare "
                "with, so that nothing would be learned; give it at least 2"
            )
        return self

    def _check_trainer(self) -> None:
        trainer, baseline = self.trainer, self.credit[0].name
        if trainer.name != "ppo":
            if self.critic is not None:
                raise ValueError(
                    "critic: trainer grpo has none; set trainer.name: ppo, or remove the section (critic: null)"
                )
            if baseline == "gae":
                raise ValueError(
                    "credit[0].name: gae needs a critic's values: set trainer.name: ppo, or credit: [{name: group}]"
                )
        elif self.critic is None:
            raise ValueError("critic: trainer ppo has one; remove the line, or give the section")
        elif baseline in ("group", "gdpo"):
            raise ValueError(
                f"credit[0].name: {baseline} does not look at the critic that trainer ppo trains: set it to gae, or "
                "leave `credit` out"
            )
        if self.critic is not None:
            self._check_critic(self.critic)
        if trainer.kl_in == "reward" and not trainer.kl:
            raise ValueError("trainer.kl_in: reward, but trainer.kl, its coefficient, is 0")
        if trainer.max_kl is not None and trainer.num_iterations * trainer.steps_per_window == 1:
            raise ValueError(
                "trainer.max_kl: a window that is used for one update has no KL to stop at: set trainer.num_iterations "
                "or trainer.steps_per_window above 1, or remove it"
            )

    def _check_critic(self, critic: CriticSection) -> None:
        of_own = {"model", "dtype", "gradient_checkpointing", "lora"}
        of_head = {"detach", "coefficient"}
        unused = sorted(of_own if critic.backbone == "policy" else of_head)
        idle = [name for name in unused if getattr(critic, name) != CriticSection.model_fields[name].default]
        if idle:
            raise ValueError(f"critic.{idle[0]} means nothing with critic.backbone: {critic.backbone}; remove it")
        if critic.warmup_steps >= self.trainer.steps:
            raise ValueError("critic.warmup_steps: the policy would never learn; trainer.steps counts these steps, too")
        if self.sampling.group_size == 1 and self.trainer.filter.zero_variance != "off":
            raise ValueError(
                "trainer.filter.zero_variance: with sampling.group_size 1 every group is the same throughout, and all "
                "would be thrown away; set it to off"
            )
