"""x86 microarchitectures by vendor, family and model: names of products say nothing about AVX.

Sources: Linux's arch/x86/include/asm/intel-family.h and AMD's processor programming references.
"""

VENDORS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "CentaurHauls": "VIA",
    "Shanghai": "Zhaoxin",
    "GenuineTMx86": "Transmeta",
    "Geode by NSC": "NSC",
    "Vortex86 SoC": "DM&P",
    # As lscpu writes an ARM designer.
    "Nvidia": "NVIDIA",
}
# Intel, family 6.
INTEL: dict[int, str] = {
    model: name
    for name, models in {
        "Pentium M": (9, 13),
        "Yonah": (14,),
        "Merom": (15, 22),
        "Penryn": (23, 29),
        "Bonnell": (28, 38, 39, 53, 54),
        "Nehalem": (26, 30, 31, 46),
        "Westmere": (37, 44, 47),
        "Sandy Bridge": (42, 45),
        "Ivy Bridge": (58, 62),
        "Haswell": (60, 63, 69, 70),
        "Broadwell": (61, 71, 79, 86),
        "Skylake": (78, 94),
        "Skylake-SP": (85,),
        "Kaby Lake": (142, 158),
        "Comet Lake": (165, 166),
        "Cannon Lake": (102,),
        "Ice Lake": (125, 126),
        "Ice Lake-SP": (106, 108),
        "Tiger Lake": (140, 141),
        "Rocket Lake": (167,),
        "Alder Lake": (151, 154),
        "Alder Lake-N": (190,),
        "Raptor Lake": (183, 186, 191),
        "Meteor Lake": (170, 172),
        "Arrow Lake": (181, 197, 198),
        "Lunar Lake": (189,),
        "Panther Lake": (204,),
        "Sapphire Rapids": (143,),
        "Emerald Rapids": (207,),
        "Granite Rapids": (173, 174),
        "Sierra Forest": (175,),
        "Lakefield": (138,),
        "Silvermont": (55, 74, 77, 90, 93),
        "Airmont": (76, 117),
        "Goldmont": (92, 95),
        "Goldmont Plus": (122,),
        "Snow Ridge": (134,),
        "Elkhart Lake": (150,),
        "Jasper Lake": (156,),
        "Knights Landing": (87,),
        "Knights Mill": (133,),
    }.items()
    for model in models
}
# The fast and the slow cores of hybrid chips.
HYBRID = {
    "Lakefield": ("Sunny Cove", "Tremont"),
    "Alder Lake": ("Golden Cove", "Gracemont"),
    "Raptor Lake": ("Raptor Cove", "Gracemont"),
    "Meteor Lake": ("Redwood Cove", "Crestmont"),
    "Arrow Lake": ("Lion Cove", "Skymont"),
    "Lunar Lake": ("Lion Cove", "Skymont"),
    "Panther Lake": ("Cougar Cove", "Darkmont"),
}
# AMD: (family, first model, last model).
AMD: tuple[tuple[int, int, int, str], ...] = (
    (15, 0, 255, "K8"),
    (16, 0, 255, "K10"),
    (17, 0, 255, "Griffin"),
    (18, 0, 255, "Llano"),
    (20, 0, 255, "Bobcat"),
    (21, 0x00, 0x01, "Bulldozer"),
    (21, 0x02, 0x1F, "Piledriver"),
    (21, 0x30, 0x3F, "Steamroller"),
    (21, 0x60, 0x7F, "Excavator"),
    (22, 0x00, 0x2F, "Jaguar"),
    (22, 0x30, 0x3F, "Puma"),
    (23, 0x08, 0x08, "Zen+"),
    (23, 0x18, 0x18, "Zen+"),
    (23, 0x00, 0x2F, "Zen"),
    (23, 0x30, 0xFF, "Zen 2"),
    (25, 0x10, 0x1F, "Zen 4"),
    (25, 0x40, 0x4F, "Zen 3+"),
    (25, 0x60, 0x7F, "Zen 4"),
    (25, 0xA0, 0xAF, "Zen 4c"),
    (25, 0x00, 0xFF, "Zen 3"),
    (26, 0x50, 0x5F, "Zen 6"),
    (26, 0x80, 0xFF, "Zen 6"),
    (26, 0x00, 0x7F, "Zen 5"),
)


def vendor_name(vendor_id: str) -> str:
    """The maker behind a vendor_id; the id itself where it is not known."""
    return VENDORS.get(vendor_id, vendor_id)


def microarchitecture(
    vendor: str, family: int | None, model: int | None, words: frozenset[str] = frozenset()
) -> str:
    """The name; "" where the tables do not know. `words`: three server generations share one model number."""
    if family is None or model is None:
        return ""
    if vendor == "Intel":
        if family == 6 and model == 85 and "avx512_vnni" in words:
            return "Cooper Lake" if "avx512_bf16" in words else "Cascade Lake"
        return INTEL.get(model, "") if family == 6 else {5: "P5", 15: "NetBurst"}.get(family, "")
    if vendor == "AMD":
        return next((name for at, low, high, name in AMD if at == family and low <= model <= high), "")
    if vendor == "Hygon":
        return "Dhyana"
    if vendor in {"VIA", "Zhaoxin"}:
        return _centaur(family, model)
    return ""


def _centaur(family: int, model: int) -> str:
    """VIA's cores, and Zhaoxin's that came of them; early ones of those keep VIA's vendor_id."""
    if family == 7:
        return {0x1B: "WuDaoKou", 0x3B: "LuJiaZui", 0x5B: "ShiJiDaDao"}.get(model, "ZhangJiang")
    return {0x0F: "Nano", 0x19: "ZhangJiang", 0x1F: "Nano"}.get(model, "C7" if model in {10, 13} else "")
