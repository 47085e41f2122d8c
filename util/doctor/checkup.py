"""The doctor's visit at the end of an epoch."""

from util.base.errors import ReportedByOtherRank, RunFailingError
from util.base.launcher import ProcessInfo
from util.distributed.collectives import gather_objects
from util.distributed.exit_codes import FAILED
from util.doctor.diagnosis import Diagnosis, diagnose
from util.doctor.symptoms import FAILING, NOTE
from util.runlog.history import history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS, RunLog


def consult(log: RunLog, process: ProcessInfo, on_failing: str) -> None:
    """Let the doctor read the log; all ranks stop together where a failing run shall.

    Raises:
        RunFailingError: the doctor calls the run failing, and on_failing is "stop"; ReportedByOtherRank on other ranks.
    """
    is_failing = gather_objects(check_up(log))[0]
    if is_failing and on_failing == "stop":
        if not process.is_main:
            raise ReportedByOtherRank(FAILED)
        raise RunFailingError("the doctor calls this run failing, and on_failing is 'stop'; its checkpoint is kept")


def check_up(log: RunLog) -> bool:
    """Read the run's own log and tell the verdict on its newest epoch; whether the run is failing.

    Nothing of it becomes a row: the same rows give the same verdict at any time.
    """
    if log.folder is None:
        return False
    found = diagnose(history_of(read_rows(log.folder / ROWS)))
    log.info(summary(found))
    return found.verdict == FAILING


def summary(found: Diagnosis) -> str:
    """One line where all is well, the causes and their mends where not."""
    serious = [cause for cause in found.causes if cause.level != NOTE]
    lines = [f"doctor: {found.verdict}", *(f"  {c.name}: {c.evidence}\n    mend: {c.mend}" for c in serious)]
    return "\n".join(lines)
