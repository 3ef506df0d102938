"""Policy log-probabilities in passes of like length: the padding of a window never reaches the model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cib_rl.packing import pack_by_tokens, pack_into

# (input_ids, attention_mask, labels) of one pass -> (log-probabilities (B, L-1), entropies (B, L-1) or None)
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


def like_length_logps(
    forward: Forward,
    input_ids_BL: torch.Tensor,
    attention_mask_BL: torch.Tensor,
    completion_width: int,
    *,
    pad_id: int,
    token_budget: int | None,
    pass_count: Callable[[int], int] = lambda count: count,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Per-token log-probabilities (B, T) and entropies (B, T) of the completions, T = `completion_width`.

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
    pieces: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
    for rows in passes:
        width = max(lengths[i] for i in rows)
        ids = input_ids_BL.new_full((len(rows), width), pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        take_row: list[int] = []
        take_column: list[int] = []
        put_column: list[int] = []
        for k, i in enumerate(rows):
            start, length = starts[i], lengths[i]
            prompt = prompt_width - start
            ids[k, :length] = input_ids_BL[i, start : start + length]
            mask[k, :length] = 1
            labels[k, prompt:length] = ids[k, prompt:length]
            # Position p of a pass's output predicts token p + 1.
            take_row += [k] * (length - prompt)
            take_column += range(prompt - 1, length - 1)
            put_column += [i * completion_width + t for t in range(length - prompt)]
        logps, entropies = forward(ids, mask, labels)
        row, column, where = (
            torch.tensor(x, dtype=torch.long, device=ids.device) for x in (take_row, take_column, put_column)
        )
        pieces.append((where, logps[row, column], entropies[row, column] if entropies is not None else None))
    where = torch.cat([piece[0] for piece in pieces])
    logps_B_T = _scatter(where, torch.cat([piece[1] for piece in pieces]), len(lengths), completion_width)
    if pieces[0][2] is None:
        return logps_B_T, None
    entropies_T = torch.cat([piece[2] for piece in pieces if piece[2] is not None])
    return logps_B_T, _scatter(where, entropies_T, len(lengths), completion_width)


def _scatter(where: torch.Tensor, values: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """Put flat values at flat positions of a (rows, width) tensor of zeros; differentiable in `values`."""
    return values.new_zeros(rows * width).index_put((where,), values).view(rows, width)
