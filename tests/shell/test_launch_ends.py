"""How a job ends: exit code, last line, requeue; and how its data come to the node."""

import shutil
import subprocess
import time

import pytest

from tests.helpers.shell import WAIT_FOR_STOP, WARNED, last_line, put, requeues, run, submit

pytest_plugins = ["tests.helpers.shell_fixtures"]

JOB = "train_tbx11k"
SAYS_75 = 'echo 75 > "$EXIT_CODE_FILE"; exit 1'
TERM = -15  # ended by Slurm


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("exit 0", 0),
        ("exit 9", 9),
        (SAYS_75, 75),  # main.py's own code, where the launcher has only a 1
        ('echo 2 > "$EXIT_CODE_FILE"; exit 137', 2),
        ("kill -KILL $$", 137),
        (f"trap 'sleep 0.3; exit 6' TERM; kill -TERM $PPID; {WAIT_FOR_STOP} exit 6", 6),  # scancel
        (f"{WARNED} exit 0", 0),  # it was finished just then
        (f"{WARNED} kill -USR1 $PPID; sleep 0.2; kill -USR1 $PPID; exit 5", 5),
    ],
)
def test_a_job_ends_with_the_exit_code_of_its_training(ready, does, code):
    finished = submit(ready, JOB, DOES=does)
    assert finished.returncode == code, finished.stdout
    assert requeues(ready) == []
    assert not list((ready / "logs").glob(".exit_code*"))
    assert not list((ready / "logs").glob("*/stop"))


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("error: no such list", "no such list"),
        (
            "error: an old one\\nEpoch\\nerror: x.py:\\n  a is wrong\\n  b too\\nrank 0 ended",
            "x.py: | a is wrong | b too",
        ),
        (
            "Traceback (most recent call last):\\n  File\\n[rank1]: torch.AcceleratorError: boom\\nlast words",
            "torch.AcceleratorError: boom (traceback above). Once fixed, the run resumes from its last checkpoint, "
            f"if it has one: OUTPUT_DIR=logs/{JOB}_77 sbatch with the same arguments",
        ),
        (
            "rank 1 on node3 was killed by SIGKILL",
            "rank 1 on node3 was killed by SIGKILL. Did it need more memory (sbatch --mem)? To resume from the last "
            f"checkpoint: OUTPUT_DIR=logs/{JOB}_77 sbatch with the same arguments",
        ),
        ("nothing of use", "see above"),
    ],
)
def test_the_last_line_says_what_went_wrong(ready, log, reason):
    finished = submit(ready, JOB, DOES=f"printf '{log}\\n' >&2; exit 3")
    assert last_line(finished) == f"job 77: failed with exit code 3: {reason}"


def test_an_error_of_an_earlier_part_of_the_job_is_not_repeated(ready):
    (ready / "scripts/site.sh").write_text("echo error: long ago\n")
    assert last_line(submit(ready, JOB, DOES="exit 3")) == "job 77: failed with exit code 3: see above"


def test_a_warned_job_saves_and_requeues_itself(ready):
    finished = submit(ready, JOB, DOES=f"{WARNED} {SAYS_75}", SLURM_RESTART_COUNT="2")
    assert finished.returncode == TERM
    assert requeues(ready) == ["requeue 77"]
    assert last_line(finished) == "everything is saved; requeueing job 77, number 3 of at most 20"


def test_a_warning_before_the_training_runs_is_not_lost(ready):
    (ready / "scripts/site.sh").write_text("kill -USR1 $$\n")
    assert submit(ready, JOB, DOES=f"{WAIT_FOR_STOP} {SAYS_75}").returncode == TERM
    assert requeues(ready) == ["requeue 77"]


def test_a_training_that_somebody_else_stopped_is_not_requeued(ready):
    finished = submit(ready, JOB, DOES=SAYS_75)
    assert (finished.returncode, requeues(ready)) == (75, [])
    assert last_line(finished) == (
        "job 77: asked to stop, everything is saved. "
        f"To resume: OUTPUT_DIR=logs/{JOB}_77 sbatch with the same arguments"
    )


def test_a_cancelled_job_is_not_requeued(ready):
    does = f"kill -TERM $PPID; {WAIT_FOR_STOP} {SAYS_75}"
    assert submit(ready, JOB, DOES=does).returncode == 75
    assert requeues(ready) == []


def test_requeues_have_a_limit(ready):
    finished = submit(ready, JOB, DOES=f"{WARNED} {SAYS_75}", SLURM_RESTART_COUNT="2", MAX_REQUEUES="2")
    assert (finished.returncode, requeues(ready)) == (75, [])
    assert "requeued 2 times already and MAX_REQUEUES is 2: not again\n" in finished.stdout


def test_a_job_that_cannot_be_requeued_says_that_everything_is_saved(ready):
    finished = submit(ready, JOB, DOES=f"{WARNED} {SAYS_75}", REQUEUE_FAILS="1")
    assert (finished.returncode, requeues(ready)) == (75, ["requeue 77"])
    assert "asked to stop, everything is saved" in last_line(finished)


def test_a_request_to_stop_that_an_earlier_part_left_behind_is_gone(ready):
    put(ready / f"logs/{JOB}_77/stop", "")
    assert submit(ready, JOB, DOES="[[ ! -e $run/stop ]]").returncode == 0


def test_no_python_says_what_to_do(ready):
    (ready / ".venv/bin/python").unlink()
    bare = ready / "bare"
    bare.mkdir()
    for tool in ("bash", "basename", "sed", "git", "hostname", "head", "readlink", "stat"):
        (bare / tool).symlink_to(shutil.which(tool))
    finished = submit(ready, JOB, PATH=str(bare))
    assert finished.returncode == 2
    assert last_line(finished).startswith("error: no python on PATH; activate the environment in scripts/site.sh")


def test_a_local_run_ends_with_the_exit_code_of_its_training(ready):
    finished = run("bash", "scripts/train_local.sh", cwd=ready, DATA_PATH="data", DOES="exit 9")
    assert finished.returncode == 9
    assert finished.stderr == "this run: failed with exit code 9: see above\n"


def stage(ready, disk, **more):
    """A job that lists the data it is given."""
    does = 'data=$(sed \'s/.* --data_path //; s/ --output_dir.*//\' <<<"$*"); cd "$data" && find -type f | sort; pwd'
    return submit(ready, JOB, STAGE_DATA="1", DOES=does, TMPDIR=str(disk), **more)


def test_data_are_copied_to_the_node_once_and_again_when_they_change(ready, tmp_path):
    disk = tmp_path / "disk"
    (ready / "data/linked.png").symlink_to(ready / "data/imgs/a.png")
    first = stage(ready, disk)
    assert first.returncode == 0, first.stdout
    assert "data: copied to " in first.stdout
    assert "(3 files, 24 bytes)" in first.stdout
    assert "./imgs/a.png\n./linked.png\n./lists/train.txt\n" in first.stdout
    assert last_line(first).startswith(str(disk))
    assert "is up to date (3 files, 24 bytes)" in stage(ready, disk).stdout
    (ready / "data/imgs/a.png").write_text("A PICTURE")
    changed = stage(ready, disk)
    assert "data: copied to " in changed.stdout
    assert next(disk.rglob("a.png")).read_text() == "A PICTURE"


@pytest.mark.parametrize("spoil", [lambda copy: copy.unlink(), lambda copy: copy.write_text("cut")])
def test_a_copy_that_lost_something_is_made_good(ready, tmp_path, spoil):
    stage(ready, tmp_path / "disk")
    copy = next((tmp_path / "disk").rglob("a.png"))
    spoil(copy)
    assert "data: copied to " in stage(ready, tmp_path / "disk").stdout
    assert copy.read_text() == "a picture"


def test_a_copy_that_was_interrupted_is_not_used(ready, tmp_path):
    stage(ready, tmp_path / "disk")
    copy = next((tmp_path / "disk").rglob("data"))
    copy.rename(copy.with_suffix(".part"))
    copy.with_suffix(".state").unlink()
    (copy.with_suffix(".part") / "imgs/a.png").unlink()
    assert "data: copied to " in stage(ready, tmp_path / "disk").stdout
    assert (copy / "imgs/a.png").read_text() == "a picture"
    assert not copy.with_suffix(".part").exists()


def test_two_jobs_at_once_make_one_copy(ready, tmp_path):
    command = ["bash", "scripts/lib/stage_data.sh", "data", str(tmp_path / "disk/data")]
    jobs = [subprocess.Popen(command, cwd=ready, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(job.communicate()[0].split(" on ")[0].split()[1] for job in jobs)
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert said.count("copied") == (1 if shutil.which("flock") else 3)


def test_staging_needs_a_disk_with_room(ready, tmp_path):
    finished = submit(ready, JOB, STAGE_DATA="1")
    assert finished.returncode == 2
    assert last_line(finished).startswith("error: STAGE_DATA=1 needs SLURM_TMPDIR or TMPDIR")
    put(ready / ".venv/bin/df", "#!/usr/bin/env bash\nprintf 'head\\nfs 1 1 0 100%% /\\n'\n")
    finished = stage(ready, tmp_path / "disk")
    assert finished.returncode == 2
    assert "has 0 MB free" in last_line(finished)


def test_slurms_own_folder_on_the_node_comes_first(ready, tmp_path):
    finished = stage(ready, tmp_path / "other", SLURM_TMPDIR=str(tmp_path / "slurms own"))
    assert last_line(finished).startswith(str(tmp_path / "slurms own"))


def test_of_data_with_a_cache_the_cache_is_what_is_staged(ready, tmp_path):
    put(ready / "decoded/train.images", "pixels")
    does = """cat "$(sed 's/.* image_cache=//; s/ --config_file.*//' <<<"$*")/train.images"; echo; echo "$*" """
    finished = submit(ready, JOB, STAGE_DATA="1", IMAGE_CACHE="decoded", DOES=does, TMPDIR=str(tmp_path / "disk"))
    assert "(1 files, 6 bytes)" in finished.stdout
    assert "\npixels\n" in finished.stdout
    assert " --data_path data " in last_line(finished)
    missing = submit(ready, JOB, STAGE_DATA="1", IMAGE_CACHE="nowhere", TMPDIR=str(tmp_path / "disk"))
    assert last_line(missing) == "error: IMAGE_CACHE: there is no folder nowhere to stage"


def test_a_folder_that_is_not_there_cannot_be_staged(ready, tmp_path):
    finished = stage(ready, tmp_path, DATA_PATH="nowhere")
    assert finished.returncode == 2
    assert last_line(finished) == "error: DATA_PATH: there is no folder nowhere to stage"


def test_a_job_waits_for_a_training_that_takes_its_time_to_save(ready):
    began = time.monotonic()
    assert submit(ready, JOB, DOES=f"{WARNED} sleep 1; exit 4").returncode == 4
    assert time.monotonic() - began >= 1
