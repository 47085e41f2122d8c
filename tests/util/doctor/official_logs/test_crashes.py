"""What ended a run is named with its rank, from the forms in which PyTorch, CUDA, Slurm and the kernel report it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.util.doctor.official_logs.test_read import row, step, write
from util.doctor import FAILING, NOTE, SUSPICIOUS, diagnose, read_official_log
from util.doctor.official_logs.crashes import KINDS, PYTHON_ERROR, CrashParser
from util.doctor.symptoms.crash import FIXES

TRACEBACK = "Traceback (most recent call last):\n  File 'main.py', line 3, in main\n"
REPORT = """\
ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: {code}) local_rank: 1 (pid: 77) of binary: python
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
main.py FAILED
Failures:
[1]:
  rank      : 2 (local_rank: 2)
  exitcode  : 1 (pid: 78)
Root Cause (first observed failure):
[0]:
  time      : 2023-01-01_00:00:00
  rank      : 5 (local_rank: 1)
  exitcode  : {code} (pid: 77)
  error_file: <N/A>
"""
OOM = "RuntimeError: CUDA out of memory. Tried to allocate 1.21 GiB (GPU 3; 23.70 GiB total capacity; ...)\n"
CASES = [  # text, cause, where
    (TRACEBACK + OOM, "cuda_out_of_memory", "GPU 3"),
    (TRACEBACK + OOM + REPORT.format(code=1), "cuda_out_of_memory", "rank 5, exit code 1"),
    ("[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\n", "cuda_out_of_memory", "rank 1"),
    ("1: torch.cuda.OutOfMemoryError: CUDA out of memory. Tried\n", "cuda_out_of_memory", "rank 1"),
    ("RuntimeError: CUDA error: out of memory\n", "cuda_out_of_memory", "a rank that the log does not name"),
    (
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)\n[rank1]: " + OOM,
        "cuda_out_of_memory",
        "rank 1",
    ),
    ("RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED\n", "cudnn_not_initialised", ""),
    ("RuntimeError: CUDA error: device-side assert triggered\n", "label_out_of_range", ""),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device\n", "cuda_error", ""),
    ("[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE)\n", "nccl_timeout", "rank 3"),
    (
        "slurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2023-01-01T01:02:03 DUE TO TIME LIMIT ***\n",
        "time_limit",
        "",
    ),
    ("slurmstepd: error: *** STEP 77.0 ON n1 CANCELLED AT 2023-01-01T01:02:03 ***\n", "cancelled", ""),
    ("srun: error: n1: task 3: Out Of Memory\n", "killed_for_memory", "rank 3"),
    ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.\n", "killed_for_memory", ""),
    ("run.sh: line 4:  1234 Killed                  python main.py\n", "killed_for_memory", ""),
    ("Killed\n", "killed_for_memory", ""),
    ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Killed.\n", "killed_for_memory", ""),
    (REPORT.format(code=-9), "killed_for_memory", "rank 5, exit code -9"),
    (REPORT.format(code=-11), "segmentation_fault", "rank 5, exit code -11"),
    (OOM + REPORT.format(code=1).splitlines()[0], "cuda_out_of_memory", "local rank 1, exit code 1"),
    (REPORT.format(code=1), "process_failed", "rank 5, exit code 1"),
    ("Segmentation fault (core dumped)\n", "segmentation_fault", ""),
    ("died with <Signals.SIGSEGV: 11>.\n", "segmentation_fault", ""),
    (
        "RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory.\n",
        "bus_error",
        "",
    ),
    ("ModuleNotFoundError: No module named 'MultiScaleDeformableAttention'\n", "no_deformable_attention", ""),
    ("ModuleNotFoundError: No module named 'pycocotools'\n", "missing_module", ""),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'a/instances_train2017.json'\n", "missing_file", ""),
    ("OSError: [Errno 28] No space left on device\n", "disk_full", ""),
    ("RuntimeError: The server socket has failed to bind: EADDRINUSE\n", "port_in_use", ""),
    (TRACEBACK + "KeyError: 'bbox'\n", "python_error", ""),
    (TRACEBACK + "[rank2]: AssertionError\n", "python_error", "rank 2"),
]


def causes(path):
    return {cause.name: cause for cause in diagnose(read_official_log(path)).causes}


@pytest.mark.parametrize(("text", "name", "where"), CASES)
def test_the_cause_and_the_rank_are_named_without_an_epoch_in_the_log(text, name, where, tmp_path):
    found = diagnose(read_official_log(write(tmp_path, "Loading config file\n", text)))
    (cause,) = found.causes
    assert (cause.name, found.verdict) == (name, SUSPICIOUS if name in ("time_limit", "cancelled") else FAILING)
    assert cause.evidence.startswith(f"ended on {where or 'a rank that the log does not name'}")
    assert cause.fix


@pytest.mark.parametrize("name", [kind.name for kind in KINDS] + [PYTHON_ERROR])
def test_every_kind_has_a_fix_and_a_case(name):
    assert FIXES[name]
    assert name in {case[1] for case in CASES}


def test_a_crash_after_epochs_is_the_first_cause_and_keeps_the_metrics(tmp_path):
    lines = [step(0, i) for i in range(0, 100, 10)] + [step(1, 0), TRACEBACK, OOM]
    found = diagnose(read_official_log(write(tmp_path, *lines)))
    assert (found.verdict, found.causes[0].name, found.epoch) == (FAILING, "cuda_out_of_memory", 1)
    assert found.evidence["epoch"] == 1


def test_a_crash_from_which_the_training_was_resumed_is_a_note(tmp_path):
    lines = [step(0, 0), step(0, 10), OOM, step(0, 0), step(0, 10), step(0, 20), step(0, 30)]
    cause = causes(write(tmp_path, *lines))["cuda_out_of_memory"]
    assert cause.level == NOTE
    assert cause.evidence.startswith("over now")
    again = causes(write(tmp_path, *lines, "Segmentation fault\n"))
    assert "segmentation_fault" in again
    assert again["segmentation_fault"].level == FAILING


def test_a_healthy_log_has_no_crash(tmp_path):
    log = read_official_log(write(tmp_path, *(row(n) for n in range(3)), "Training time 1:00:00\n"))
    assert log.crashes == ()


@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_text_is_read(lines):
    parser = CrashParser()
    for line in lines:
        parser.feed(line, 0, 0)
    assert len(parser.crashes(0)) <= 1
