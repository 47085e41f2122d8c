"""Diagnose a run, finished or still training: python scripts/check_run.py logs/RUN [--json].

Reads log.jsonl of a run folder, and logs of the official DINO code and its forks: log.txt with a JSON object per epoch,
or the console output. For those it also lists the metrics that mislead.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from datasets.checks.expected_results import EXPECTED_RESULTS
from util.base.console import echo
from util.base.errors import UserError
from util.base.text import printable
from util.doctor import OFFICIAL_FILES, diagnose, read_official_log
from util.runlog.history import History, history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS


def main() -> int:
    """0 whatever the verdict, 2 when the log cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, or a log file")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--focal_alpha", type=float, help="of a run of the official code, where its log does not tell")
    args = parser.parse_args()
    try:
        history = read(args.run, {} if args.focal_alpha is None else {"focal_alpha": args.focal_alpha})
    except (UserError, OSError) as error:
        echo(f"check_run: {error}", file=sys.stderr)
        return 2
    diagnosis = diagnose(history, EXPECTED_RESULTS)
    if args.json:
        echo(json.dumps(diagnosis.as_json(), indent=1, allow_nan=False))
    else:
        echo(f"{printable(str(args.run))}: {history.source}, {len(history.epochs)} epochs\n{diagnosis.as_text()}")
    return 0


def read(path: Path, settings: dict[str, float]) -> History:
    """Read the log of a run folder, or a log file.

    Raises:
        UserError: there is no log, or nothing in it can be read.
    """
    if path.is_dir():
        if not any((path / name).is_file() for name in (ROWS, *OFFICIAL_FILES)):
            raise UserError(f"{path}: no {ROWS} and no log.txt in it; expected the folder of a run, or a log file")
        if not (path / ROWS).is_file():
            return read_official_log(path, settings)
        path = path / ROWS
    if not path.is_file():
        raise UserError(f"{path}: does not exist; expected the folder of a run, or a log file")
    rows = read_rows(path)
    return history_of(rows) if rows else read_official_log(path, settings)


if __name__ == "__main__":
    run_program(main)
