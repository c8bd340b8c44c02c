"""Kills, stops, cuts and fills everything there is, at random from a seed, and counts broken promises.

Real processes over a fake model; README.md beside it says what each row means. Ends with status 1 when there
is a violation.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

from steps import duration, say
from tests.bench.options import count
from tests.bench.report import markdown, this_machine
from tests.faults import storm
from tests.faults.history import Story
from tests.faults.plan import KINDS
from tests.faults.storm import Outcome, Storm
from tests.faults.world import Setting

MIB = 1 << 20
MAX_SHOWN = 20


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    num_prompts, num_faults = (80, len(KINDS)) if options.quick else (options.prompts, options.faults)
    plan = Storm(
        options.seed,
        num_prompts,
        num_faults,
        Setting(num_clients=options.clients),
        ends_within_s=options.ends_within,
        kinds=tuple(options.only or (kind for kind in KINDS if kind not in options.without)),
    )
    # Whoever ends us ends all of it: processes, and the disk that is mounted for the journal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(f"A storm of {num_faults} faults over {num_prompts} prompts, seed {plan.seed}. {this_machine()}")
    with tempfile.TemporaryDirectory(prefix="tampu-faults-") as folder:
        outcome = asyncio.run(storm.run(plan, Path(folder), say))
        if options.logs:
            options.logs.write_text((Path(folder) / "storm" / "daemon" / "daemon.log").read_text())
    say(report(outcome))
    if options.json:
        options.json.write_text(json.dumps(to_tree(outcome), indent=1) + "\n")
    return 1 if outcome.violations else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./build/prove faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--prompts", type=count, default=1000, metavar="N", help="how many (default 1000)")
    parser.add_argument("--faults", type=count, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--clients", type=count, default=8, metavar="N", help="devices (default 8)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another storm (default 1)")
    parser.add_argument("--ends-within", type=float, default=120.0, metavar="S", help="the calm's patience")
    for name in ("only", "without"):
        parser.add_argument(
            f"--{name}", action="append", choices=KINDS, default=[], help="this kind of fault"
        )
    parser.add_argument("--quick", action="store_true", help="every kind of fault once: does it work at all?")
    parser.add_argument("--logs", type=Path, metavar="FILE", help="keep the daemon's log there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    return parser.parse_args(arguments)


def report(outcome: Outcome) -> str:
    """The table, and the violations."""
    lines = [
        f"\nSeed {outcome.storm.seed}, {duration(outcome.took_s)}; the faults by kind:\n",
        markdown([("fault", "times"), ("---",) * 2, *_counts(outcome.faults_done)]),
        *(f"Skipped: {kind}: {why}." for kind, why in outcome.skipped.items()),
        "",
        markdown([("what", "how much"), ("---",) * 2, *rows(outcome)]),
        *(f"  {violation}" for violation in outcome.violations[:MAX_SHOWN]),
        *timelines(outcome),
    ]
    return "\n".join(lines)


def timelines(outcome: Outcome) -> list[str]:
    """What the devices of the first violations sent and heard, in seconds from their first sending."""
    wrong = dict.fromkeys(v.id for v in outcome.violations if v.id)
    return [timeline(story) for story in outcome.history.stories if story.ask.id in list(wrong)[:MAX_SHOWN]]


def timeline(story: Story) -> str:
    """One line: sendings, gets, the cancel, and all frames but runs of deltas."""
    events = [(at, "sent") for at in story.sent_at] + [(at, "get") for at in story.got_at]
    if story.cancelled_at is not None:
        events.append((story.cancelled_at, "cancel"))
    deltas_of = 0
    for one in story.heard:
        is_delta = one.frame.type == "delta"
        if not (is_delta and deltas_of == one.frame.run):
            what = one.frame.code or one.frame.finish_reason or one.frame.phase or one.frame.type
            events.append((one.at_s, f"{what}/{one.frame.run}"))
        deltas_of = one.frame.run if is_delta else 0
    start = min(at for at, _ in events)
    told = " ".join(f"{at - start:.2f}:{what}" for at, what in sorted(events)[:MAX_SHOWN])
    return f"    {story.ask.client}/{story.ask.id} {told}"


def rows(outcome: Outcome) -> list[tuple[str, str]]:
    """One for each figure."""
    history = outcome.history
    first, last = history.footprints[0], history.footprints[-1]
    highest = max(one.private_bytes for one in history.footprints)
    silence_s = max(story.longest_silence_s for story in history.stories)
    return [
        *((f"prompts that ended: {end}", number) for end, number in _counts(outcome.ends)),
        ("refused at first, and asked again", str(sum(story.num_refusals for story in history.stories))),
        ("terminal frames that came again", str(outcome.num_repeats)),
        ("requests sent again by devices", str(outcome.num_resends)),
        ("boots of the daemon", str(outcome.num_boots)),
        ("longest silence towards a device that waits", f"{silence_s:.1f} s"),
        (
            "anonymous memory of the daemon: start, end, highest",
            ", ".join(f"{size / MIB:.1f} MiB" for size in (first.private_bytes, last.private_bytes, highest)),
        ),
        ("descriptors: start, end", f"{first.num_fds}, {last.num_fds}"),
        ("threads: start, end", f"{first.num_threads}, {last.num_threads}"),
        (
            "the journal's folder, highest",
            f"{max(f.journal_bytes for f in history.footprints) / MIB:.1f} MiB",
        ),
        ("violations", str(len(outcome.violations))),
    ]


def to_tree(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.storm.seed,
        "took_s": outcome.took_s,
        "faults": dict(outcome.faults_done),
        "rows": dict(rows(outcome)),
        "violations": [str(violation) for violation in outcome.violations],
    }


def _counts(counter: Counter[str]) -> list[tuple[str, str]]:
    return [(name, str(number)) for name, number in sorted(counter.items())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
