"""Inference engines: one contract (`base.Engine`), one file per engine."""
