"""A Slurm job array of the runs of a study."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from util.base.files import write_atomically
from util.study.design import PlannedRun
from util.study.runs import StudyFolders

JOB = """\
#!/usr/bin/env bash
#SBATCH --job-name=study_{suite}
#SBATCH --output=logs/%x_%A_%a.out
#SBATCH --open-mode=append
#SBATCH --array={array}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
# {count} runs of the study '{suite}', one per task, on one core each. Submit from the repository root: sbatch {file}
# Afterwards: python scripts/measure/study.py --suite {suite} --rebuild. What is missing: --slurm, sbatch again; a run
# that was interrupted goes on.
set -euo pipefail
root=${{SLURM_SUBMIT_DIR:-$PWD}}
[[ -f $root/scripts/common.sh ]] || {{
    echo "error: submit from the repository root (no scripts/common.sh in $root)" >&2
    exit 2
}}
source "$root/scripts/common.sh"

exec python scripts/measure/study.py --suite {suite} --num_seeds {seeds} --runs {runs} --data_path {data} \\
    --run "$SLURM_ARRAY_TASK_ID"
"""


def write_job_array(
    file: Path, runs: Sequence[PlannedRun], missing: Sequence[PlannedRun], folders: StudyFolders
) -> None:
    """Write a job array with one task for each missing run; tasks are numbered as in `runs`."""
    keys = {run.key for run in missing}
    values: dict[str, object] = {
        "suite": runs[0].suite,
        "array": in_ranges([n for n, run in enumerate(runs) if run.key in keys]),
        "count": len(missing),
        "file": file,
        "seeds": len({run.seed for run in runs}),
        "runs": shlex.quote(str(folders.runs)),
        "data": shlex.quote(str(folders.data)),
    }
    write_atomically(file, lambda stream: stream.write(JOB.format(**values).encode()))


def in_ranges(indices: Sequence[int]) -> str:
    """Rising numbers in the notation of Slurm arrays: 0-3,5."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
