"""Run the fuzzer by command; see the package."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from .report import Report
from .server import CONFIGURATIONS, fuzz_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz wampkit.")
    parser.add_argument("target", choices=["server", "python", "javascript"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", default=str(time.time_ns()), help="what decides all that is sent")
    parser.add_argument("--only", type=int, help="send what connection N of this seed sent, and nothing else")
    parser.add_argument("--configuration", choices=sorted(CONFIGURATIONS), action="append", help="of the server")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    args = parser.parse_args()
    print(f"python -m tests.fuzz {args.target} --seconds {args.seconds:g} --seed {args.seed} --loop {args.loop}")
    factory = None
    if args.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        report = runner.run(_fuzz(args))
    print(report)
    sys.exit(1 if report.found else 0)


async def _fuzz(args: argparse.Namespace) -> Report:
    if args.target == "server":
        return await fuzz_server(args.seed, args.seconds, args.only, args.configuration)
    from .clients import fuzz_javascript, fuzz_python

    fuzz = fuzz_python if args.target == "python" else fuzz_javascript
    return await fuzz(args.seed, args.seconds, args.only)


if __name__ == "__main__":
    main()
