"""Benchmarks, scoring, statistics, comparison and report."""
