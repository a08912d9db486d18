"""Whether a journal's folder can be written. The parent asks, which has neither numpy nor codings in its memory."""

from pathlib import Path
from secrets import token_hex


def check_folder(folder: Path) -> None:
    """Makes it where it is not there, and writes to it once. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"{token_hex(8)}.probe"
    try:
        with probe.open("xb") as file:
            file.write(b"\n")
    finally:
        probe.unlink(missing_ok=True)
