"""Invariants of the one record, for arbitrary episodes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn
from cib_rl.trajectory_io import read_trajectories, write_trajectories

ids = st.lists(st.integers(0, 50), max_size=8)
events = st.lists(st.tuples(st.sampled_from(["policy", "environment", "segment"]), ids), max_size=8)


def _play(script):
    trajectory = Trajectory(task={"id": "a", "prompt": "p", "answer": 1}, group=3, segments=[Segment([1, 2])])
    for who, tokens in script:
        segment = trajectory.segments[-1]
        if who == "segment":
            trajectory.segments.append(Segment(tokens))
        elif who == "policy":
            segment.append_policy(tokens, [-0.5] * len(tokens))
        else:
            segment.append_environment(tokens)
    return trajectory


@given(events)
def test_lengths_agree_and_mask_covers_exactly_the_environments_tokens(script):
    trajectory = _play(script)
    expected = [(who == "policy", i) for who, tokens in script if who != "segment" for i in tokens]
    assert trajectory.completion_ids == [i for _, i in expected]
    assert trajectory.policy_mask == [int(policy) for policy, _ in expected]
    assert [math.isnan(p) for p in trajectory.logprobs] == [not policy for policy, _ in expected]
    assert trajectory.num_tokens == len(trajectory.policy_ids) == sum(policy for policy, _ in expected)
    for segment in trajectory.segments:
        assert len(segment.completion_ids) == len(segment.logprobs) == len(segment.policy_mask)


@given(events, ids)
def test_what_was_sampled_is_a_prefix_of_everything_later(script, more):
    trajectory = _play(script)
    before = trajectory.segments[-1].context_ids
    trajectory.segments[-1].append_environment(more)
    assert trajectory.segments[-1].context_ids[: len(before)] == before


def test_tokens_without_their_logprobs_are_refused():
    with pytest.raises(ValueError, match="2 sampled tokens but 1"):
        Segment([1]).append_policy([1, 2], [0.0])


def test_a_track_of_another_length_is_refused():
    trajectory = _play([("policy", [1, 2, 3])])
    with pytest.raises(ValueError, match="'surprisal' has 2 values for 3"):
        trajectory.set_track("surprisal", [1.0, 2.0])


@pytest.mark.parametrize("reason", list(StopReason))
def test_every_stop_reason_is_an_end_a_cut_or_a_failure(reason):
    ends = {StopReason.EOS, StopReason.STOP_STRING}
    assert (reason in ends) + reason.truncated + reason.failed == 1


@given(events)
def test_parquet_gives_back_what_was_written(tmp_path_factory, script):
    trajectory = _play(script)
    trajectory.turns.append(Turn(0, 0, 1, StopReason.LENGTH, queries=["q"], documents=["d"]))
    trajectory.stop_reason = StopReason.LENGTH
    trajectory.text, trajectory.policy_text, trajectory.answer = "x </think> é", "x", None
    trajectory.rewards = {"a": 1.0, "b": None}
    trajectory.extras = {"seen": [1, "é", None], "odd": {"a": 0.5}}
    trajectory.set_track("surprisal", [0.5] * len(trajectory.completion_ids))
    path = tmp_path_factory.mktemp("t") / "x.parquet"
    write_trajectories(path, [trajectory], step=7)
    (read,) = read_trajectories(path)
    for a, b in zip(read.segments, trajectory.segments, strict=True):
        assert (a.prompt_ids, a.completion_ids, a.policy_mask) == (b.prompt_ids, b.completion_ids, b.policy_mask)
        assert [x for x in a.logprobs if x == x] == [x for x in b.logprobs if x == x]
    assert (read.turns, read.stop_reason, read.text, read.answer) == (
        trajectory.turns,
        StopReason.LENGTH,
        trajectory.text,
        None,
    )
    assert (read.rewards, read.tracks, read.task) == (trajectory.rewards, trajectory.tracks, trajectory.task)
    assert read.extras == trajectory.extras


def test_a_file_of_version_1_which_had_no_extras_is_read(tmp_path):
    import pyarrow.parquet as pq

    trajectory = _play([("policy", [1, 2, 3])])
    path = tmp_path / "x.parquet"
    write_trajectories(path, [trajectory], step=7)
    table = pq.read_table(path)
    assert table.schema.metadata[b"cib_rl.schema_version"] == b"2"
    old = table.drop_columns(["extras"]).replace_schema_metadata({"cib_rl.schema_version": "1"})
    pq.write_table(old, path)
    (read,) = read_trajectories(path)
    assert read.extras == {} and read.completion_ids == trajectory.completion_ids


def test_a_file_of_another_schema_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cib_rl.errors import UserError

    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match="schema version 0"):
        read_trajectories(path)
