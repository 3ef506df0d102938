"""The environment a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cib_rl.environments.base import Environment
from cib_rl.environments.single_turn import SingleTurn
from cib_rl.errors import UserError
from cib_rl.grading.answers import finder
from cib_rl.plugin.importing import find_elsewhere, is_elsewhere, nearest
from cib_rl.recipe import EnvironmentSection

SHIPPED = ("single_turn", "search")


def check_section(section: EnvironmentSection) -> None:
    """What can be said of the recipe's section without a tokenizer. Raises UserError for keys that are wrong."""
    finder(section.answer)  # an unknown style is refused here, not after the first rollout
    if section.name not in SHIPPED and not is_elsewhere(section.name):
        raise UserError(
            f"environment.name: unknown {section.name!r}{nearest(section.name, list(SHIPPED))}; known: "
            f"{', '.join(SHIPPED)}, package.module:Class or path/file.py:Class"
        )
    if section.name == "single_turn" and section.kwargs:
        near = ", ".join(f"`{key}`" for key in section.kwargs)
        known = ", ".join(EnvironmentSection.model_fields)
        raise UserError(f"environment: unknown key {near} of single_turn; known: {known}")
    if section.name == "search":
        from cib_rl.environments.search_keys import read_keys

        read_keys(section.kwargs)


def make_environment(
    section: EnvironmentSection, tokenizer: PreTrainedTokenizerBase, base_dir: Path | None = None
) -> Environment:
    """The environment named in the recipe: a shipped one, `package.module:Class` or `path/file.py:Class`.

    Its paths start at `base_dir`.

    Raises UserError when it cannot be found or imported, or does not take what the recipe gives it.
    """
    check_section(section)
    if section.name == "single_turn":
        return SingleTurn(section, tokenizer)
    if section.name == "search":
        from cib_rl.environments.search_factory import make_search

        return make_search(section, tokenizer, base_dir or Path.cwd())
    factory = find_elsewhere(section.name, base_dir or Path.cwd(), "environment", key="environment.name")
    try:
        environment: Environment = factory(section, tokenizer)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"environment {section.name!r} cannot be built: {type(error).__name__}: {error}") from error
    return environment
