"""One process of a distributed training test: trains the recipe of a folder and saves the first gradient, or weights.

Usage (under torchrun): worker.py FOLDER WORLD_SIZE [weights]
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from cib_rl.recipe import Recipe
from cib_rl.trainers import run
from cib_rl.trainers.processes import leave_processes
from tests.trainers.support import RandomEngine


class Keep(TrainerCallback):
    kept: dict | None = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self.kept is None:
            self.kept = {
                n.removeprefix("module."): p.grad.detach().clone()
                for n, p in model.named_parameters()
                if p.grad is not None
            }


def main() -> None:
    _train()  # its trainer is gone when the processes leave
    leave_processes()


def _train() -> None:
    folder, world = Path(sys.argv[1]), int(sys.argv[2])
    recipe = Recipe.model_validate(json.loads((folder / "recipe.json").read_text()))
    if "real" not in sys.argv:
        run.make_engine = lambda *_: RandomEngine()
    keep = Keep()
    with run.prepare(recipe, callbacks=[keep]) as trainer:
        assert trainer.accelerator.num_processes == world
        trainer.train()
        model = trainer.accelerator.unwrap_model(trainer.model)
        saved = keep.kept if "weights" not in sys.argv else {n: p.detach().clone() for n, p in model.named_parameters()}
        if trainer.accelerator.is_main_process:
            torch.save({**saved, "world_size": trainer.accelerator.num_processes}, folder / "result.pt")
        trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
