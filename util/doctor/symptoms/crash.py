"""What ended a run before its end, as its output says."""

from util.doctor.symptoms.cause import FAILING, NOTE, SUSPICIOUS, Cause
from util.runlog.history import History

FIXES = {
    "cuda_out_of_memory": (
        "batch_size smaller and gradient_accumulation_steps larger by the same factor, which is the same training; "
        "amp='bf16', activation_checkpointing=True, or smaller data_aug_scales. Is the GPU free (nvidia-smi)?"
    ),
    "cudnn_not_initialised": (
        "mostly memory: another process on the GPU (nvidia-smi), or a batch_size that leaves cuDNN none; else a driver "
        "that does not fit the CUDA of PyTorch (python -m torch.utils.collect_env)"
    ),
    "label_out_of_range": "num_classes must be the largest category id + 1; main.py checks that before a training",
    "cuda_error": "the driver must fit the CUDA of PyTorch, and the GPU must be free and healthy (nvidia-smi)",
    "no_deformable_attention": (
        "the official code lacks its compiled operator; here nothing is compiled at install (attn_backend='auto')"
    ),
    "missing_module": "pip install -r requirements.txt in the environment that the job uses",
    "disk_full": "free space or choose another --output_dir; keep_last_checkpoints and save_checkpoint_interval",
    "missing_file": "the path as the node of the job sees it: --data_path, --pretrain_model_path, backbone_weights",
    "bus_error": "the shared memory of the container was full: more of it (docker --shm-size=8g), or num_workers=0",
    "segmentation_fault": "a compiled extension or driver that does not fit PyTorch; attn_backend='torch' needs none",
    "killed_for_memory": "more main memory for the job (--mem), fewer num_workers, or image_cache",
    "time_limit": "resume it; the job scripts here save before the limit and requeue themselves (docs/cluster.md)",
    "cancelled": "somebody or Slurm ended the job; the same command resumes it",
    "port_in_use": "another training uses the port: torchrun --standalone, or another --master_port",
    "nccl_timeout": "a rank died or waited; its own message, perhaps in another file, names the cause",
    "process_failed": "the message of that rank, perhaps in another file, names the cause",
    "python_error": "the lines above it in the log say where; docs/data.md where it concerns the data",
}
MAY_RESUME = ("time_limit", "cancelled")  # the training itself is not at fault


def crashed(history: History) -> Cause | None:
    """The run was ended by an error, a signal or a limit."""
    if not history.crashes:
        return None
    crash = history.crashes[-1]
    where = crash["rank"] or "a rank that the log does not name"
    code = f", exit code {crash['exit_code']}" if crash["exit_code"] else ""
    evidence = f"ended on {where}{code}: {crash['message']}"
    if crash["is_over"]:
        return Cause(crash["name"], NOTE, f"over now; {evidence}", FIXES[crash["name"]], 90)
    level = SUSPICIOUS if crash["name"] in MAY_RESUME else FAILING
    return Cause(crash["name"], level, evidence, FIXES[crash["name"]], 95)
