"""What a configuration must keep that is about more than one key, or about names of the wire."""

from agent.config import Config
from agent.errors import ConfigError
from agent.explain import short

# They mean this folder and the one above, where a name becomes part of a path or of an ACL's pattern.
DOTS = (".", "..")


def check(config: Config, where: str) -> None:
    """Raises ConfigError; `where` names the configuration in it."""
    _check_pools(config, where)
    _check_clients(config, where)


def _check_pools(config: Config, where: str) -> None:
    pools = config.mqtt.pools
    for index, pool in enumerate(pools):
        if pool in DOTS:
            raise ConfigError(f"{where}: mqtt.pools[{index}]: {pool!r} is not allowed; it is no name")
        if pool in pools[:index]:
            raise ConfigError(f"{where}: mqtt.pools[{index}]: {short(pool)} is there twice")


def _check_clients(config: Config, where: str) -> None:
    for client, rules in config.clients.items():
        if client in DOTS:
            raise ConfigError(f"{where}: clients: {client!r} is not allowed as a key; no client can have it")
        for index, name in enumerate(rules.profiles or ()):
            if name not in config.profiles:
                known = ", ".join(sorted(config.profiles)) or "none"
                raise ConfigError(
                    f"{where}: clients.{client}.profiles[{index}]: {short(name)} is not one of profiles;"
                    f" there are: {known}"
                )
