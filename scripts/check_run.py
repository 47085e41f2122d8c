"""Diagnose a run, finished or still training: python scripts/check_run.py logs/RUN [--json].

Reads log.jsonl of a run folder, and logs of the official DINO code and its forks: log.txt with a JSON object per epoch,
or the console output. For those it also lists the metrics that mislead.
"""

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
from util.config.command_line import Parser
from util.doctor import OFFICIAL_FILES, diagnose, read_official_log
from util.runlog.history import History, history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS


def main() -> None:
    """Print the diagnosis; the exit code is 0 whatever the verdict."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a log file")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--focal_alpha", type=float, help="of a run of the official code, if its log does not have it")
    args = parser.parse_args()
    history = read(args.run, {} if args.focal_alpha is None else {"focal_alpha": args.focal_alpha})
    diagnosis = diagnose(history, EXPECTED_RESULTS)
    if args.json:
        echo(json.dumps(diagnosis.as_json(), indent=1, allow_nan=False))
    else:
        echo(f"{printable(str(args.run))}: {history.source}, {len(history.epochs)} epochs\n{diagnosis.as_text()}")


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
