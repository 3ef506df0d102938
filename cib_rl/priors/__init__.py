"""Priors Q(Z) over completions, found by name: `make_prior({"name": "language_model", ...}, context)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cib_rl.plugin import PluginError, RewardContext
from cib_rl.plugin.importing import find_elsewhere, is_elsewhere, nearest
from cib_rl.plugin.signature import check_keywords, keyword_parameters
from cib_rl.priors.base import Prior, PriorRequest, requests_from
from cib_rl.priors.rate import rate_nats

BUILT_IN = {
    "language_model": "cib_rl.priors.language_model:LanguageModelPrior",
    "uniform": "cib_rl.priors.uniform:UniformPrior",
    "laplace": "cib_rl.priors.laplace:LaplacePrior",
}

__all__ = ["BUILT_IN", "Prior", "PriorRequest", "find_prior", "make_prior", "rate_nats", "requests_from"]


def make_prior(spec: Mapping[str, Any], context: RewardContext) -> Prior:
    """The prior that a recipe's `prior:` section names, built with the section's other keys (see `find_prior`)."""
    found, keywords = find_prior(spec, Path(context.base_dir))
    if "context" in inspect.signature(found).parameters:
        keywords["context"] = context
    return found(**keywords)


def find_prior(spec: Mapping[str, Any], base_dir: Path) -> tuple[type[Prior], dict[str, Any]]:
    """The class that a recipe's `prior:` section names, and its checked keywords; nothing is built or loaded.

    `name` is a built-in one, `package.module:Class` or `path/file.py:Class`. Raises PluginError when it is unknown, no
    prior, or does not take these keys.
    """
    keys = {key: value for key, value in spec.items() if key != "name"}
    name = spec.get("name")
    if not isinstance(name, str) or (name not in BUILT_IN and not is_elsewhere(name)):
        raise PluginError(
            f"prior.name: no prior is named {name!r}{nearest(str(name), list(BUILT_IN))}; "
            f"known: {', '.join(BUILT_IN)}; one of your own is named package.module:Class or path/file.py:Class"
        )
    found = find_elsewhere(BUILT_IN.get(name, name), base_dir, "prior")
    if not (inspect.isclass(found) and issubclass(found, Prior)):
        raise PluginError(f"prior.name: {name!r} is no subclass of cib_rl.priors.Prior")
    parameters = keyword_parameters(found, skip=0) if found.__init__ is not object.__init__ else {}
    try:
        return found, check_keywords(name, found, parameters, keys)
    except PluginError as error:
        raise PluginError(str(error).replace("reward", "prior", 1)) from error
