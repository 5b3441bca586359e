"""A search on the digits that is interrupted, killed and resumed, against the recipe's defaults.

    python benchmarks/search.py [--trials 12] [--output FILE]

`deepen search digits --model lenet5 --recipe quick --epochs 4 --validation 300`, as a process: it
gets Ctrl-C as its third trial begins, is killed as its sixth does, and goes on to the end both
times. Trial 0 is the recipe as it stands. What is compared is top-1 on the validation pictures, and
that leans to the best of many trials; the test pictures are scored once, for the best.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from provenance import provenance

SETTING = "digits --model lenet5 --recipe quick --epochs 4 --validation 300"


def run(arguments: list[str], stop_at: str, number: signal.Signals | None) -> tuple[int, str]:
    """Run deepen; send it a signal when this line begins on standard error."""
    command = [sys.executable, "-m", "deepen", *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    assert process.stdout is not None
    for line in process.stderr:
        print(line, end="", file=sys.stderr)
        if number is not None and line.startswith(stop_at):
            process.send_signal(number)
            number = None
    return process.wait(), process.stdout.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, count = str(Path(place) / "search"), str(options.trials)
        start = ["search", *SETTING.split(), "--trials", count, "--output", folder]
        again = ["search", "--resume", folder, "--trials", count]
        statuses = [run(start, "trial 2:", signal.SIGINT)[0]]
        statuses += [run(again, "trial 5:", signal.SIGKILL)[0]]
        status, shown = run([*again, "--json"], "", None)
        statuses += [status]
    found = json.loads(shown)
    whole = [t for t in found["trials"] if t["state"] == "complete"]
    best = max(whole, key=lambda t: (t["top1"], -t["loss"]))
    results = {
        "what": "a search interrupted, killed and resumed, against the recipe's own setting",
        "command": f"deepen search {SETTING} --trials {count}",
        **provenance(),
        "exit statuses": dict(zip(("Ctrl-C", "kill -9", "to the end"), statuses, strict=True)),
        "trials": [
            {key: t[key] for key in ("number", "state", "top1", "loss", "epochs", "values")}
            for t in found["trials"]
        ],
        "validation": "300 of the 898 training pictures, on which the best trial is chosen",
        "default top-1 on validation": whole[0]["top1"],
        "best top-1 on validation": best["top1"],
        "best trial": best["number"],
        "test top-1 of the best trial, scored once": found["scores"]["top1"],
    }
    text = json.dumps(results, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
