"""Make a training-ready folder of TBX11K from a download of any layout, and check it.

    python scripts/prepare_tbx11k.py DIR                           # compare with the published counts
    python scripts/prepare_tbx11k.py DIR --output_dir data/TBX11K  # lay it out, build missing annotation files
    python scripts/prepare_tbx11k.py data/TBX11K --check           # look for defects of images and annotations
    python scripts/prepare_tbx11k.py data/TBX11K --output_dir data/TBX11K --drop_leaked

DIR is a folder or a zip file: the official layout, also a level deeper, all images in one folder, JPEG for PNG, YOLO
labels, or VOC xml alone. Nothing is written outside --output_dir; images there are second names of the same files (hard
links), or copies where the disk is another one. Exit code 2: there is an error to fix. For other data there is
scripts/prepare_data.py.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

from scripts import prepare_data

main = partial(prepare_data.main, expects_tbx11k=True, description=__doc__)

if __name__ == "__main__":
    run_program(main)
