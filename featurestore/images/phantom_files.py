"""One phantom as the bytes of a PNG or a DICOM file, the same bytes every time."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from featurestore.images.phantom_detector import WHITE
from featurestore.images.phantom_patient import PhantomImage
from featurestore.images.phantom_scene import FIELD_CM

_IMPLEMENTATION = generate_uid(entropy_srcs=["cxrstore phantom writer"])


def png_bytes(image: PhantomImage) -> bytes:
    """Encode as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.to_uint8()).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def dicom_bytes(image: PhantomImage, *, seed: int, inverted: bool) -> bytes:
    """Encode as a DX image, 12 bits stored in 16, explicit little endian.

    Parameters
    ----------
    image : PhantomImage
    seed : int
        Part of the unique identifiers, so that two seeds' patients never share one.
    inverted : bool
        Store as MONOCHROME1, where 0 is white.
    """
    ds = Dataset()
    _identify(ds, image, str(seed), str(len(image.pixels)))
    _describe(ds, image)
    _pixels(ds, image, inverted)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = _IMPLEMENTATION
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _identify(ds: Dataset, image: PhantomImage, *extra: str) -> None:
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["cxrstore image", *extra, image.name])
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["cxrstore study", *extra, image.study_id])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["cxrstore series", *extra, image.name])
    ds.PatientID = image.patient_id
    ds.PatientName = f"Phantom^{image.patient_id}"
    ds.StudyID = image.study_id
    ds.InstanceNumber = int(image.name.rsplit("_", 1)[1])
    ds.SeriesNumber = ds.InstanceNumber


def _describe(ds: Dataset, image: PhantomImage) -> None:
    ds.Modality = "DX"
    ds.Manufacturer = "cxrstore phantom"
    ds.BodyPartExamined = "CHEST"
    # LL is the standard's term for the film taken with the left side against the detector (PS3.3 C.8.11.1).
    ds.ViewPosition = "LL" if image.view == "LATERAL" else image.view
    ds.PatientSex = image.sex
    ds.PatientAge = f"{image.age:03d}Y"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    spacing = round(10.0 * FIELD_CM / len(image.pixels), 6)
    ds.ImagerPixelSpacing = [spacing, spacing]


def _pixels(ds: Dataset, image: PhantomImage, inverted: bool) -> None:
    pixels = np.uint16(WHITE) - image.pixels if inverted else image.pixels
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    # The window shows the whole range: width 4096 about 2048 maps 0..4095 to black..white (PS3.3 C.11.2.1.2).
    ds.WindowCenter, ds.WindowWidth = WHITE // 2 + 1, WHITE + 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PixelData = pixels.astype("<u2").tobytes()
