"""Files of every format, sound and bad, through `emcopilot.decode`."""

import importlib.util
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emcopilot.decode import Frame, inspect, open_frames
from emcopilot.errors import DecodeError, RefusedError

ROOT = Path(__file__).parents[2]
RAMP = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


def first_frame(path: Path, name: str | None = None) -> Frame:
    with open_frames(path, name) as file:
        return file.read(0)


def refusal(path: Path, name: str | None = None) -> str:
    report = inspect(path, name)
    assert report.frames == 0
    assert report.shape is None
    assert report.refused is not None
    return report.refused


def vendor_files() -> Path:
    if "EMCOPILOT_DATA" not in os.environ:
        pytest.skip("EMCOPILOT_DATA is unset: it names the folder of real micrographs")
    return Path(os.environ["EMCOPILOT_DATA"]) / "vendor"


@pytest.fixture(scope="module")
def vendor_benchmark() -> ModuleType:
    path = ROOT / "benchmarks" / "vendor_files.py"
    spec = importlib.util.spec_from_file_location("vendor_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name while it is executed
    import sys

    sys.modules["vendor_files"] = module
    spec.loader.exec_module(module)
    return module


# --- vendors' files -------------------------------------------------------------------


def test_every_image_signal_of_the_vendor_files_agrees_with_its_reference(
    vendor_benchmark: ModuleType,
) -> None:
    vendor = vendor_files()
    outcomes = [
        (name, *outcome)
        for name, rows in vendor_benchmark.reference(vendor).items()
        for outcome in vendor_benchmark.compare(vendor / name, rows)
    ]
    wrong = [line for line in outcomes if line[1] in {"differs", "missing"}]
    assert not wrong
    assert sum(line[1] == "agrees" for line in outcomes) == 65


@pytest.mark.parametrize(
    "name",
    [
        "tia/old/03_Scanning Preview_1.ser",
        "tia/old/64x64x5_TEM_preview_1.ser",
        "tia/new/128x128-TEM_search_1.ser",
    ],
)
def test_series_read_here_hold_the_pixels_that_rosettasciio_reads(name: str) -> None:
    from rsciio.tia import file_reader

    path = vendor_files() / "rosettasciio" / name
    (signal,) = file_reader(str(path))
    stack = (
        np.atleast_3d(signal["data"])
        if signal["data"].ndim == 3
        else signal["data"][None]
    )
    with open_frames(path) as file:
        assert len(file) == len(stack)
        for page, expected in enumerate(stack):
            np.testing.assert_array_equal(file.read(page).pixels, expected)


def test_a_stream_read_here_holds_the_pixels_that_rosettasciio_reads() -> None:
    from rsciio.tvips import file_reader

    path = vendor_files() / "rosettasciio/tvips/test_tvips_2345_000.tvips"
    (signal,) = file_reader(str(path))
    with open_frames(path) as file:
        frames = [file.read(page) for page in range(len(file))]
    np.testing.assert_array_equal([frame.pixels for frame in frames], signal["data"])
    assert frames[0].modality == "diffraction"
    assert frames[0].pixel_size_nm is None
    assert frames[0].time_s == 0


def test_a_blob_without_extension_is_read_by_the_name_it_had(tmp_path: Path) -> None:
    vendor = vendor_files() / "rosettasciio"
    names = [
        "digitalmicrograph/2D/test_STEM_image.dm3", "emd/fei_example_tem_stack.emd",
        "mrc/HAADFscan.mrc", "tia/old/64x64_TEM_images_acquire_1.ser",
        "tiff/TVIPS_bin4.tif", "tvips/test_tvips_2345_000.tvips",
    ]  # fmt: skip
    for name in names:
        blob = tmp_path / "4f2a"
        blob.write_bytes((vendor / name).read_bytes())
        assert inspect(blob, f"acquisitions/{name}") == inspect(vendor / name)


def test_an_emi_reads_the_series_beside_it_and_alone_says_where_the_images_are(
    tmp_path: Path,
) -> None:
    emi = vendor_files() / "rosettasciio/tia/old/16x16_STEM_BF_DF_acquire.emi"
    assert inspect(emi).frames == 2
    alone = tmp_path / "b10b"
    alone.write_bytes(emi.read_bytes())
    assert refusal(alone, emi.name) == (
        "a TIA header file: its images are in the .ser files beside it, "
        "which are read on their own"
    )


def test_detectors_and_time_come_from_the_vendors_metadata() -> None:
    vendor = vendor_files() / "rosettasciio"
    assert inspect(vendor / "digitalmicrograph/2D/multi_signal.dm3").modality == "HAADF"
    assert inspect(vendor / "tiff/FEI-Helios-Ebeam-8bits.tif").modality == "SEM"
    told = {
        "digitalmicrograph/2D/multi_signal.dm3": ("HAADF", "PrecipitateA"),
        "digitalmicrograph/2D/test_diffraction_pattern.dm3": ("BM-UltraScan", None),
        "digitalmicrograph/2D/test_STEM_image.dm3": (None, None),
        "emd/fei_example_tem_stack.emd": ("BM-Ceta", None),
        "tiff/FEI-Helios-Ebeam-8bits.tif": ("ETD", None),
    }
    for name, expected in told.items():
        report = inspect(vendor / name)
        assert (report.detector, report.sample) == expected
    with open_frames(vendor / "emd/Test SI 16x16 215 kx.emd") as file:
        *_, scanned = [file.read(page) for page in range(len(file))]
    assert (scanned.modality, scanned.detector, scanned.sample) == (
        "HAADF", "HAADF", "Test",
    )  # fmt: skip
    with open_frames(vendor / "emd/fei_example_tem_stack.emd") as file:
        assert [file.read(page).time_s for page in range(2)] == pytest.approx([0, 0.8])
    with open_frames(
        vendor / "tiff/test_loading_image_saved_with_DM_stack.tif"
    ) as file:
        assert [file.read(page).time_s for page in range(2)] == pytest.approx([0, 2.5])


def test_spectra_in_a_mixed_file_are_left_out_and_said_so() -> None:
    path = vendor_files() / "rosettasciio/emd/Test SI 16x16 215 kx.emd"
    report = inspect(path)
    assert report.frames == 5
    assert any("spectrum" in note for note in report.notes)


def test_reciprocal_axes_stay_in_px_and_the_note_says_why() -> None:
    path = (
        vendor_files()
        / "rosettasciio/digitalmicrograph/2D/test_diffraction_pattern.dm3"
    )
    frame = first_frame(path)
    assert frame.pixel_size_nm is None
    assert frame.pixel_size_source is None
    assert any("1/nm" in note for note in frame.notes)


@pytest.mark.parametrize(
    "name",
    [
        "digitalmicrograph/2D/test_diffraction_pattern.dm3",
        "tvips/test_tvips_2345_000.tvips",
    ],
)
def test_no_magnification_table_gives_a_diffraction_pattern_nm(name: str) -> None:
    # Headers of patterns keep the magnification of the image taken before them.
    assert first_frame(vendor_files() / "rosettasciio" / name).magnification is None


# --- TIFF scales ----------------------------------------------------------------------


def imagej(path: Path, unit: str | None, per_unit: float, **metadata: object) -> None:
    given = {"unit": unit, **metadata} if unit else metadata
    tifffile.imwrite(
        path, RAMP, imagej=True, resolution=(per_unit, per_unit), metadata=given
    )


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected_nm"),
    [
        ("nm", 4.0, 0.25),
        ("um", 5000.0, 0.2),
        ("micron", 5000.0, 0.2),
        ("\\u00B5m", 5000.0, 0.2),
        ("mm", 5e6, 0.2),
        ("pm", 0.01, 0.1),
        ("pixel", 4.0, None),
        (None, 4.0, None),
        ("inch", 72.0, None),
        ("cm", 118.0, None),
        ("1/nm", 4.0, None),
    ],
)
def test_imagej_units(
    tmp_path: Path, unit: str | None, per_unit: float, expected_nm: float | None
) -> None:
    path = tmp_path / "frame.tif"
    imagej(path, unit, per_unit)
    frame = first_frame(path)
    if expected_nm is None:
        assert frame.pixel_size_nm is None
        assert frame.pixel_size_source is None
        return
    # the resolution tags are ratios of 32-bit integers
    assert frame.pixel_size_nm == pytest.approx((expected_nm, expected_nm), rel=1e-6)
    assert frame.pixel_size_source == "metadata"


def test_imagej_frame_intervals_become_times(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    stack = np.stack([RAMP] * 3)
    tifffile.imwrite(
        path, stack, imagej=True, metadata={"axes": "TYX", "finterval": 0.5}
    )
    with open_frames(path) as file:
        assert [file.read(page).time_s for page in range(3)] == [0, 0.5, 1.0]


def test_pages_of_an_imagej_stack_that_are_not_only_times_have_no_time(
    tmp_path: Path,
) -> None:
    path = tmp_path / "channels.tif"
    stack = np.stack([np.stack([RAMP] * 2)] * 3)
    tifffile.imwrite(
        path, stack, imagej=True, metadata={"axes": "TCYX", "finterval": 0.5}
    )
    with open_frames(path) as file:
        assert [file.read(page).time_s for page in range(6)] == [None] * 6


@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
@pytest.mark.parametrize("per_unit", [72.0, 96.0, 300.0, 2400.0])
def test_a_printing_resolution_is_no_calibration(
    tmp_path: Path, unit: str, per_unit: float
) -> None:
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, RAMP, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert first_frame(path).pixel_size_nm is None


def test_a_resolution_finer_than_any_printer_is_taken_and_said_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, RAMP, resolution=(4e7, 2e7), resolutionunit="CENTIMETER")
    frame = first_frame(path)
    assert frame.pixel_size_nm == pytest.approx((0.5, 0.25))  # (y, x)
    assert any("resolution tags" in note for note in frame.notes)


@pytest.mark.parametrize(
    ("attributes", "expected_nm"),
    [
        ('PhysicalSizeX="0.0002" PhysicalSizeY="0.0004"', (0.4, 0.2)),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="Å" PhysicalSizeY="4" '
         'PhysicalSizeYUnit="Å"', (0.4, 0.2)),
        ('PhysicalSizeX="0.2" PhysicalSizeXUnit="nm" PhysicalSizeY="0.4" '
         'PhysicalSizeYUnit="nm"', (0.4, 0.2)),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" '
         'PhysicalSizeYUnit="pixel"', None),
        ("", None),
    ],
)  # fmt: skip
def test_ome_physical_sizes(
    tmp_path: Path, attributes: str, expected_nm: tuple[float, float] | None
) -> None:
    path = tmp_path / "frame.ome.tif"
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/'
        'Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint16" SizeX="64" SizeY="48" SizeZ="1" SizeC="1" '
        f'SizeT="1" {attributes}><TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, RAMP, description=xml.encode(), metadata=None)
    size = first_frame(path).pixel_size_nm
    assert size == (pytest.approx(expected_nm) if expected_nm else None)


def test_sem_makers_tags(tmp_path: Path) -> None:
    tescan = tmp_path / "tescan.tif"
    text = b"[MAIN]\r\nPixelSizeX=2e-09\r\nPixelSizeY=4e-09\r\n"
    tifffile.imwrite(tescan, RAMP, extratags=[(50431, 7, len(text), text, True)])
    assert first_frame(tescan).pixel_size_nm == pytest.approx((4.0, 2.0))
    zeiss = tmp_path / "zeiss.tif"
    lines = b"\r\n".join(
        [b"0"] * 4 + [b"AP_IMAGE_PIXEL_SIZE", b"Image Pixel Size = 5.5 nm"]
    )
    tifffile.imwrite(zeiss, RAMP, extratags=[(34118, 2, len(lines), lines, True)])
    assert first_frame(zeiss).pixel_size_nm == pytest.approx((5.5, 5.5))
    assert first_frame(zeiss).modality == "SEM"


def test_sem_makers_name_the_detector(tmp_path: Path) -> None:
    tescan = tmp_path / "tescan.tif"
    text = b"[MAIN]\r\nPixelSizeX=2e-09\r\n[SEM]\r\nDetector=SE\r\nDetector0=InBeam\r\n"
    tifffile.imwrite(tescan, RAMP, extratags=[(50431, 7, len(text), text, True)])
    assert first_frame(tescan).detector == "SE"
    zeiss = tmp_path / "zeiss.tif"
    lines = b"\r\n".join(
        [b"0"] * 4
        + [b"DP_DETECTOR_TYPE", b"Signal A = InLens"]
        + [b"SV_SAMPLE_ID", b"Sample ID = " + b" Pd  on\talumina " + b"x" * 999]
    )
    tifffile.imwrite(zeiss, RAMP, extratags=[(34118, 2, len(lines), lines, True)])
    frame = first_frame(zeiss)
    assert (frame.detector, frame.modality) == ("InLens", "SEM")
    # A whole story would be longer than a decode worker may answer.
    assert frame.sample is not None
    assert frame.sample.startswith("Pd on alumina x")
    assert len(frame.sample) == 200


@pytest.mark.parametrize(
    ("title", "modality", "detector"),
    [
        ("STEM HAADF 12", "HAADF", "HAADF"),
        ("STEM BF 12", "BF", "BF"),
        ("bf_stem_3", "BF", "BF"),
        ("Filtered iDPC", "iDPC", "iDPC"),
        ("STEM 12", "STEM", None),
        ("Ceta 4", "TEM", "Ceta"),
        ("HAADF of TEM lamella", "HAADF", "HAADF"),
        ("TEM DF001", "TEM", None),
        ("BF TEM 12", "TEM", None),
        ("STEM df", "DF", "DF"),
        ("TEM Se nanowires", "TEM", None),
        ("Se nanowires", None, None),
        ("adf 3", "ADF", "ADF"),
        ("tem 3", "TEM", None),
        ("grid 7", None, None),
    ],
)
def test_a_title_names_the_detector_before_the_mode(
    tmp_path: Path, title: str, modality: str | None, detector: str | None
) -> None:
    path = tmp_path / "frame.emd"
    with h5py.File(path, "w") as file:  # Berkeley's EMD: a group's name is the title
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group(f"signals/{title}")
        group.attrs["emd_group_type"] = 1
        group["data"] = RAMP
        for axis in (1, 2):
            group[f"dim{axis}"] = np.arange(RAMP.shape[axis - 1], dtype=float)
    frame = first_frame(path)
    assert (frame.modality, frame.detector) == (modality, detector)


def test_absurd_and_negative_sizes_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    for per_unit in (1e-7, 1e7):
        imagej(path, "m" if per_unit < 1 else "pm", per_unit)
        assert first_frame(path).pixel_size_nm is None


# --- pixels ---------------------------------------------------------------------------


def test_counts_come_through_untouched_with_their_own_type(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    for kind in ("u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"):
        pixels = (RAMP % 100).astype(kind)
        tifffile.imwrite(path, pixels)
        frame = first_frame(path)
        assert frame.pixels.dtype == pixels.dtype
        np.testing.assert_array_equal(frame.pixels, pixels)
        assert frame.notes == ()


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "lzma", "zstd"])
def test_compressed_and_tiled_tiffs(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, RAMP, compression=compression, tile=(16, 16))
    np.testing.assert_array_equal(first_frame(path).pixels, RAMP)


def test_big_endian_becomes_native(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, RAMP, byteorder=">", bigtiff=True)
    pixels = first_frame(path).pixels
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, RAMP)


@pytest.mark.parametrize(
    ("stored", "expected_type"),
    [(np.float16, "float32"), (np.int64, "float64"), (np.uint64, "float64")],
)
def test_rare_number_types_are_widened(
    tmp_path: Path, stored: type[np.generic], expected_type: str
) -> None:
    path = tmp_path / "frame.tif"
    tifffile.imwrite(path, (RAMP % 2000).astype(stored))
    pixels = first_frame(path).pixels
    assert pixels.dtype == expected_type
    np.testing.assert_array_equal(pixels, RAMP % 2000)
    assert inspect(path).dtype == expected_type


def test_one_bit_images_become_0_and_1(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, RAMP % 2 == 1, photometric="minisblack")
    pixels = first_frame(path).pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, RAMP % 2)


def test_colour_becomes_luminance_and_grey_in_colour_stays_exact(
    tmp_path: Path,
) -> None:
    path = tmp_path / "screen.tif"
    grey = (RAMP % 256).astype(np.uint8)
    tifffile.imwrite(path, np.stack([grey] * 3, axis=-1), photometric="rgb")
    np.testing.assert_array_equal(first_frame(path).pixels, grey)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    tifffile.imwrite(path, red, photometric="rgb")
    frame = first_frame(path)
    assert np.unique(frame.pixels).tolist() == [round(0.2126 * 200)]  # BT.709
    assert any("luminance" in note for note in frame.notes)
    tifffile.imwrite(path, np.moveaxis(red, -1, 0), photometric="rgb", planarconfig=2)
    np.testing.assert_array_equal(first_frame(path).pixels, frame.pixels)


def test_white_16_bit_colour_does_not_wrap_round(tmp_path: Path) -> None:
    path = tmp_path / "screen.tif"
    white = np.full((8, 8, 3), 65535, np.uint16)
    white[0, 0] = (65535, 65535, 65534)  # not all equal, so that luminance is computed
    tifffile.imwrite(path, white, photometric="rgb")
    assert first_frame(path).pixels.min() >= 65534


def test_complex_values_become_their_magnitude(tmp_path: Path) -> None:
    path = tmp_path / "fft.tif"
    tifffile.imwrite(path, np.full((8, 8), 3 + 4j, np.complex64))
    frame = first_frame(path)
    assert frame.pixels.dtype == np.float32
    assert np.all(frame.pixels == 5)
    assert any("magnitude" in note for note in frame.notes)


def test_nan_and_infinity_are_kept_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "frame.tif"
    pixels = RAMP.astype(np.float32)
    pixels[0, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(path, pixels)
    frame = first_frame(path)
    np.testing.assert_array_equal(frame.pixels, pixels)
    assert "3 of 3072 px are NaN or infinite" in frame.notes


def test_png_dpi_is_the_screens_and_no_calibration(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    info = PngInfo()
    info.add_text("pixel_size_nm", "0.5")
    Image.fromarray(RAMP).save(path, dpi=(5_000_000, 5_000_000), pnginfo=info)
    frame = first_frame(path)
    np.testing.assert_array_equal(frame.pixels, RAMP)
    assert frame.pixel_size_nm is None


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_every_mode(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"frame.{suffix}"
    Image.new(mode, (64, 48), 1 if mode in {"L", "P", "1"} else None).save(path)
    frame = first_frame(path)
    assert frame.pixels.shape == (48, 64)
    assert frame.pixels.dtype == np.uint8


# --- stacks ---------------------------------------------------------------------------


def test_a_stack_gives_a_frame_a_page_in_order(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    stack = np.stack([RAMP + page for page in range(5)])
    tifffile.imwrite(path, stack)
    with open_frames(path) as file:
        assert len(file) == file.report.frames == 5
        for page in (4, 0, 2):
            np.testing.assert_array_equal(file.read(page).pixels, stack[page])
        with pytest.raises(DecodeError, match="5 pages"):
            file.read(5)


def test_planes_behind_a_single_header_are_pages_too(tmp_path: Path) -> None:
    path = tmp_path / "imagej.tif"
    stack = np.stack([RAMP + page for page in range(5)])
    tifffile.imwrite(path, stack, imagej=True, truncate=True, metadata={"unit": "nm"},
                     resolution=(4.0, 4.0))  # fmt: skip
    with open_frames(path) as file:
        assert len(file) == 5
        np.testing.assert_array_equal(file.read(3).pixels, stack[3])
        assert file.read(3).pixel_size_nm == pytest.approx((0.25, 0.25))
    path.write_bytes(path.read_bytes()[: -RAMP.nbytes])
    with open_frames(path) as file, pytest.raises(DecodeError):
        file.read(4)


def test_reading_one_page_of_a_long_stack_does_not_load_the_others(
    tmp_path: Path,
) -> None:
    page = np.zeros((512, 512), np.uint16)
    tiff, mrc = tmp_path / "stack.tif", tmp_path / "stack.mrc"
    with tifffile.TiffWriter(tiff) as writer:
        for _ in range(200):
            writer.write(page, contiguous=False)
    write_mrc(mrc, np.zeros((200, 512, 512), np.uint16))
    inspect(mrc)  # imports rosettasciio, whose modules are no page
    for path in (tiff, mrc):
        tracemalloc.start()
        with open_frames(path) as file:
            assert file.read(150).pixels.shape == (512, 512)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * page.nbytes, (
            path.name
        )  # all 200 pages would be 10 times that


def test_thumbnails_and_pages_of_another_size_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mixed.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(RAMP)
        writer.write(RAMP[::4, ::4], subfiletype=1)
        writer.write(RAMP[:, :32])
    report = inspect(path)
    assert report.frames == 2
    assert any("thumbnail" in note for note in report.notes)
    assert any("differ in shape" in note for note in report.notes)


# --- MRC, DM, EMD written here --------------------------------------------------------


def write_mrc(
    path: Path,
    stack: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
    *,
    cell_angstrom: tuple[float, float, float] = (0, 0, 0),
    stamp: bytes = b"DD\0\0",
) -> None:
    nz, ny, nx = stack.shape
    header = bytearray(1024)
    header[:16] = struct.pack("<4i", nx, ny, nz, 6)
    header[28:40] = struct.pack("<3i", nx, ny, nz)
    header[40:52] = struct.pack("<3f", *cell_angstrom)
    header[208:216] = b"MAP " + stamp
    path.write_bytes(bytes(header) + stack.tobytes())


def test_mrc_cells_are_angstroms_and_not_square(tmp_path: Path) -> None:
    path = tmp_path / "frame.mrc"
    write_mrc(path, RAMP[None], cell_angstrom=(64 * 2.0, 48 * 5.0, 0))
    frame = first_frame(path)
    np.testing.assert_array_equal(frame.pixels, RAMP)
    assert frame.pixel_size_nm == pytest.approx((0.5, 0.2))


@pytest.mark.parametrize("cell", [(0.0, 0.0, 0.0), (-64.0, -48.0, 0.0)])
def test_mrc_without_a_cell_is_uncalibrated(
    tmp_path: Path, cell: tuple[float, float, float]
) -> None:
    path = tmp_path / "frame.mrc"
    write_mrc(path, RAMP[None], cell_angstrom=cell)
    assert first_frame(path).pixel_size_nm is None
    content = bytearray(path.read_bytes())
    content[28:40] = bytes(12)  # no grid at all: rosettasciio then says 1 nm
    path.write_bytes(content)
    assert first_frame(path).pixel_size_nm is None


def test_mrc_of_one_page_and_of_one_row(tmp_path: Path) -> None:
    path = tmp_path / "frame.mrc"
    write_mrc(path, np.zeros((3, 2, 64), np.uint16))
    assert inspect(path).shape == (2, 64)
    write_mrc(path, np.zeros((3, 1, 64), np.uint16))
    assert "line, not an image" in refusal(path)


def test_a_big_endian_or_cut_mrc_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frame.mrc"
    write_mrc(path, RAMP[None], stamp=b"\x11\x11\0\0")
    assert "big-endian" in refusal(path)
    write_mrc(path, RAMP[None])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DecodeError), open_frames(path) as file:
        file.read(0)


# --- bad files ------------------------------------------------------------------------


def test_a_file_that_is_gone_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "not there any more" in refusal(tmp_path / "gone.tif")
    (tmp_path / "folder.tif").mkdir()
    assert refusal(tmp_path / "folder.tif")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.tif", b"", "empty (0 bytes)"),
        ("notes.tif", b"particle 1, 3.2 nm\n" * 50, "looks like text"),
        ("noise.dm4", bytes(range(256)) * 8, "damaged or unknown"),
        ("archive.tif", b"PK\x03\x04" + bytes(100), "zip"),
        ("script.py", b"II*\0" + bytes(100), ".py is not read"),
        ("array.npy", b"\x93NUMPY", ".npy is not read"),
        ("short.mrc", b"abc", "looks like text"),
        ("header.ser", b"II\x97\x01" + bytes(10), "cut short"),
        ("header.tif", b"II*\0\x08\0\0\0", "damaged"),
        ("head.dm3", struct.pack(">3i", 3, 100, 1), "damaged"),
        ("head.emd", b"\x89HDF\r\n\x1a\n" + bytes(40), "damaged"),
        ("head.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged"),
        ("head.jpg", b"\xff\xd8\xff\xe0" + bytes(40), "damaged"),
        ("head.tvips", struct.pack("<2i", 256, 2) + bytes(300), "header states"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert says in refusal(path)
    with pytest.raises(DecodeError), open_frames(path):
        pass


def test_a_png_named_tif_is_read_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(RAMP).save(path)
    frame = first_frame(path, "frame.tif")
    np.testing.assert_array_equal(frame.pixels, RAMP)
    assert "named .tif, but it is PNG inside" in frame.notes


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_half_a_tiff_is_refused(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "frame.tif"
    pixels = np.random.default_rng(0).integers(0, 60000, (256, 256), np.uint16)
    tifffile.imwrite(path, pixels, compression=compression, rowsperstrip=16)
    whole = path.read_bytes()
    for part in (0.99, 0.5, 0.1):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(DecodeError), open_frames(path) as file:
            file.read(0)


def tiff_claiming(
    width: int, height: int, *, next_ifd: int = 0, bits: int = 8
) -> bytes:
    """Write a TIFF by hand: a header and one directory, with no pixels behind."""
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 64),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_ifd)


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    for side in (30_000, 100_000, 2**31 - 1):
        path.write_bytes(tiff_claiming(side, side))
        tracemalloc.start()
        said = refusal(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert f"{side}x{side} px" in said
        assert "16384" in said
        assert peak < 50e6
    path.write_bytes(tiff_claiming(16384, 16384))
    assert "made to fill the memory" in refusal(path)
    path.write_bytes(tiff_claiming(16384, 16384, bits=64) + bytes(10**6))
    assert "2.0 GiB; the limit is 1 GiB" in refusal(path)


def test_a_deflate_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    row = zlib.compress(bytes(30_001) * 100)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">2I5B", 30_000, 30_000, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", row)
        + chunk(b"IEND", b"")
    )
    assert "16384" in refusal(path)


def test_a_directory_that_points_at_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "loop.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IHI", 8, 0, 8) + bytes(12))
    assert refusal(path)
    path.write_bytes(tiff_claiming(32, 32, next_ifd=8) + bytes(2000))
    report = inspect(path)  # one page, then the loop: read what is there, or refuse
    assert report.refused or report.frames == 1


def test_a_line_is_no_image_but_2x2_px_are(tmp_path: Path) -> None:
    path = tmp_path / "line.tif"
    tifffile.imwrite(path, np.zeros((1, 500), np.uint8))
    assert "a line, not an image" in refusal(path)
    with pytest.raises(RefusedError), open_frames(path):
        pass
    tifffile.imwrite(path, np.zeros((2, 2), np.uint8))
    assert inspect(path).shape == (2, 2)


def outside_link(file: h5py.File, target: Path) -> None:
    file["frame"] = h5py.ExternalLink(str(target), "/data")


def outside_storage(file: h5py.File, target: Path) -> None:
    file.create_dataset("frame", (8, 8), "u1", external=[(str(target), 0, 64)])


def virtual_dataset(file: h5py.File, target: Path) -> None:
    layout = h5py.VirtualLayout((8, 8), "u1")
    layout[:] = h5py.VirtualSource(str(target), "data", (8, 8))
    file.create_virtual_dataset("frame", layout)


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (outside_link, "external link"),
        (outside_storage, "external storage"),
        (virtual_dataset, "virtual dataset"),
    ],
)
def test_hdf5_that_reaches_into_other_files_is_refused(
    tmp_path: Path, plant: Callable[[h5py.File, Path], None], says: str
) -> None:
    secret, path = tmp_path / "secret", tmp_path / "frame.emd"
    secret.write_bytes(b"root:x:0:0" * 10)
    with h5py.File(path, "w") as file:
        group = file.create_group("data/deep")
        plant(group, secret)
    assert says in refusal(path)
    assert "self-contained" in refusal(path)


def test_hdf5_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frame.emd"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(10)
        file["loop"] = file["/"]  # a hard link in a circle
    assert refusal(path)


def berkeley_emd(
    path: Path, pixels: object, units: str = "[n_m]", **kwargs: object
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/frame")
        group.attrs["emd_group_type"] = 1
        data = group.create_dataset("data", data=pixels, **kwargs)
        for number, side in enumerate(data.shape, 1):
            axis = group.create_dataset(f"dim{number}", data=np.arange(side) * 0.5)
            axis.attrs["name"], axis.attrs["units"] = "yxz"[number - 1], units


def test_a_berkeley_emd_is_read(tmp_path: Path) -> None:
    path = tmp_path / "frame.emd"
    berkeley_emd(path, RAMP)
    frame = first_frame(path)
    np.testing.assert_array_equal(np.sort(frame.pixels.ravel()), RAMP.ravel())
    assert frame.pixel_size_nm == pytest.approx((0.5, 0.5))


def test_an_hdf5_bomb_of_fill_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.emd"
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("data/frame")
        group.attrs["emd_group_type"] = 1
        group.create_dataset(
            "data", (16000, 16000), "u1", chunks=True, compression="gzip"
        )
        for number in (1, 2):
            axis = np.zeros(16000, np.uint8)
            group.create_dataset(f"dim{number}", data=axis, compression="gzip")
    tracemalloc.start()
    said = refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "fill the memory" in said
    assert peak < 100e6


def test_a_spectrum_alone_is_refused_politely(tmp_path: Path) -> None:
    path = tmp_path / "spectrum.emd"
    berkeley_emd(path, np.arange(100), units="[e_V]")
    said = refusal(path)
    assert "no 2-D image" in said
    assert "export the survey image" in said
