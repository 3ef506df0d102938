"""The experiment trackers that metrics may go to beside the run folder."""

from __future__ import annotations

from importlib.util import find_spec

from cib_rl.errors import UserError
from cib_rl.recipe import LoggingSection


def trackers(logging: LoggingSection) -> list[str]:
    """Those that the recipe names, as transformers calls them. Raises UserError for one that is not installed."""
    wanted = [name for name in ("trackio", "wandb") if getattr(logging, name)]
    for name in wanted:
        if find_spec(name) is None:
            raise UserError(f"logging.{name}: {name} is not installed: pip install {name}")
    return wanted
