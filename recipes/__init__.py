"""Shipped recipes (YAML) and launch configurations. No Python lives here."""
