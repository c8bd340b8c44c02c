"""The engine's sandbox, tried in a child process: what it gives up is really gone."""

import subprocess
import sys

import pytest

TRY = """
import errno, os, socket, subprocess, sys, tempfile
folder = tempfile.mkdtemp()
existing = os.path.join(folder, "there")
open(existing, "w").close()
listener = socket.create_server(("127.0.0.1", 0))
from agent.engine.sandbox import restrict
said = restrict()
def refused(action):
    try:
        action()
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EPERM)
    return False
print(said)
print("create", refused(lambda: open(os.path.join(folder, "new"), "w")))
print("write", refused(lambda: open(existing, "w")))
print("remove", refused(lambda: os.remove(existing)))
print("run", refused(lambda: subprocess.run(["/bin/true"])))
print("connect", refused(lambda: socket.create_connection(listener.getsockname())))
print("read", not refused(lambda: open(existing).read()))
print("device", not refused(lambda: open("/dev/null", "w").write("x")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's")
def test_the_engine_can_read_and_compute_and_little_else() -> None:
    """No new file, no write, no removal, no program, no TCP; reading and device files still work."""
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, timeout=30, check=True)
    said, *lines = done.stdout.splitlines()
    if said.startswith("none"):
        pytest.skip(f"this kernel gives no sandbox: {said}")
    results = dict(line.split() for line in lines)
    if "no TCP" not in said:
        del results["connect"]
    assert set(results.values()) == {"True"}, done.stdout
