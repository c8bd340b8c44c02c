"""Who made a GPU: the numbers on the PCI bus and in Vulkan, and the words in a device's name."""

# PCI's numbers; Vulkan uses them too, and Khronos' own from 0x10000 on for those that have none.
BY_NUMBER = {
    0x1002: "amd",
    0x10DE: "nvidia",
    0x8086: "intel",
    0x106B: "apple",
    0x13B5: "arm",
    0x14E4: "broadcom",
    0x5143: "qualcomm",
    0x1010: "imagination",
    0x10001: "vivante",
    0x10005: "mesa",
    0x1AE0: "google",
}
BY_WORD = {
    "nvidia": "nvidia",
    "geforce": "nvidia",
    "nvgpu": "nvidia",
    "radeon": "amd",
    "radv": "amd",
    "amd": "amd",
    "intel": "intel",
    "apple": "apple",
    "mali": "arm",
    "immortalis": "arm",
    "v3d": "broadcom",
    "videocore": "broadcom",
    "adreno": "qualcomm",
    "powervr": "imagination",
    "vivante": "vivante",
    "llvmpipe": "mesa",
    "swiftshader": "google",
}
# Their GPUs are always part of a chip that has the CPU as well.
ONLY_INTEGRATED = frozenset({"apple", "arm", "broadcom", "qualcomm", "imagination", "vivante"})
SOFTWARE = ("llvmpipe", "lavapipe", "swiftshader", "softpipe", "software rasterizer")


def of_number(number: int) -> str:
    """The vendor behind a PCI or Khronos number; "" for one that makes no GPU we know."""
    return BY_NUMBER.get(number, "")


def of_name(name: str) -> str:
    """The vendor that a device's name gives away, or ""."""
    text = name.lower()
    return next((vendor for word, vendor in BY_WORD.items() if word in text), "")


def is_software(name: str) -> bool:
    """A driver that computes on the CPU and calls itself a GPU."""
    return any(word in name.lower() for word in SOFTWARE)
