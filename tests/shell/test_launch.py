"""What the job scripts make of an allocation, of warnings and of ends, with stand-ins for Python and Slurm."""

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.helpers.shell import ROOT, last_line, put, run, submit

pytest_plugins = ["tests.helpers.shell_fixtures"]

JOBS = {
    "train_tbx11k": (2, ["--config_file", "config/DINO/DINO_4scale_tbx11k.py"]),
    "train_tbx11k_1gpu": (1, ["--config_file", "config/DINO/DINO_4scale_tbx11k_1gpu.py"]),
    "train_tbx11k_multinode": (1, ["--config_file", "config/DINO/DINO_4scale_tbx11k.py"]),
    "eval_tbx11k": (1, ["--eval"]),
}
ONE_NODE = ["python", "scripts/lib/ranks.py", "--standalone", "--nproc_per_node"]


def command_of(finished):
    """The words of the printed command."""
    assert finished.returncode == 0, finished.stdout
    [line] = [line for line in finished.stdout.splitlines() if line.startswith("command: ")]
    return shlex.split(line)[1:]


def value(command, flag):
    """The last value of a flag, which is the one that counts."""
    return command[len(command) - command[::-1].index(flag)]


def dry_run(repo, job, *arguments, **environment):
    return command_of(submit(repo, job, *arguments, DRY_RUN="1", **environment))


@pytest.mark.parametrize("job", JOBS)
def test_a_job_starts_main_on_every_gpu_of_its_allocation(ready, job):
    command = dry_run(ready, job, "--options", "amp=bf16", DATA_PATH="my data/TBX11K", SLURM_GPUS_ON_NODE="3")
    place = ["main.py", "--data_path", "my data/TBX11K", "--output_dir", f"logs/{job}_77"]
    assert command == [*ONE_NODE, "3", *place, *JOBS[job][1], "--options", "amp=bf16"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_asks_for_the_gpus_its_config_is_made_for(job):
    lines = (ROOT / f"scripts/{job}.sbatch").read_text().splitlines()
    assert f"#SBATCH --gpus-per-node={JOBS[job][0]}" in lines
    assert "#SBATCH --output=logs/%x_%j.out" in lines
    assert "#SBATCH --open-mode=append" in lines
    for line in ("#SBATCH --requeue", "#SBATCH --signal=B:USR1@300"):
        assert (line in lines) == job.startswith("train")


@pytest.mark.parametrize("given", [{"SLURM_GPUS_ON_NODE": "0"}, {}])
def test_without_a_gpu_in_the_allocation_one_rank_runs_on_the_cpu(ready, given):
    command = dry_run(ready, "train_tbx11k", **given)
    assert command[:5] == [*ONE_NODE, "1"]
    assert value(command, "--device") == "cpu"


def test_the_user_may_say_how_many_ranks(ready):
    command = dry_run(ready, "train_tbx11k", SLURM_GPUS_ON_NODE="4", GPUS="2")
    assert command[:5] == [*ONE_NODE, "2"]
    assert "--device" not in command


@pytest.mark.parametrize(("cpus", "ranks", "workers"), [(10, 2, 4), (5, 1, 4), (2, 2, 1), (1, 2, 1), (64, 1, 8)])
def test_loader_processes_follow_from_the_cpus_and_the_user_wins(ready, cpus, ranks, workers):
    allocation = {"SLURM_CPUS_PER_TASK": str(cpus), "SLURM_GPUS_ON_NODE": str(ranks)}
    command = dry_run(ready, "train_tbx11k", "--options", "num_workers=7", **allocation)
    own, users = (i for i, word in enumerate(command) if word.startswith("num_workers="))
    assert command[own] == f"num_workers={workers}"
    assert (own < users, command[users]) == (True, "num_workers=7")


def test_a_cache_of_the_images_reaches_the_training(ready):
    command = dry_run(ready, "train_tbx11k", "--options", "lr=1", IMAGE_CACHE="my cache")
    assert command.index("image_cache=my cache") < command.index("lr=1")
    assert not [word for word in dry_run(ready, "train_tbx11k") if word.startswith("image_cache")]


def test_threads_follow_from_the_cpus_of_a_rank(ready):
    job = {"DOES": "echo threads $OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK": "10", "SLURM_GPUS_ON_NODE": "2"}
    assert "threads 5\n" in submit(ready, "train_tbx11k", **job).stdout
    assert "threads 3\n" in submit(ready, "train_tbx11k", **job, OMP_NUM_THREADS="3").stdout


def test_several_nodes_meet_at_the_first_on_a_port_of_the_job(ready):
    nodes = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[5-6]", "SLURM_RESTART_COUNT": "3"}
    command = dry_run(ready, "train_tbx11k_multinode", SLURM_GPUS_ON_NODE="1", **nodes)
    start = command[2 : command.index("main.py")]
    assert start[:-4] == shlex.split("--nnodes 2 --nproc_per_node 1 --max_restarts 0 --rdzv_backend c10d")
    assert start[-4:] == shlex.split("--rdzv_endpoint node5:15077 --rdzv_id 77.3")
    other = dry_run(ready, "train_tbx11k_multinode", **nodes, SLURM_JOB_ID="78")
    assert value(other, "--rdzv_endpoint") == "node5:15078"
    assert submit(ready, "train_tbx11k_multinode", **nodes, DOES="exit 4").returncode == 4
    assert "--ntasks-per-node 1 --kill-on-bad-exit=1 bash" in (ready / "srun_calls").read_text()


def test_a_named_run_is_gone_on_with(ready):
    assert value(dry_run(ready, "train_tbx11k", RUN_NAME="tbx11k_5"), "--output_dir") == "logs/tbx11k_5"


def test_paths_may_stand_among_the_arguments(ready):
    command = dry_run(ready, "train_tbx11k", "--data_path", "d 2", "--output_dir=o", "--resume", "x", DATA_PATH="")
    assert (value(command, "--data_path"), value(command, "--output_dir")) == ("d 2", "o")
    assert command.count("--data_path") == 1
    assert command[-2:] == ["--resume", "x"]


def test_outside_slurm_the_run_bears_the_name_of_the_script(ready):
    finished = run("bash", "scripts/train_local.sh", cwd=ready, DRY_RUN="1", DATA_PATH="d")
    command = command_of(finished)
    assert value(command, "--output_dir") == "logs/train_local"
    assert command[:5] == [*ONE_NODE, "1"]
    assert "--device" not in command


def test_the_tasks_of_an_array_have_runs_and_seeds_of_their_own(ready):
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "2"}
    command = dry_run(ready, "train_tbx11k", **array)
    assert value(command, "--output_dir") == "logs/train_tbx11k_70_2"
    assert "seed=2" in command
    command = dry_run(ready, "train_tbx11k", "--options", "seed=9", RUN_NAME="mine", **array)
    assert value(command, "--output_dir") == "logs/mine_2"
    assert command.index("seed=2") < command.index("seed=9")
    assert "seed=2" not in dry_run(ready, "eval_tbx11k", **array)


def test_site_settings_reach_the_job_although_they_read_unset_variables(ready):
    (ready / "scripts/site.sh").write_text('old=$NOT_SET_ANYWHERE\nDATA_PATH="/site/TBX11K"\n')
    assert value(dry_run(ready, "train_tbx11k"), "--data_path") == "/site/TBX11K"


def test_a_failing_line_of_the_site_settings_ends_the_job(ready):
    (ready / "scripts/site.sh").write_text('x=1\nfalse\nDATA_PATH="/site/TBX11K"\n')
    finished = submit(ready, "train_tbx11k", DRY_RUN="1")
    assert finished.returncode != 0
    assert finished.stdout == "error: scripts/site.sh: line 2 failed: false\n"


def test_a_job_without_a_data_folder_says_what_to_set(ready):
    finished = submit(ready, "train_tbx11k", DATA_PATH="")
    assert finished.returncode == 2
    assert last_line(finished).startswith("error: set DATA_PATH to the TBX11K folder")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_submitted_from_another_folder_says_so(ready, tmp_path, job):
    finished = submit(ready, job, SLURM_SUBMIT_DIR=str(tmp_path))
    assert finished.returncode == 2
    assert last_line(finished) == f"error: submit from the repository root (no scripts/common.sh in {tmp_path})"


def test_the_head_of_the_log_names_the_commit(ready):
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=ready, check=True)
    subprocess.run([*git, "add", "main.py"], cwd=ready, check=True)
    subprocess.run([*git, "commit", "-qm", "x"], cwd=ready, check=True)
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], cwd=ready, capture_output=True, text=True).stdout
    assert f"commit: {commit}" in submit(ready, "train_tbx11k", DRY_RUN="1").stdout
    Path(ready / "main.py").write_text("changed\n")
    assert f"commit: {commit.strip()}, with changes\n" in submit(ready, "train_tbx11k", DRY_RUN="1").stdout


def test_an_environment_that_is_not_there_is_refused_instead_of_another_python(ready):
    finished = submit(ready, "train_tbx11k", DRY_RUN="1", VENV="/no/such")
    assert finished.returncode == 2
    assert "error: VENV: there is no environment in /no/such" in finished.stdout


def test_a_site_file_that_fails_inside_a_function_says_where(ready):
    put(ready / "scripts/site.sh", "module() { grep -q zz /dev/null; echo loaded; }\nmodule load x\n")
    finished = submit(ready, "train_tbx11k", DRY_RUN="1")
    assert finished.returncode != 0
    assert "error: scripts/site.sh: line 1 failed: grep -q zz /dev/null" in finished.stdout
