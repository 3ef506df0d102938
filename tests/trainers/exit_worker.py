"""One process of `test_exit`: runs `cib-rl train RECIPE` and writes down what is left of the process group.

Usage (under torchrun): exit_worker.py FOLDER RECIPE
"""

import json
import os
import sys
import weakref
from pathlib import Path

import torch

from cib_rl.cli import app
from cib_rl.trainers.grpo import GRPOTrainer

models: dict[str, weakref.ref] = {}  # what trained, by the name of its class


class Watched(GRPOTrainer):
    def training_step(self, model, *arguments, **keywords):
        models[type(model).__name__] = weakref.ref(model)
        return super().training_step(model, *arguments, **keywords)


def gloo_threads() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def main() -> None:
    from cib_rl.trainers import run

    run.GRPOTrainer = Watched
    folder, recipe = Path(sys.argv[1]), sys.argv[2]
    seen: dict = {"at destroy": []}
    destroy = torch.distributed.destroy_process_group

    def watched(*arguments):
        alive = [name for name, model in models.items() if model() is not None]
        seen["at destroy"].append({"alive": alive, "gloo": bool(gloo_threads())})
        destroy(*arguments)

    torch.distributed.destroy_process_group = watched
    app(["train", recipe], standalone_mode=False)
    seen |= {"trained": list(models), "gloo threads": gloo_threads()}
    (folder / f"exit-rank{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
