"""The `tritonguard` command as a process of its own, in front of a server in memory that takes its time.

    python bulk_process.py SIGNAL COUNT check --in rows.jsonl --out verdicts.jsonl

The process sends itself the signal with request number COUNT; 0: never.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from answers import by_text
from tritonguard import GuardRequest, MockTransport, Verdict
from tritonguard.cli import main

if __name__ == "__main__":
    # A shell ignores it for jobs in the background, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sent, moment = int(sys.argv[1]), int(sys.argv[2])
    numbers = itertools.count(1)

    def answer(request: GuardRequest) -> Verdict:
        if next(numbers) == moment:
            os.kill(os.getpid(), sent)
        return by_text(request)

    sys.exit(main(sys.argv[3:], transport=MockTransport(answer, latency_s=0.005)))
