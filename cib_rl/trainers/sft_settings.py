"""The recipe of `cib-rl sft`: one or more models, each trained from nothing or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cib_rl.countdown.problems import CountdownSettings
from cib_rl.fiction.demonstrations import Habits
from cib_rl.recipe import EnvironmentSection


class ModelShape(BaseModel):
    """A new Qwen3 model; about 0.9M parameters as it stands."""

    model_config = ConfigDict(extra="forbid")
    hidden_size: int = Field(128, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    intermediate_size: int = Field(384, gt=0)
    max_positions: int = Field(512, gt=0, description="longest prompt and completion together")

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelShape:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        return self


class SFTModel(BaseModel):
    """What one model is trained on and how. The defaults are those of the shipped warm start."""

    model_config = ConfigDict(extra="forbid")
    data: str = Field(
        "countdown",
        description="countdown or fiction (endless demonstrations), a file of texts or messages, a run's folder",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="prompt, completion or messages: the column of the file that holds it"
    )
    where: dict[str, Any] = Field(
        default_factory=dict, description="column: the value it must have, e.g. correct: true, rewards.qa_em: 1"
    )
    environment: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of later training's environment that make its texts, e.g. name: search, preset, system",
    )
    countdown: CountdownSettings = CountdownSettings()
    fiction: Habits = Habits()
    model: str | None = Field(None, description="folder or hub id to go on from; none: a new model of `shape`")
    shape: ModelShape = ModelShape()
    tokenizer: str | None = Field(None, description="folder; none: the model's, or Countdown's, or a BPE of the data")
    vocab_size: int = Field(
        4096, ge=259, description="of a newly trained BPE (256 bytes and 3 special tokens at least)"
    )
    chat_template: str | None = Field(
        None,
        description="Jinja text, in the place of the tokenizer's; its <|marks|> are special tokens of a new BPE",
    )
    suffix: str = Field("", description="added after each prompt: the environment.suffix of later recipes")
    blind: bool = Field(False, description="leave the prompt out (bos in its place): trains a prior")
    max_length: int = Field(246, gt=1, description="tokens of a row, prompt and eos counted; rows are never cut")
    long_rows: Literal["leave_out", "refuse"] = Field("leave_out", description="what becomes of longer ones")
    steps: int = Field(3000, gt=0)
    batch_size: int = Field(48, gt=0, description="rows per step")
    micro_batch_tokens: int = Field(1024, gt=0, description="tokens per forward pass, padding counted")
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = Field(4e-3, gt=0, description="of AdamW; with muon, of embeddings and norms only")
    muon_learning_rate: float = Field(3e-2, gt=0, description="of the layers' matrices")
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(20, ge=0)
    decay_share: float = Field(0.6, gt=0, le=1, description="last share of the steps, in which the rate falls to 0")
    max_grad_norm: float = Field(1.0, gt=0)
    autocast_bf16: bool = Field(False, description="forward and backward in bfloat16; weights stay float32")
    save_every: int = Field(500, gt=0, description="steps between half-trained copies beside the output")
    log_every: int = Field(20, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> SFTModel:
        if self.model is None and self.max_length > self.shape.max_positions:
            raise ValueError(f"max_length {self.max_length} exceeds shape.max_positions {self.shape.max_positions}")
        self.section()
        return self

    def section(self) -> EnvironmentSection:
        """The environment whose prompts and blocks the texts are made as."""
        if self.suffix and "suffix" in self.environment:
            raise ValueError("suffix and environment.suffix are the same key: give one")
        keys = {"max_completion_length": self.max_length, "suffix": self.suffix, **self.environment}
        section = EnvironmentSection.model_validate(keys)
        if section.name not in ("single_turn", "search"):
            raise ValueError(f"environment.name {section.name!r}: texts can be made for single_turn and search")
        if section.name == "single_turn" and section.kwargs:
            raise ValueError(f"environment: unknown key {min(section.kwargs)!r} of single_turn")
        return section


class SFTSettings(BaseModel):
    """A supervised recipe: `output/<name>` becomes a model folder for each of `models`."""

    model_config = ConfigDict(extra="forbid")
    output: Path
    models: dict[str, SFTModel] = Field(min_length=1)

    @model_validator(mode="after")
    def _plain_names(self) -> SFTSettings:
        for name in self.models:
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"model name {name!r} must be a plain folder name")
        return self
