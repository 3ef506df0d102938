"""Exact nearest neighbours of fp16 vectors: the matrix product picks candidates, float64 decides.

What comes out is the ranking of the dot products in float64, rounded to float32, ties by number. It does not depend on
the block, the device, the split or the other queries of a batch, although the product's last digits do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from cib_rl.errors import UserError

Found = tuple[np.ndarray, np.ndarray]  # of one query: numbers (k,) int64 and scores (k,) float32, the best first


def ranked(query_D: np.ndarray, numbers: np.ndarray, vectors_ND: np.ndarray, k: int) -> Found:
    """The best `k` of the candidates `numbers` by their exact dot products."""
    scores = (vectors_ND[numbers].astype(np.float64) @ query_D.astype(np.float64)).astype(np.float32)
    order = np.lexsort((numbers, -scores))[:k]
    return numbers[order], scores[order]


class ExactSearch:
    """Searches all vectors.

    Args:
        vectors_ND: float16 (N, D); may be memory-mapped.
        max_norm: no vector is longer.
        devices: of torch; the vectors are split evenly over them.
        block: vectors scored at once, which bounds the memory: `block` x (queries + D) x 4 bytes.
        resident: keep the vectors on the devices; otherwise each block is copied there for each search.

    Raises UserError when a device does not exist or has no room for its part.
    """

    def __init__(
        self, vectors_ND: np.ndarray, max_norm: float, devices: Sequence[str], block: int, *, resident: bool = True
    ) -> None:
        self._vectors_ND, self._max_norm, self._block = vectors_ND, max_norm, block
        ends = [len(vectors_ND) * i // len(devices) for i in range(len(devices) + 1)]
        whole = torch.from_numpy(vectors_ND)
        self._shards: list[tuple[int, torch.Tensor, torch.device]] = []
        for name, start, end in zip(devices, ends[:-1], ends[1:], strict=True):
            try:
                device = torch.device(name)
                part = whole[start:end].to(device) if resident else whole[start:end]
            except (RuntimeError, AssertionError) as error:  # out of memory is the first, torch without CUDA the second
                size = (end - start) * vectors_ND.shape[1] * 2
                raise UserError(
                    f"retriever.devices: {size / 1e9:.1f} GB of vectors cannot be put on {name!r}: {error}; name other "
                    "or more devices, or set `resident: false`"
                ) from error
            if end > start:
                self._shards.append((start, part, device))

    def search(self, query_QD: np.ndarray, k: int) -> list[Found]:
        """The best `k` for each query (fewer where there are fewer vectors). `query_QD` is float32, Q at least 1."""
        k = min(k, len(self._vectors_ND))
        norm_Q = np.linalg.norm(query_QD, axis=1, keepdims=True)
        unit_QD = torch.from_numpy(query_QD / np.where(norm_Q > 0, norm_Q, 1))
        with ThreadPoolExecutor(len(self._shards)) as threads:
            parts = list(threads.map(lambda shard: self._candidates(unit_QD, k, *shard), self._shards))
        rows, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=len(query_QD)))[:-1]
        return [
            ranked(query_D, own, self._vectors_ND, k)
            for query_D, own in zip(query_QD, np.split(numbers[order], ends), strict=True)
        ]

    def _candidates(
        self, unit_QD: torch.Tensor, k: int, start: int, part: torch.Tensor, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of queries and numbers of vectors: all that may be among a query's best `k`, and few others.

        With e a bound on a product's error, k vectors have exact scores of at least (k-th product - e), and a vector
        with such a score has a product of at least (k-th product - 2 e).
        """
        half = device.type == "cuda"
        queries_QD = unit_QD.to(device, torch.float16 if half else torch.float32)
        margin = 2 * error_bound(unit_QD.shape[1], half=half) * self._max_norm
        best_QK = torch.empty(len(unit_QD), 0, device=device)
        found: list[tuple[torch.Tensor, ...]] = []
        for first in range(0, len(part), self._block):
            block_ND = part[first : first + self._block].to(device)
            score_QN = product(queries_QD, block_ND)
            best_QK = torch.cat([best_QK, score_QN.topk(min(k, len(block_ND))).values], dim=1)
            best_QK = best_QK.topk(min(k, best_QK.shape[1])).values
            row, column = (score_QN >= best_QK[:, -1:] - margin).nonzero(as_tuple=True)
            found.append((row, column + (start + first), score_QN[row, column]))
        row, number, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = score >= best_QK[row, -1] - margin
        return row[kept].cpu().numpy(), number[kept].cpu().numpy()


def product(queries_QD: torch.Tensor, block_ND: torch.Tensor) -> torch.Tensor:
    """Products (Q, N) in float32, none further from the exact one than `error_bound` says."""
    if queries_QD.dtype == torch.float16:  # one pass of the tensor cores, summed and returned in float32
        return torch.mm(queries_QD, block_ND.T, out_dtype=torch.float32)
    return queries_QD @ block_ND.float().T


def error_bound(dimension: int, *, half: bool) -> float:
    """Bound on the error of a product of D terms for vectors of length 1, rounding of the result included.

    float32: the sum's (D + 2) 2^-24 (Higham, Accuracy and Stability, section 3.1, and Cauchy-Schwarz). On a GPU the
    queries are rounded to fp16 first, 2^-11 (and 2^-25 for each number too small for it), and tensor cores do not
    round to nearest, hence four times the sum's.
    """
    summed = (dimension + 2) * 2.0**-24
    return 4 * summed + 2.0**-11 + dimension**0.5 * 2.0**-25 if half else summed
