"""What the README promises exists."""

import re
import shlex
from pathlib import Path

import pytest

from main import parse_arguments
from util.config import load_config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip() for line in re.sub(r"\\\n\s*", "", TEXT).splitlines() if re.match(r" {4,}(python|torchrun) ", line)
]
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
FILES = {name for name in re.findall(r"(?<![\w/])(?:config|scripts|docs)/[\w./]+\.(?:py|sh|sbatch|md)", TEXT)}
MADE_BY_THE_USER = {"scripts/site.sh"}


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) < 250


def test_commands_and_links_were_found():
    assert len(COMMANDS) >= 6
    assert len(LINKS) >= 4
    assert len(FILES) >= 8


@pytest.mark.parametrize("name", sorted({*LINKS, *FILES} - MADE_BY_THE_USER))
def test_a_file_that_the_readme_names_exists(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if "main.py" in c])
def test_a_command_of_the_readme_is_understood(command):
    words = shlex.split(command, comments=True)
    args = parse_arguments(words[words.index("main.py") + 1 :])
    assert args.eval or load_config(ROOT / args.config_file, args.options)


def test_every_config_file_is_in_the_table():
    first_column = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `DINO_")]
    written_out = " ".join(first_column).replace("`..._", "`DINO_4scale_tbx11k_")
    assert set(re.findall(r"`(\w+\.py)`", written_out)) == {path.name for path in (ROOT / "config/DINO").glob("*.py")}


@pytest.mark.parametrize(
    "options",
    [
        "dataset_file=coco train_list=train2017 val_list=val2017 num_classes=7 dn_labelbook_size=7",
        "backbone=swin_T_224_1k backbone_freeze_at=0",
        "lr_drop=[30,40]",
        "amp=bf16",
        "backbone_weights=none",
    ],
)
def test_options_that_the_readme_advises_are_accepted(options):
    assert load_config(ROOT / "config/DINO/DINO_4scale_tbx11k_1gpu.py", options.split())


def test_the_error_in_the_readme_is_the_one_that_comes():
    path = "config/DINO/DINO_4scale_tbx11k_1gpu.py"
    with pytest.raises(ValueError, match="focal_alpa") as caught:
        load_config(ROOT / path, ["focal_alpa=0.5", "lr_drop=60"])
    for line in str(caught.value).splitlines()[1:]:
        assert f"      {line.strip()}\n" in TEXT
