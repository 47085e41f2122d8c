"""Ask the doctor about a run, finished or going on: python scripts/check_run.py logs/RUN [--json].

Reads log.jsonl of a run folder, and logs of the official DINO code and its forks: log.txt with a JSON object per epoch,
or what the console said. Of those it also says which figures are artefacts.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from util.base.console import echo
from util.base.errors import UserError
from util.base.text import printable
from util.config.command_line import Parser
from util.doctor.diagnosis import diagnose
from util.doctor.official_logs.read import FILES, read_foreign
from util.runlog.history import History, history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS


def main() -> None:
    """Print the diagnosis; the exit code is 0 whatever the verdict."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a log file")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--focal_alpha", type=float, help="of a run of the official code, where its log does not tell")
    args = parser.parse_args()
    history = read(args.run, {} if args.focal_alpha is None else {"focal_alpha": args.focal_alpha})
    found = diagnose(history)
    if args.json:
        echo(json.dumps(found.as_json(), indent=1, allow_nan=False))
    else:
        echo(f"{printable(str(args.run))}: {history.source}, {len(history.epochs)} epochs\n{found.as_text()}")


def read(path: Path, stated: dict[str, float]) -> History:
    """The history that a folder or a file tells.

    Raises:
        UserError: there is no log, or nothing in it can be read.
    """
    if path.is_dir():
        if not any((path / name).is_file() for name in (ROWS, *FILES)):
            raise UserError(f"{path}: no {ROWS} and no log.txt in it; expected the folder of a run, or a log file")
        if not (path / ROWS).is_file():
            return read_foreign(path, stated)
        path = path / ROWS
    if not path.is_file():
        raise UserError(f"{path}: does not exist; expected the folder of a run, or a log file")
    rows = read_rows(path)
    return history_of(rows) if rows else read_foreign(path, stated)


if __name__ == "__main__":
    run_program(main)
