"""Online: answers requests with a bundle's model; imports no torch. `python -m service` is the way in."""

import model.command  # noqa: F401 - Ctrl-C while a command of this room imports what it needs ends in one line
