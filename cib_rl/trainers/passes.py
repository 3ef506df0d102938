"""Numbers per completion token in passes of like length: the padding of a window never reaches the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cib_rl.packing import pack_by_tokens, pack_into

# (input_ids, attention_mask, labels) of one pass -> tensors (B, L) or (B, L-1) over its positions, or None
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Sequence[torch.Tensor | None]]


def like_length(
    forward: Forward,
    input_ids_BL: torch.Tensor,
    attention_mask_BL: torch.Tensor,
    completion_width: int,
    *,
    pad_id: int,
    token_budget: int | None,
    pass_count: Callable[[int], int] = lambda count: count,
    after_last: bool = False,
) -> list[torch.Tensor | None]:
    """What `forward` says at the position before each completion token, (B, T) each, T = `completion_width`.

    That position predicts the token: log-probabilities, entropies and values all stand there. With `after_last` the
    results are (B, T + 1): a row's last token adds what is said after it.

    Rows (left-padded prompt, right-padded completion) are laid out without their padding, sorted by length, put into
    passes of at most `token_budget` padded tokens each (None: one pass), and the results scattered back; padding
    positions hold 0. `pass_count` maps this process's number of passes to the number all processes must run, since a
    forward pass can be a collective.
    """
    lengths = attention_mask_BL.sum(1).tolist()
    starts = attention_mask_BL.argmax(1).tolist()
    prompt_width = input_ids_BL.size(1) - completion_width
    if token_budget is None:
        passes = [list(range(len(lengths)))]
    else:
        passes = pack_by_tokens(lengths, token_budget)
        wanted = pass_count(len(passes))
        if wanted != len(passes):
            passes = pack_into(lengths, wanted, token_budget=token_budget)
    after = int(after_last)
    where: list[torch.Tensor] = []
    pieces: list[list[torch.Tensor | None]] = []
    for rows in passes:
        width = max(lengths[i] for i in rows)
        ids = input_ids_BL.new_full((len(rows), width), pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        take_row: list[int] = []
        take_column: list[int] = []
        put: list[int] = []
        for k, i in enumerate(rows):
            start, length = starts[i], lengths[i]
            prompt = prompt_width - start
            ids[k, :length] = input_ids_BL[i, start : start + length]
            mask[k, :length] = 1
            labels[k, prompt:length] = ids[k, prompt:length]
            taken = range(prompt - 1, length - 1 + after)
            take_row += [k] * len(taken)
            take_column += taken
            put += [i * (completion_width + after) + t for t in range(len(taken))]
        row, column = (torch.tensor(x, dtype=torch.long, device=ids.device) for x in (take_row, take_column))
        where.append(torch.tensor(put, dtype=torch.long, device=ids.device))
        pieces.append([said if said is None else said[row, column] for said in forward(ids, mask, labels)])
    where_N, shape = torch.cat(where), (len(lengths), completion_width + after)
    results: list[torch.Tensor | None] = []
    for parts in zip(*pieces, strict=True):
        known = [part for part in parts if part is not None]
        results.append(_scatter(where_N, torch.cat(known), shape) if known else None)
    return results


def _scatter(where_N: torch.Tensor, values_N: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Put flat values at flat positions of a tensor of zeros; differentiable in the values."""
    return values_N.new_zeros(shape[0] * shape[1]).index_put((where_N,), values_N).view(shape)
