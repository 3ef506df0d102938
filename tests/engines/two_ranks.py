"""Started by torchrun, two processes: each rank has an engine of its own and syncs the same policy into it."""

from __future__ import annotations

import faulthandler
import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from cib_rl.engines.weights import policy_tensors
from tests.conftest import build_tiny_model
from tests.engines.conftest import build_engine
from tests.engines.support import disturb, largest_gap, ragged_prompts, run, seeded


def main() -> None:
    faulthandler.dump_traceback_later(500, exit=True)  # a hang says where
    name, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2
    policy = build_tiny_model()
    wrapped = torch.nn.parallel.DistributedDataParallel(policy)
    engine = build_engine(name, folder, wrapped if name == "transformers" else None)
    prompts = ragged_prompts(8)[rank::2]  # each rank its own prompts
    for version in range(3):
        disturb(policy, version)
        engine.sync_weights(policy_tensors(wrapped), version)
        results = run(engine, prompts, seeded(4, temperature=0.8))
        assert largest_gap(policy, prompts, results, 0.8) < 1e-4
        total = torch.tensor([len(results)])
        dist.all_reduce(total)  # the trainer's process group still works
        assert int(total) == 8
    engine.close()
    dist.barrier()
    (out / f"rank{rank}").write_text("fine")
    # The reducer of DDP, destroyed last, would join gloo's thread while it holds the interpreter's lock, which that
    # thread may need to let go of the barrier's tensor: a deadlock, seen under load.
    del wrapped, engine
    gc.collect()
    dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
