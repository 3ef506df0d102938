"""The default engine: our own decode loop with a key-value cache on any transformers causal language model.

In training the model *is* the policy: nothing is copied, and a sync only counts the version. Requests join and leave
the running batch at every step; each row has its own length in the cache, so nothing is padded but the prefill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from cib_rl.engines.decode_attention import use_decode_attention
from cib_rl.engines.kv_cache import RowCache
from cib_rl.engines.pump import Finished, PumpedEngine, Request
from cib_rl.engines.sampling import BatchSampler, RowSampling, uniforms
from cib_rl.engines.stops import StopWatch
from cib_rl.engines.support import check_decoding, check_supported, context_length, end_of_sequence_ids
from cib_rl.engines.threads import limit_own_threads
from cib_rl.engines.weights import check_names, collect, policy_names, unwrap
from cib_rl.errors import UserError
from cib_rl.packing import pack_by_tokens
from cib_rl.trajectory import StopReason

_PREFILL_TOKENS = 8192  # padded prompt tokens per forward pass


@dataclass(eq=False)
class _Row:
    """A running request and what its next token needs."""

    request: Request
    sampling: RowSampling
    uniforms: Iterator[float]
    length: int  # tokens in the cache
    last: int  # the newest token, not yet in the cache
    watch: StopWatch | None


class TransformersEngine(PumpedEngine):
    """Samples with a transformers model, in this process.

    Args:
        model: the model to sample from (wrapped or not, LoRA too; shared with the trainer, never copied), or a folder
            or hub id, which is loaded and then changed by `sync_weights` only.
        tokenizer: decodes tokens for stop strings.
        max_num_seqs: rows that run at once.
        max_model_len: prompt and completion tokens; default: what the model's configuration allows.
        deterministic: see `PumpedEngine`.
        eos_ids: end-of-sequence ids; default: all of the generation configuration's and the tokenizer's.
        autocast: run the model under autocast in this type, as a trainer with mixed precision does.
        threads: on a CPU, threads of a decode step; a small model's operators are too short for several.

    Raises UserError for models that cannot be decoded this way (sliding windows, recurrent layers, ALiBi, parameters
    sharded by ZeRO-3 or FSDP); the last check is numerical: a short decode must equal a plain forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_num_seqs: int = 256,
        max_model_len: int | None = None,
        deterministic: bool = False,
        eos_ids: Sequence[int] | None = None,
        autocast: torch.dtype | None = None,
        threads: int | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.shares_policy = not isinstance(model, str | Path)
        self.model: Any = _load(model, dtype, device) if isinstance(model, str | Path) else unwrap(model)
        self.tokenizer = tokenizer
        inner = self.model
        config = inner.config.get_text_config()
        self._config = inner.config
        self._autocast = autocast
        self._threads = threads
        length = context_length(getattr(config, "max_position_embeddings", None), max_model_len)
        check_supported(inner, config, length)
        super().__init__(
            max_num_seqs=max_num_seqs,
            max_model_len=length,
            vocab_size=config.vocab_size,
            deterministic=deterministic,
        )
        generation_config = getattr(inner, "generation_config", None) or GenerationConfig.from_model_config(config)
        self.eos_ids = frozenset(
            end_of_sequence_ids(generation_config, tokenizer, config.vocab_size) if eos_ids is None else eos_ids
        )
        self._rows: list[_Row] = []
        self._sampler: BatchSampler | None = None  # None: the rows have changed
        self._names_checked = False
        self._modes: list[tuple[torch.nn.Module, bool]] = []
        self._layers = config.num_hidden_layers
        self._place()
        self._grouped_attention = check_decoding(self)

    # ------------------------------------------------------------ weights

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """See `Engine`. With a shared model only the names are compared, at the first sync; later ones are free."""
        with self._exclusive("sync weights"):
            if self.shares_policy:
                if not self._names_checked:
                    check_names(policy_names(self.model), [name for name, _ in named_tensors])
                    self._names_checked = True
            else:
                self._copy_weights(named_tensors)
            self.weights_version = version

    @torch.no_grad()
    def _copy_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self.model.state_dict()
        new = collect(named_tensors, {name: tuple(tensor.shape) for name, tensor in own.items()})
        for name, tensor in own.items():
            tensor.copy_(new[name])

    def close(self) -> None:
        super().close()
        self._cache.release()

    # ------------------------------------------------------------ the pump's side

    def _place(self) -> None:
        """Note where and in which type the model is now: a trainer may move it after the engine was made."""
        parameter = next(self.model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._cache = RowCache(self._layers, self._device)

    def _enter_thread(self) -> None:
        if self._threads is not None and self._device.type == "cpu":
            limit_own_threads(self._threads)

    def _begin(self) -> None:
        self._place()
        # Dropout off, and gradient checkpointing (which drops the cache in train mode) out of the way.
        self._modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()

    def _end(self) -> None:
        self._rows, self._sampler = [], None
        self._cache.release()
        for module, training in self._modes:
            module.training = training
        self._modes = []

    def _admit(self, requests: Sequence[Request]) -> list[Finished]:
        first = len(self._rows)
        for request in requests:
            sampling = request.sampling
            seen = set(request.prompt_ids) if sampling.repetition_penalty != 1 else set()
            self._rows.append(
                _Row(
                    request=request,
                    sampling=RowSampling(sampling, seen),
                    uniforms=uniforms(sampling.seed),
                    length=len(request.prompt_ids) - 1,
                    last=request.prompt_ids[-1],
                    watch=StopWatch(self.tokenizer, sampling.stop) if sampling.stop else None,
                )
            )
        self._sampler = None
        self._prefill(first)
        return []

    def _prefill(self, first: int) -> None:
        """Fill the cache of the rows from `first` on with all of their prompts but the last token.

        The last one goes through the next decode step like any other token. A prompt that several rows share is
        computed once; prompts of like length share a forward pass, padded on the right, where causal attention never
        looks.
        """
        members: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(self._rows[first:], start=first):
            if row.length:
                members.setdefault(tuple(row.request.prompt_ids[:-1]), []).append(i)
        longest = max(row.length for row in self._rows) + 1
        self._cache.reserve(len(self._rows), longest, self.max_num_seqs)
        prompts = sorted(members, key=lambda p: (len(p), p))
        for batch in pack_by_tokens([len(p) for p in prompts], _PREFILL_TOKENS) if prompts else []:
            chosen = [prompts[k] for k in batch]
            width = max(map(len, chosen))
            ids_BT = torch.tensor([list(p) + [0] * (width - len(p)) for p in chosen], device=self._device)
            rows = [i for p in chosen for i in members[p]]
            source = [k for k, p in enumerate(chosen) for _ in members[p]]
            self._cache.begin_prefill(rows, source)
            positions_BT = torch.arange(width, device=self._device).expand(len(chosen), -1)
            self._forward(ids_BT, positions_BT, None)

    def _step(self) -> list[Finished]:
        rows = self._rows
        lengths = [row.length for row in rows]
        self._cache.reserve(len(rows), max(lengths) + 1, self.max_num_seqs)
        lengths_B = torch.tensor(lengths, device=self._device)
        self._cache.begin_step(lengths_B)
        ids_B1 = torch.tensor([row.last for row in rows], device=self._device)[:, None]
        logits_BV = self._forward(ids_B1, lengths_B[:, None], self._mask(lengths_B))
        if self._sampler is None:
            self._sampler = BatchSampler([row.sampling for row in rows], sorted(self.eos_ids), self._device)
        uniforms_B = torch.tensor([next(row.uniforms) for row in rows], dtype=torch.float64, device=self._device)
        drawn = self._sampler.draw(logits_BV, uniforms_B)
        return self._append(drawn.tokens_B.tolist(), drawn.logprobs_B.tolist())

    def _append(self, tokens: list[int], logprobs: list[float]) -> list[Finished]:
        """Give each row its new token; take the rows that ended out of the batch."""
        finished: list[Finished] = []
        gone: list[int] = []
        for i, (row, token, logprob) in enumerate(zip(self._rows, tokens, logprobs, strict=True)):
            request = row.request
            row.length += 1
            end: Finished | None = None
            if not logprob > -torch.inf:
                end = Finished(request, StopReason.ERROR, error="the model's logits are not finite (NaN or infinity)")
                self._cache.clear_rows([i])
            else:
                request.ids.append(token)
                request.logprobs.append(logprob)
                row.last = token
                end = self._ended(row, token)
            if end is not None:
                finished.append(end)
                gone.append(i)
        if gone:
            self._remove(gone)
        return finished

    def _ended(self, row: _Row, token: int) -> Finished | None:
        request, sampling = row.request, row.request.sampling
        row.sampling.generated = made = len(request.ids)
        if sampling.repetition_penalty != 1:
            row.sampling.seen.add(token)
        if token in self.eos_ids:
            return Finished(request, StopReason.EOS, token)
        if row.watch is not None:
            found = row.watch.push(token)
            if found is not None and made > sampling.min_tokens:
                return Finished(request, StopReason.STOP_STRING, found)
        if made >= sampling.max_tokens:
            return Finished(request, StopReason.LENGTH)
        if len(request.prompt_ids) + made >= self.max_model_len:
            return Finished(request, StopReason.CONTEXT)
        return None

    def _abort(self, requests: Sequence[Request]) -> None:
        ids = {request.id for request in requests}
        self._remove([i for i, row in enumerate(self._rows) if row.request.id in ids])

    def _remove(self, gone: Sequence[int]) -> None:
        """Take rows out; the last rows move into the gaps, so that the active ones stay at the front."""
        holes = set(gone)
        kept = len(self._rows) - len(holes)
        target = sorted(i for i in holes if i < kept)
        source = [i for i in range(kept, len(self._rows)) if i not in holes]
        if source:
            self._cache.move(source, target)
            for new, old in zip(target, source, strict=True):
                self._rows[new] = self._rows[old]
        del self._rows[kept:]
        self._sampler = None

    # ------------------------------------------------------------ the model

    def _mask(self, lengths_B: torch.Tensor) -> torch.Tensor:
        """What each row's new token sees: 0 up to its own position, -inf beyond. Shape (B, 1, 1, positions)."""
        unseen = torch.arange(self._cache.positions, device=self._device) > lengths_B[:, None]
        dtype = self._autocast or self._dtype
        mask = torch.zeros(unseen.shape, dtype=dtype, device=self._device).masked_fill_(unseen, -torch.inf)
        return mask[:, None, None]

    def _forward(self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Logits after the last column. Shape (B, V). Fills the cache. Runs in the pump's thread."""
        decoding = self._cache.prefill_rows is None
        with self._context(), use_decode_attention(self._config, decoding and self._grouped_attention):
            out = self.model(
                input_ids=ids_BT,
                attention_mask=mask,
                position_ids=positions_BT,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _plain_logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Logits after the last column by a forward pass without cache. Shape (B, V), fp32."""
        with self._context():
            logits: torch.Tensor = self.model(input_ids=ids_BT, use_cache=False).logits[:, -1].float()
        return logits

    def _context(self) -> ExitStack:
        """Grad mode, autocast and the current device belong to a thread: each must be set in the pump's own."""
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        if self._autocast is not None:
            stack.enter_context(torch.autocast(self._device.type, dtype=self._autocast))
        if self._device.type == "cuda":
            stack.enter_context(torch.cuda.device(self._device))
        return stack


def _load(path: str | Path, dtype: torch.dtype | str | None, device: torch.device | str | None) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype or "auto").eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise UserError(f"engine: cannot load a model from {path}: {error}") from error
    loaded: PreTrainedModel = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return loaded
