"""Real certificates for tests, of an authority of one's own, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIG = """
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
new_certs_dir = {folder}
certificate = {folder}/ca.crt
private_key = {folder}/ca.key
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[req]
distinguished_name = name
[name]
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    cert: Path
    key: Path


class Authority:
    """Signs what it is asked to; `ca` is who believes it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._config = folder / "ca.cnf"
        self._config.write_text(_CONFIG.format(folder=folder))
        (folder / "index.txt").touch()
        extensions = (
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        )
        names = ("-subj", "/CN=authority", "-keyout", str(folder / "ca.key"), "-out", str(self.ca))
        self._openssl("req", "-x509", *_EC, "-days", "3650", *extensions, *names)

    def issue(
        self,
        name: str,
        alternative: str = "IP:127.0.0.1",
        starts: str = "20200101000000Z",
        ends: str = "20990101000000Z",
    ) -> Certificate:
        """A certificate of this common name. Dates as openssl has them."""
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}")
        self._openssl("req", *_EC, *subject, "-keyout", str(made.key), "-out", str(request))
        dates = ("-startdate", starts, "-enddate", ends)
        self._openssl("ca", "-batch", "-notext", *dates, "-in", str(request), "-out", str(made.cert))
        return made

    def _openssl(self, verb: str, *words: str) -> None:
        command = ["openssl", verb, "-config", str(self._config), *words]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
