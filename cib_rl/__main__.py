"""`python -m cib_rl`, for launchers: `torchrun --nproc-per-node 2 -m cib_rl train RECIPE`."""

from cib_rl.cli import main

if __name__ == "__main__":
    main()
