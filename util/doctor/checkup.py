"""The doctor's check at the end of every epoch of a training."""

from util.base.errors import ReportedByOtherRank, RunFailingError
from util.base.launcher import ProcessInfo
from util.distributed.collectives import gather_objects
from util.distributed.exit_codes import FAILED
from util.doctor.diagnosis import Diagnosis, diagnose
from util.doctor.expectations import ExpectedResults
from util.doctor.symptoms.cause import FAILING, NOTE
from util.runlog.history import history_of
from util.runlog.rows import read_rows
from util.runlog.run_log import ROWS, RunLog


def check_progress(log: RunLog, process: ProcessInfo, on_failing: str, expected: ExpectedResults) -> None:
    """Diagnose the run from its log and log the result; with on_failing="stop" all ranks leave a failing run.

    Raises:
        RunFailingError: the run is failing, and on_failing is "stop"; ReportedByOtherRank on other ranks.
    """
    is_failing = gather_objects(log_diagnosis(log, expected))[0]
    if is_failing and on_failing == "stop":
        if not process.is_main:
            raise ReportedByOtherRank(FAILED)
        raise RunFailingError("the doctor calls this run failing, and on_failing is 'stop'; its checkpoint is kept")


def log_diagnosis(log: RunLog, expected: ExpectedResults) -> bool:
    """Log the verdict on the newest epoch; return whether the run is failing.

    Nothing of it becomes a row of the log, so that the same rows give the same verdict at any time.
    """
    if log.folder is None:
        return False
    diagnosis = diagnose(history_of(read_rows(log.folder / ROWS)), expected)
    log.info(summary(diagnosis))
    return diagnosis.verdict == FAILING


def summary(diagnosis: Diagnosis) -> str:
    """The verdict in one line, followed by causes and fixes if there are any."""
    serious = [cause for cause in diagnosis.causes if cause.level != NOTE]
    lines = [f"doctor: {diagnosis.verdict}", *(f"  {c.name}: {c.evidence}\n    fix: {c.fix}" for c in serious)]
    return "\n".join(lines)
