"""Processes that end in the middle of a save, as in a power cut."""

import os
import tempfile

from gems_edge.errors import MachineError

# The calls through which a save changes the disk.
CALLS = [(os, n) for n in ("open", "fsync", "replace", "chmod", "mkdir", "unlink", "close", "fdopen")] + [
    (tempfile, "mkstemp")
]


def in_child(work) -> int:
    """Run `work` in a forked process; its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work() or 0
        except MachineError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_power_at(instant, save):
    """Save in this process, which dies without any clean-up before or after its `instant`-th call."""
    count = 0

    def watched(call):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count == instant:
                os._exit(9)
            result = call(*arguments, **options)
            count += 1
            if count == instant:
                os._exit(9)
            return result

        return wrapper

    for module, name in CALLS:
        setattr(module, name, watched(getattr(module, name)))
    save()
