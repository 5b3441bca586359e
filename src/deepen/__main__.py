"""The command: `deepen`, and `python -m deepen`."""

from __future__ import annotations

from deepen.training.stop import put_off


def main() -> None:
    """Run it; a signal that comes while its own modules are imported waits until it is heeded."""
    put_off()
    from deepen.cli import main

    main()


if __name__ == "__main__":
    main()
