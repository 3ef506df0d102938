"""A scripted two-turn environment, in recipes `tests.environments.scripted:TwoTurns`, and an engine to play it."""

from __future__ import annotations

from cib_rl.engines.base import Engine, Generation
from cib_rl.environments.base import encode_prompt, record_generation
from cib_rl.errors import UserError
from cib_rl.trajectory import Segment, StopReason, Trajectory

NAME = "tests.environments.scripted:TwoTurns"


class TwoTurns:
    """Generate, write a document, generate again; `fresh_segment`: the second turn starts a context of its own."""

    def __init__(self, section, tokenizer):
        known = {"document": "7+8=15 ", "fresh_segment": False, "fails_on": None, "mistake_on": None}
        if unknown := set(section.kwargs) - set(known):
            raise UserError(f"environment: unknown key {unknown.pop()}")
        self.options = known | section.kwargs
        self.section, self.tokenizer = section, tokenizer

    async def run(self, task, engine):
        trajectory = Trajectory(task=task, group=0)
        prompt = encode_prompt(task["prompt"], self.section, self.tokenizer)
        trajectory.segments.append(Segment(prompt))
        record_generation(trajectory, await engine.generate(prompt, max_tokens=self.section.max_turn_length))
        if task["id"] == self.options["fails_on"]:
            raise RuntimeError("the search server is gone")
        if task["id"] == self.options["mistake_on"]:
            raise UserError("the recipe's search server does not exist")
        document = self.tokenizer.encode(self.options["document"])
        if self.options["fresh_segment"]:
            trajectory.segments.append(Segment(prompt + document))
        else:
            trajectory.segments[-1].append_environment(document)
        context = trajectory.segments[-1].context_ids
        record_generation(trajectory, await engine.generate(context, max_tokens=self.section.max_turn_length))
        return trajectory


class ScriptedEngine(Engine):
    """Gives the listed generations, in the order of the requests, and keeps the requests."""

    def __init__(self, tokenizer, *answers):
        self.tokenizer = tokenizer
        self.answers = list(answers)
        self.requests = []

    async def generate(self, prompt_ids, sampling):
        self.requests.append((list(prompt_ids), sampling))
        answer = self.answers.pop(0)
        if isinstance(answer, Generation):
            return answer
        ids = self.tokenizer.encode(answer)[: sampling.max_tokens]
        ended = ids[-1:] == [self.tokenizer.eos_token_id]
        return Generation(ids, [-0.5] * len(ids), StopReason.EOS if ended else StopReason.LENGTH)

    def sync_weights(self, named_tensors, version):
        pass

    def close(self):
        pass
