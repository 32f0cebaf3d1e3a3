"""The real server with a planted bug: every mask is two pixels too large all round."""

import sys

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from emcopilot.labels import Labels, label_particles
from gpu_server import __main__ as program
from gpu_server import measure


def label_dilated(probability: NDArray[np.uint8], *, min_area_px: int) -> Labels:
    wider = ndimage.grey_dilation(probability, footprint=np.ones((5, 5), np.uint8))
    return label_particles(wider, min_area_px=min_area_px)


if __name__ == "__main__":
    measure.label_particles = label_dilated
    sys.exit(program.main(sys.argv[1:]))
