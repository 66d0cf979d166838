"""Runs one command, passes on the request to end, and keeps its exit code: python keep.py FILE COMMAND...

Of the standard library alone, as it stays for as long as the job does.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def keep(file: str, command: Sequence[str]) -> int:
    """The exit code, which goes into `file`, too, if one is named: below 0 for a signal, as subprocess has it."""
    asked: list[int] = []
    process: subprocess.Popen | None = None

    def note(*_: object) -> None:
        asked.append(1)
        if process:
            process.terminate()

    signal.signal(signal.SIGTERM, note)
    try:
        process = subprocess.Popen(command, preexec_fn=end_with_parent)
    except OSError as e:
        print(e, file=sys.stderr)
        code = 127  # as shells say it
    else:
        if asked:
            process.terminate()
        code = process.wait()
    if file:
        with open(f"{file}.partial", "w") as f:
            f.write(str(code))
        os.replace(f"{file}.partial", file)
    return code


def end_with_parent() -> None:
    """A job whose keeper was killed is asked to end: nobody would know of it any more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    code = keep(sys.argv[1], sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
