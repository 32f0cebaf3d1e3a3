import io

import numpy as np
import pytest
import tifffile

from emcopilot.errors import DecodeError
from emcopilot.label_image import decode_labels, encode_labels


def test_labels_come_back_unchanged() -> None:
    labels = np.zeros((64, 96), np.int32)
    labels[3:20, 5:30] = 1
    labels[40:60, 50:90] = 2
    np.testing.assert_array_equal(decode_labels(encode_labels(labels)), labels)


def test_more_labels_than_uint16_holds_are_kept() -> None:
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    np.testing.assert_array_equal(decode_labels(encode_labels(labels)), labels)


def test_the_scale_is_readable_by_imagej() -> None:
    data = encode_labels(np.ones((4, 4), np.int32), (0.5, 0.25))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        assert tif.imagej_metadata is not None
        assert tif.imagej_metadata["unit"] == "nm"
        x, y = tif.pages[0].get_resolution()
    assert (x, y) == (pytest.approx(4.0), pytest.approx(2.0))  # pixels per nm


def test_a_frame_without_particles_is_all_background() -> None:
    assert decode_labels(encode_labels(np.zeros((8, 8), np.int32))).max() == 0


def test_other_bytes_are_refused() -> None:
    with pytest.raises(DecodeError, match="not a label image"):
        decode_labels(b"labels")
