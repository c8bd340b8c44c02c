"""`python -m agent` is `tampu`."""

import sys

from agent.cli.main import main

sys.exit(main())
