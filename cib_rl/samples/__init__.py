"""Completions that lie in a file, as trajectories: what `cib-rl rewards try` and `cib-rl audit` look at."""
