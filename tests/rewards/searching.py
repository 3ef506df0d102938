"""Episodes that search, for tests of rewards: no model, no retriever."""

from __future__ import annotations

from cib_rl.plugin import RewardContext, RewardSuite, reward
from cib_rl.recipe import RewardSection
from cib_rl.trajectory import Segment, StopReason, Trajectory, Turn
from tests.trained_tokenizers import byte_level

TOKENIZER = byte_level()
OUTCOME = "tests.rewards.searching:qa_em"


@reward("qa_em", kind="outcome")
def qa_em(trajectories):
    """What the row says."""
    return [float(t.task["score"]) for t in trajectories]


def episode(*searches, score=1.0, answer="x", well_formed=True, shown="docs", **task):
    """`searches`: one list of (query, [document ids]) per search; then the turn of the answer, if there is one.

    `shown`: the text of every block, or a list with one for each search.
    """
    blocks = [shown] * len(searches) if isinstance(shown, str) else shown
    segment = Segment(TOKENIZER.encode("q "))
    trajectory = Trajectory({"id": "r", "prompt": "q", "score": score, **task}, 0, segments=[segment], answer=answer)

    def say(text):
        start = len(segment)
        ids = TOKENIZER.encode(text)
        segment.append_policy(ids, [-1.0] * len(ids))
        trajectory.turns.append(Turn(0, start, len(segment), StopReason.STOP_STRING))

    for parts, block in zip(searches, blocks, strict=True):
        say("<think>a</think><search>b</search>")
        segment.append_environment(TOKENIZER.encode(block))
        turn = trajectory.turns[-1]
        turn.searched, turn.queries = True, [query for query, _ in parts]
        turn.documents = [[{"id": i, "title": i.upper(), "score": 1.0} for i in ids] for _, ids in parts]
    if answer is not None:
        say(f"<think>a</think>{'' if well_formed else 'b'}<answer>c</answer>")
    trajectory.stop_reason = StopReason.STOP_STRING
    return trajectory


def shaping(section, trajectories):
    """The scores under the outcome and one shaping reward."""
    name = section["name"]
    module = f"cib_rl.rewards.{name}:{name}"
    sections = [RewardSection(name=OUTCOME), RewardSection(**(section | {"name": module}))]
    suite = RewardSuite(sections, RewardContext(tokenizer=TOKENIZER))
    try:
        return suite.score(trajectories)
    finally:
        suite.close()
