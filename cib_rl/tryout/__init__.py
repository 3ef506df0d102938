"""Trying a reward on saved completions before spending GPU hours: what it pays for, and what would cheat it."""
