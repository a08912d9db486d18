import model.command  # noqa: F401 - Ctrl-C while a command of this room imports what it needs ends in one line
