"""`python -m deepen`, the same as the command."""

from __future__ import annotations

from deepen.cli import main

if __name__ == "__main__":
    main()
