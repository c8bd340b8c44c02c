"""llama.cpp: the library behind the engine's narrow port (agent/engine/backend.py)."""

from agent.engine.llama.backend import LlamaBackend
from agent.engine.llama.bindings import lib
from agent.engine.llama.registry import build, devices, initialise, system_info
from agent.engine.llama.tokenizer import LlamaTokenizer

__all__ = ["LlamaBackend", "LlamaTokenizer", "build", "devices", "initialise", "lib", "system_info"]
