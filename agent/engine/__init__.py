"""Tokens in, tokens out: continuous batching over one llama.cpp context. Knows no MQTT, HTTP or config."""
