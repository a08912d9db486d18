"""Why a run could not take place."""


class NoRun(Exception):
    """The load test cannot start; the message is one line: what was given and what is allowed."""


class OneCore(NoRun):
    """Two cores are needed, one for the service and one for what loads it, and there is one to choose from."""
