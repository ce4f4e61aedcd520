"""How a program is started on several processes of this machine."""

import os
import sys


def torchrun(processes: int) -> list[str]:
    """The words before a program's (a file, or -m and a module) and its arguments. Nothing is left in the temporary
    directory, where torchrun by itself makes one for logs at every start and never removes it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--log-dir", os.devnull]
    return [*launcher, "--nproc-per-node", str(processes)]
