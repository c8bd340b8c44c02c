"""llama.cpp with Vulkan, and a device it may use: run by `TAMPU_TEST_VULKAN=1 ./build/test`."""

import pytest

from agent.engine import llama
from agent.engine.llama.registry import GPU_KINDS
from agent.engine.messages import Device
from tests.model.conftest import model_path

__all__ = ["gpu", "model_path"]


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first GPU of ggml's registry."""
    llama.initialise()
    for device in llama.devices():
        if device.kind in GPU_KINDS:
            return device
    pytest.fail("llama.cpp finds no Vulkan device: run 'TAMPU_TEST_VULKAN=1 ./build/test tests/vulkan'")
