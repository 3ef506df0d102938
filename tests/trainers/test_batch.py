"""Padding and splitting a window."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.trainers.batch import pad_tokens, pad_window, split_window, take, unpad_tokens
from cib_rl.trajectory import Segment, Trajectory


def _trajectory(*segments):
    t = Trajectory(task={}, group=0)
    for prompt, parts in segments:
        segment = Segment(list(prompt))
        for who, ids in parts:
            if who == "p":
                segment.append_policy(ids, [-1.0 * i for i in ids])
            else:
                segment.append_environment(ids)
        t.segments.append(segment)
    return t


def test_tokens_masks_logprobs_and_advantages_stay_aligned():
    two_turns = _trajectory(([9, 9], [("p", [5, 6]), ("e", [7]), ("p", [8])]))
    short = _trajectory(([9], [("p", [4])]))
    batch = pad_window([two_turns, short], np.array([True, True]), pad_id=0)
    assert batch["prompt_ids"].tolist() == [[9, 9], [0, 9]]
    assert batch["prompt_mask"].tolist() == [[1, 1], [0, 1]]
    assert batch["completion_ids"].tolist() == [[5, 6, 7, 8], [4, 0, 0, 0]]
    assert batch["completion_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["tool_mask"].tolist() == [[1, 1, 0, 1], [1, 0, 0, 0]]
    advantages = pad_tokens([np.array([0.5, 0.5, 0.0, 0.5]), np.array([-1.0])], [two_turns, short], batch)
    assert advantages.tolist() == [[0.5, 0.5, 0.0, 0.5], [-1.0, 0, 0, 0]]
    logps = batch["engine_logps"]
    assert logps[0, :2].tolist() == [-5, -6] and math.isnan(logps[0, 2]) and logps[0, 3] == -8


def test_a_row_out_of_the_loss_keeps_its_tokens_but_not_its_mask():
    batch = pad_window([_trajectory(([9], [("p", [4, 5])]))], np.array([False]), pad_id=0)
    assert batch["completion_mask"].tolist() == [[1, 1]]
    assert batch["tool_mask"].tolist() == [[0, 0]]


def test_each_segment_is_a_row_and_fillers_have_nothing_in_the_loss():
    t = _trajectory(([1], [("p", [2, 3])]), ([4, 5], [("p", [6])]))
    batch = pad_window([t], np.array([True]), pad_id=0, multiple_of=4)
    advantages = pad_tokens([np.array([1.0, 2.0, 3.0])], [t], batch)
    assert advantages.tolist() == [[1, 2], [3, 0], [0, 0], [0, 0]]
    assert [values.tolist() for values in unpad_tokens(advantages, [t])] == [[1, 2, 3]]
    assert batch["tool_mask"].sum(1).tolist() == [2, 1, 0, 0]
    assert batch["prompt_mask"].sum(1).min() >= 1  # a model must attend to something


def test_an_empty_completion_is_a_row():
    batch = pad_window([_trajectory(([1], []))], np.array([True]), pad_id=0)
    assert batch["tool_mask"].sum() == 0


@given(st.lists(st.integers(0, 9), min_size=8, max_size=8), st.sampled_from([(1, 1), (2, 2), (1, 4), (4, 1)]))
def test_a_split_is_a_partition_into_equal_parts(lengths, shape):
    trajectories = [_trajectory(([10 + i], [("p", [20 + i] * n)])) for i, n in enumerate(lengths)]
    batch = pad_window(trajectories, np.ones(8, bool), pad_id=0)
    batch["advantages"] = pad_tokens([np.full(n, 1.0) for n in lengths], trajectories, batch)
    split = split_window(batch, optimizer_steps=shape[0], micro_batches=shape[1], seed=(1, 2))
    parts = [take(batch, rows) for rows in split]
    assert [len(p["prompt_ids"]) for p in parts] == [8 // (shape[0] * shape[1])] * (shape[0] * shape[1])
    seen = {}
    for part in parts:
        for row in range(len(part["prompt_ids"])):
            seen[int(part["prompt_ids"][row, -1])] = int(part["completion_mask"][row].sum())
            assert part["advantages"][row].sum() == part["completion_mask"][row].sum()
        assert part["completion_ids"].size(1) == max(1, int(part["completion_mask"].sum(1).max()))
    assert seen == {10 + i: n for i, n in enumerate(lengths)}


def test_rows_of_a_step_are_sorted_by_length_and_steps_are_random():
    trajectories = [_trajectory(([1], [("p", [2] * n)])) for n in range(1, 17)]
    batch = pad_window(trajectories, np.ones(16, bool), pad_id=0)

    def lengths(seed):
        return [
            take(batch, rows)["completion_mask"].sum(1)
            for rows in split_window(batch, optimizer_steps=2, micro_batches=2, seed=seed)
        ]

    first, second, third, fourth = lengths((0,))
    assert first.max() <= second.min() and third.max() <= fourth.min()
    assert not torch.equal(first, lengths((1,))[0])
