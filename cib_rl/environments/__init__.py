"""Environments play episodes over an engine: one contract (`base.Environment`), one file per environment."""
