"""The errors that a command reports in one line."""


class UserError(Exception):
    """Bad input. The message says in one line what is wrong and what to do; the exit code is 2."""


class MachineError(Exception):
    """The machine failed (disk full, a process died). One line; the exit code is 1."""


class Terminated(BaseException):
    """SIGTERM came. One line, which says what is left and how to go on; the exit code is 143, as that of shells."""
