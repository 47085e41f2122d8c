"""The command line of main.py, and the arguments it shares with the scripts. Settings of the method are in configs."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from util import __version__
from util.base.errors import UserError
from util.config.official_keys import OFFICIAL_FLAGS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, printed like all others of the user.

    Args:
        description: what `--help` begins with, as it is.
        settings: of argparse.
    """

    def __init__(self, description: str | None, **settings: Any) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError."""
        raise UserError(message)


def hide_aliases(option: argparse.Action) -> None:
    """Show only the first spelling of an option in help and messages; the others are still accepted."""
    option.option_strings = option.option_strings[:1]


def add_config_arguments(parser: Parser, *, is_required: bool = True) -> None:
    """Add the config file and the options that override it."""
    add = parser.add_argument
    default = "" if is_required else "; in evaluation, by default that of the checkpoint"
    add("-c", "--config_file", type=Path, required=is_required, help=f"Python config file{default}")
    add("--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values of the config")


def add_data_argument(parser: Parser, *, is_required: bool = True) -> None:
    """Add the data folder."""
    add = parser.add_argument
    hide_aliases(add("--data_path", "--coco_path", type=Path, required=is_required, help="data folder"))


def add_device_argument(parser: Parser) -> None:
    """Add the kind of device."""
    help_text = "where the network runs; auto: cuda where there is one (default: auto)"
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help=help_text)


def add_depth_argument(parser: Parser) -> None:
    """Add the depth of 16-bit images."""
    help_text = "bits that 16-bit PNG and TIFF files use; auto: as their headers and values say (default: auto)"
    choices = ("auto", 8, 10, 12, 14, 16)
    parser.add_argument("--image_depth", type=_number_or_name, choices=choices, default="auto", help=help_text)


def _number_or_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of main.py.

    Raises:
        UserError: an argument that there is not; for those of the official code the message has the knob or the reason.
    """
    parser = Parser(
        "Train or evaluate DINO on a TBX11K or COCO-format folder.",
        allow_abbrev=False,  # scripts look for the full names
    )
    add = parser.add_argument
    add("--version", action="version", version=f"DINO for TBX11K {__version__}")
    add_config_arguments(parser, is_required=False)
    converts = any(word.partition("=")[0] == "--from_official" for word in arguments or sys.argv[1:])
    add_data_argument(parser, is_required=not converts)
    add("--output_dir", type=Path, help="run folder; in evaluation, by default eval_LIST beside the checkpoint")
    add("--resume", type=Path, help="checkpoint to go on from, or to evaluate")
    add("--pretrain_model_path", type=Path, help="weights to start from; what does not fit is reported")
    add("--eval", action="store_true", help="evaluate a checkpoint instead of training")
    add_device_argument(parser)
    add("--verbose_losses", action="store_true", help="every loss term on the console; log.jsonl always has them")
    add(
        "--from_official", type=Path, metavar="FILE", help="write a config with the changes of an official one, and end"
    )
    add("--output_config", type=Path, metavar="FILE", help="where to; by default config/DINO/NAME_from_official.py")
    args, unknown = parser.parse_known_args(arguments)
    if known := [flag for word in unknown if (flag := word.partition("=")[0]) in OFFICIAL_FLAGS]:
        parser.error("arguments of the official code:\n  " + "\n  ".join(f"{f} {OFFICIAL_FLAGS[f]}" for f in known))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args
