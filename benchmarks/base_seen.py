"""What the shipped base model was trained on, as looks: `models/weights/base/seen.safetensors`.

    EMCOPILOT_DATA=... python benchmarks/base_seen.py runs/pool [--simulated 240]

The training parts of `benchmarks/train_base.py`: EMPS by paper, ARDA by family, the simulated
pool, each at native magnification and at the smaller one that training showed most. Run
`benchmarks/frame_looks.py` first. Takes some minutes on a CPU.
"""

import argparse
from pathlib import Path

from arda import read_arda, split_families
from emps import data_folder, read_emps, split
from simulated_pool import load_pool, render_pool

from models import checkpoint
from models.datasets import read_pixels
from models.look import BASE
from models.seen import write_seen

SCALES = (0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--simulated", type=int, default=240, help="frames of the pool")
    options = parser.parse_args()
    folder = data_folder()
    paths = [image.path for image in split_families(read_arda(folder))[0]]
    paths += [image.pair.image for image in split(read_emps(folder))[0]]
    pool = load_pool(render_pool(options.pool, options.simulated, workers=1))
    frames = [read_pixels(path) for path in paths] + [one.pixels for one in pool]
    seen = write_seen(checkpoint.find(BASE), frames, SCALES)
    print(
        f"{len(frames)} frames, {len(seen.looks)} looks, scale {seen.scale:.2f}, "
        f"doubt {seen.doubt}"
    )


if __name__ == "__main__":
    main()
