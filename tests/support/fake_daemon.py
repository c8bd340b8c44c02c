"""The real daemon over the fake engine: `fake_daemon.py CONFIG STEP_S ROOT`; / is the real machine."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from agent import app, config_file
from agent.errors import TampuError


def main() -> int:
    command = (sys.executable, str(ROOT / "tests" / "support" / "fake_engine.py"), sys.argv[2])
    try:
        return app.main(config_file.load(sys.argv[1]), engine_command=command, root=Path(sys.argv[3]))
    except TampuError as error:
        print(f"tampu: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
