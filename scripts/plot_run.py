"""Draw the curves of a run: python scripts/plot_run.py logs/RUN [--output FILE]."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.plots import draw_run, read_log


def main() -> int:
    """Write RUN/curves.png; 2 when that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, with its log.jsonl")
    parser.add_argument("--output", type=Path, help="picture to write; default: RUN/curves.png")
    args = parser.parse_args()
    output = args.output or args.run / "curves.png"
    try:
        rows = read_log(args.run / "log.jsonl")
        draw_run(rows, title=args.run.resolve().name).savefig(output)
    except (ValueError, OSError) as error:
        print(f"plot_run: {error}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
