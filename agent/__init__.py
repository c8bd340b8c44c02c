"""Tampu: answers prompts from small devices with a local language model."""

__version__ = "0.1.0"

RELEASED = "2026-11-22"
"""The day of this release: a clock that says less has not been set."""
