"""Draw the dashboard of a run, or compare runs: python scripts/plot_run.py logs/RUN [logs/RUN ...] [--output FILE].

Works on runs that are still going; a panel without data says why. A warning tells runs that were evaluated on different
ground truth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from util.base.console import echo
from util.config.command_line import Parser
from util.plots.curves import load_run, names_of
from util.plots.dashboard import draw_dashboard, warn_of_other_data
from util.plots.style import save_figure


def main() -> None:
    """Write RUN/curves.png, or compare.png beside the first of several runs."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, with its log.jsonl")
    parser.add_argument(
        "--output", type=Path, help="picture; default: RUN/curves.png, of several runs RUN/../compare.png"
    )
    args = parser.parse_args()
    runs = args.runs
    output = args.output or (runs[0] / "curves.png" if len(runs) == 1 else runs[0].resolve().parent / "compare.png")
    loaded = [load_run(folder, name) for folder, name in zip(runs, names_of(runs), strict=True)]
    save_figure(draw_dashboard(loaded), output)
    if warning := warn_of_other_data(loaded):
        echo(warning, file=sys.stderr)
    echo(output)


if __name__ == "__main__":
    run_program(main)
