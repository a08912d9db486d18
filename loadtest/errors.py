"""Why a run could not take place."""


class NoRun(Exception):
    """The load test cannot start; the message is one line: what was given and what is allowed."""
