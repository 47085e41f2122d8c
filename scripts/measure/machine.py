"""Which machine figures of speed are of."""

import platform

import torch

from util.base.memory import CPU_INFO, kernel_values


def describe_machine(device: torch.device) -> str:
    """Processor, threads, versions; of a GPU its name, capability and whether float32 is rounded to TF32."""
    parts = [f"{processor()}, {torch.get_num_threads()} threads", f"Python {platform.python_version()}"]
    parts.append(f"torch {torch.__version__}")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        precision = torch.get_float32_matmul_precision()
        convolutions = "on" if torch.backends.cudnn.allow_tf32 else "off"
        parts.append(f"{torch.cuda.get_device_name(device)}, capability {major}.{minor}, CUDA {torch.version.cuda}")
        parts.append(f"float32 products '{precision}', TF32 in convolutions {convolutions}")
    return "; ".join(parts)


def processor() -> str:
    """Its name, as the kernel tells it."""
    return kernel_values(CPU_INFO).get("model name") or platform.processor() or platform.machine()
