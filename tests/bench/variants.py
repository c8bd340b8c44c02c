"""How llama-server is set beside Tampu."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.engine_process import SPIN_COUNT


@dataclass(frozen=True, slots=True)
class Variant:
    """Options and environment besides what every llama-server here gets: the model and the threads."""

    name: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def sized(self, n_ctx: int, num_slots: int) -> "Variant":
        """With a context of so many tokens, divided among so many slots."""
        sizes = ("-c", str(n_ctx), "-np", str(num_slots))
        return replace(self, name=f"{self.name} {' '.join(sizes)}", options=(*self.options, *sizes))


DEFAULT = Variant("llama-server")
# As our engine sets llama.cpp. The clients run on the same cores: threads that spin for long are slower
# beside them, and that llama-server's do so by default would otherwise count for us.
ALIKE = Variant("llama-server set alike", ("--no-repack",), {"GOMP_SPINCOUNT": SPIN_COUNT})
ALIKE_MEANS = f"`set alike`: --no-repack, GOMP_SPINCOUNT={SPIN_COUNT}, as the daemon's engine has it"
