"""Keywords of a reward: how they are shown, checked against the recipe, and converted to their annotated types."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from cib_rl.plugin.contract import PluginError

# Keys of a reward's section in the recipe that never reach the reward.
RESERVED = (
    "name", "kind", "weight", "label", "only_when_correct",
    "weight_schedule", "call_timeout", "call_concurrency", "max_error_share",
)  # fmt: skip


def signature_from_ast(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """`name(keyword: type = default, ...)` with the keywords a recipe may give, read from the syntax tree."""
    function: ast.FunctionDef | ast.AsyncFunctionDef | None
    if isinstance(node, ast.ClassDef):
        bodies = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        function = bodies[0] if bodies else None
    else:
        function = node
    shown = []
    if function is not None:
        arguments = function.args
        positional = arguments.posonlyargs + arguments.args
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
        pairs = list(zip(positional, defaults + list(arguments.defaults), strict=True))[1:]  # self or trajectories
        pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
        for argument, default in pairs:
            if argument.arg == "context":
                continue
            text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation else "")
            shown.append(text + (f" = {ast.unparse(default)}" if default is not None else ""))
        if arguments.kwarg:
            shown.append(f"**{arguments.kwarg.arg}")
    return f"{node.name}({', '.join(shown)})"


def keyword_parameters(target: Any, *, skip: int) -> dict[str, inspect.Parameter]:
    """The parameters of a function or class that the recipe may set; the first `skip` positional ones are left out."""
    parameters = list(inspect.signature(target).parameters.values())
    return {p.name: p for p in parameters[skip:] if p.kind is not inspect.Parameter.VAR_POSITIONAL}


def show(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """`name(keyword: type = default, ...)` of an imported reward."""
    # Annotations that are still text (from __future__ import annotations) would be shown in quotes.
    shown = [str(p) for p in parameters.values() if p.name != "context"]
    shown = [re.sub(r"(?<=: )(['\"])(.*?)\1", r"\2", text, count=1) for text in shown]
    return f"{name}({', '.join(shown)})"


def call_of(cls: type) -> Any:
    """`__call__` of a class as its instances have it, without building one. AttributeError where there is none."""
    method = inspect.getattr_static(cls, "__call__")
    return method.__get__(object(), cls) if hasattr(method, "__get__") else method


def check_call(name: str, target: Any, arguments: Sequence[str]) -> None:
    """That `target` can be called with `arguments`, told by their places: a function, or the instances of a class.

    Raises:
        PluginError: it cannot be; names the signature that is expected and the one it has.
    """
    called, shown, wanted = target, getattr(target, "__name__", name), ", ".join(arguments)
    if inspect.isclass(target):
        if "__call__" not in dir(target):
            raise PluginError(f"reward {name!r}: the class {shown} has no __call__(self, {wanted})")
        called = call_of(target)
        shown += ".__call__"
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # some functions written in C do not say
        return
    try:
        # A function's other parameters are keywords of the recipe; a class has had its own in __init__.
        (signature.bind if inspect.isclass(target) else signature.bind_partial)(*arguments)
    except TypeError:
        raise PluginError(f"reward {name!r} is called as ({wanted}), which {shown}{signature} does not take") from None


def check_keywords(
    name: str, target: Any, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`given` with each value converted to its annotated type where that can be done.

    Raises:
        PluginError: an unknown, missing or mistyped keyword; names the reward's signature.
    """
    signature = show(name, parameters)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = {k: p for k, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD and k != "context"}
    for key in named:
        if key in RESERVED:
            raise PluginError(f"reward {name!r} has a keyword {key!r}, which the recipe keeps for itself; rename it")
    for key in given:
        if key not in named and not open_ended:
            close = difflib.get_close_matches(key, named, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PluginError(f"reward {name!r} has no keyword {key!r}{hint}; its signature is {signature}")
    for key, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise PluginError(f"reward {name!r} needs the keyword {key!r}; its signature is {signature}")
    hints = _hints(target)
    return {key: _convert(name, key, hints.get(key), value, signature) for key, value in given.items()}


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        # With extras: limits such as pydantic's PositiveFloat are checked too.
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that exists only for type checkers cannot be resolved: then nothing is converted
        return {}


def _convert(name: str, key: str, hint: Any, value: Any, signature: str) -> Any:
    # YAML reads 1e-4 (no point) as a string: conversion to the annotated type mends that, and refuses real mistakes.
    if hint is None or hint is Any:
        return value
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise PluginError(f"reward {name!r}: {key}: {value!r}: {reason}; its signature is {signature}") from error
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value  # a type that pydantic does not know
