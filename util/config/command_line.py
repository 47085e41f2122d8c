"""The command line of main.py: where to read and write. All settings of the method are in the config."""

import argparse
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of main.py."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate DINO on a TBX11K or COCO-format folder.",
        allow_abbrev=False,  # scripts look for the full names
    )
    add = parser.add_argument
    add("-c", "--config_file", help="Python config file; in evaluation, by default the config inside the checkpoint")
    add("--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values of the config")
    add("--data_path", "--coco_path", type=Path, required=True, help="data folder")
    add("--output_dir", type=Path, help="run folder; in evaluation, by default eval_LIST beside the checkpoint")
    add("--resume", type=Path, help="checkpoint to go on from, or to evaluate")
    add("--pretrain_model_path", type=Path, help="weights to start from; what does not fit is reported")
    add("--eval", action="store_true", help="evaluate a checkpoint instead of training")
    add("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: cuda where there is one")
    add("--verbose_losses", action="store_true", help="every loss term on the console; log.jsonl always has them")
    return parser.parse_args(arguments)
