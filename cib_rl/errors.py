"""Errors that are the user's to mend: shown as one message, without a traceback, with exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something in the input is wrong. The message says what, where, and how to mend it."""


class RecipeError(UserError):
    """A recipe cannot be read or does not fit the schema. The message names file, line and key."""
