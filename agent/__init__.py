"""Tampu: answers prompts from small devices with a local language model."""

__version__ = "0.1.0"
