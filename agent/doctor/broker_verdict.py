"""What a broker's greeting means for the prompts that should come through it."""

import stat
from pathlib import Path

from agent.config import Mqtt
from agent.doctor.broker import Greeting
from agent.doctor.words import capital, parted, printable
from agent.findings import Finding, Severity
from agent.hardware.listeners import is_local

# OpenSSL's words for a certificate that a clock disagrees with.
DATED = ("not yet valid", "has expired")


def judge(settings: Mqtt, greeting: Greeting) -> list[Finding]:
    """An error with the next step where prompts cannot come in, and what is unwise about the settings."""
    found = [*judge_settings(settings), *_anonymous(settings, greeting)]
    if greeting.trouble:
        code = f"broker_{greeting.trouble}"
        found.insert(0, Finding(Severity.ERROR, code, *_what_and_remedy(settings, greeting)))
    return found


def judge_settings(settings: Mqtt) -> list[Finding]:
    """What is unwise whatever the broker says."""
    return [*_password_file(settings), *_plain(settings)]


def _what_and_remedy(settings: Mqtt, greeting: Greeting) -> tuple[str, str]:
    where, said = f"{settings.host}:{settings.port}", printable(greeting.said)
    match greeting.trouble:
        case "name":
            return (
                f"Nobody knows the broker's name {settings.host}.",
                "Set mqtt.host to its address, or mend the name service (a name in .local needs avahi).",
            )
        case "no_listener":
            return f"No broker listens on {where}.", _start_one(settings)
        case "unreachable":
            return (
                f"The broker at {where} cannot be reached.",
                "See that this box is on the network, no firewall is between, and mqtt.host is right.",
            )
        case "silent":
            is_tls = "" if settings.tls else ": if it is the broker's TLS port, set mqtt.tls.ca"
            what = f"Something listens on {where} and does not answer as a broker ({said})."
            return what, f"Check mqtt.port{is_tls}."
        case "tls":
            reason, step = parted(said.rsplit("cannot be reached: ", 1)[-1])
            what = f"TLS with the broker at {where} fails: {reason}."
            return what, f"{capital(step)}." if step else _mend_tls(said)
        case "credentials":
            return (
                f"The broker at {where} does not let in {_who(settings)}.",
                "Set mqtt.username and mqtt.password_file to what the broker knows (see `mosquitto_passwd`).",
            )
        case "unreadable":
            what, step = parted(said)
            return f"{what}.", step or "Give the file to the daemon's user, and run the doctor as that user."
        case _:
            return f"The broker at {where} refuses the connection ({said}).", "See its log for the reason."


def _who(settings: Mqtt) -> str:
    return "a client without a name" if settings.username is None else f"the user {settings.username!r}"


def _start_one(settings: Mqtt) -> str:
    if is_local(settings.host):
        return "Start one (`sudo apt-get install mosquitto` does), or set mqtt.host and mqtt.port."
    return "Start it there, let it listen on this network, or set mqtt.host and mqtt.port."


def _mend_tls(said: str) -> str:
    if any(word in said for word in DATED):
        return "Compare the certificate's dates with this box's clock, and mend the one that is wrong."
    if "CERTIFICATE_VERIFY_FAILED" not in said:
        return "Check that mqtt.port is its TLS port, and whether it asks for mqtt.tls.cert and mqtt.tls.key."
    if "match" in said or "not valid for" in said:
        return "Set mqtt.host to a name that stands in the broker's certificate."
    return "Set mqtt.tls.ca to the authority that signed the broker's certificate."


def _password_file(settings: Mqtt) -> list[Finding]:
    path = settings.password_file
    if path is None:
        return []
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return []  # the connection has said so
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return []
    what = f"Everybody on this box may open the file of the broker's password, {path}."
    return [Finding(Severity.WARNING, "password_file_open", what, f"Close it with: chmod o-rwx {path}")]


def _plain(settings: Mqtt) -> list[Finding]:
    if settings.tls is not None or settings.password_file is None or is_local(settings.host):
        return []
    what = f"The broker's password and every prompt go to {settings.host} unencrypted."
    remedy = "Give the broker a TLS listener, and set mqtt.port and mqtt.tls.ca."
    return [Finding(Severity.WARNING, "broker_plain_password", what, remedy)]


def _anonymous(settings: Mqtt, greeting: Greeting) -> list[Finding]:
    """Whoever reaches such a broker may ask, read what others ask, and call the box names."""
    if greeting.trouble or not greeting.is_anonymous:
        return []
    is_near = is_local(settings.host) and not greeting.is_exposed
    has_name = settings.username is not None or (settings.tls is not None and settings.tls.cert is not None)
    who = (
        "also lets in clients without a name" if has_name else "lets in clients without a name, as it does us"
    )
    reach = "every program on this box" if is_near else "everybody on the network"
    what = f"The broker at {settings.host}:{settings.port} {who}: {reach} may ask, and read all answers."
    remedy = "Set `allow_anonymous false` with a password_file and an acl_file in mosquitto's configuration"
    remedy += "." if has_name else ", and mqtt.username and mqtt.password_file here."
    severity = Severity.NOTE if is_near else Severity.WARNING
    return [Finding(severity, "broker_anonymous", what, remedy)]
