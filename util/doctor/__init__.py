"""The doctor: diagnoses from the log why a training does not learn. Only `util.doctor.checkup` needs torch."""

from util.doctor.diagnosis import CANNOT_TELL, HEALTHY, diagnose
from util.doctor.official_logs.read import OFFICIAL_FILES, read_official_log
from util.doctor.symptoms.cause import FAILING, NOTE, SUSPICIOUS

__all__ = [
    "CANNOT_TELL",
    "FAILING",
    "HEALTHY",
    "NOTE",
    "OFFICIAL_FILES",
    "SUSPICIOUS",
    "diagnose",
    "read_official_log",
]
