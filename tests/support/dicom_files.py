"""Small DICOM images of several kinds that are valid: whatever dciodvfy finds in results made from them is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from msformer_deploy.images.sources import DicomSource

ROWS, COLUMNS = 16, 24
STUDY = "2.25.1111"
SERIES = "2.25.2222"
FRAME_OF_REFERENCE = "2.25.3333"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
US, US_FRAMES = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENDOSCOPY, PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.840.10008.5.1.4.1.1.77.1.4"


def write(path: Path, dataset: Dataset) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def common(sop_class: str, modality: str, number: int = 1, **more: Any) -> Dataset:
    """What images of all kinds have: patient, study, series, equipment and grey pixels of 16 bits."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": UID(sop_class),
        "SOPInstanceUID": UID(f"{SERIES}.{number}"),
        "PatientName": "Müller^Änne",
        "PatientID": "P-4711",
        "PatientBirthDate": "19580203",
        "PatientSex": "F",
        "PatientAge": "068Y",
        "StudyInstanceUID": UID(STUDY),
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A-1",
        "ReferringPhysicianName": "Doe^Jane",
        "SeriesInstanceUID": UID(SERIES),
        "SeriesNumber": 3,
        "Modality": modality,
        "Manufacturer": "Maker",
        "InstanceNumber": number,
        "ContentDate": "20260102",
        "ContentTime": "101113",
        "AcquisitionDateTime": "20260102101113",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Rows": ROWS,
        "Columns": COLUMNS,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": np.arange(ROWS * COLUMNS, dtype="<u2").tobytes(),
    }
    for keyword, value in {**values, **more}.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def place(
    number: int,
    spacing: tuple[float, float] = (0.5, 0.7),
    step: float = 2.5,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    origin: tuple[float, ...] = (-10.0, 20.0, 30.0),
) -> dict[str, Any]:
    """Where slice ``number`` is, from 1; slices follow each other along the normal, or against it if ``step`` < 0."""
    normal = np.cross(orientation[:3], orientation[3:])
    return {
        "FrameOfReferenceUID": UID(FRAME_OF_REFERENCE),
        "PositionReferenceIndicator": "",
        "ImageOrientationPatient": list(orientation),
        "ImagePositionPatient": [float(each) for each in np.asarray(origin) + (number - 1) * step * normal],
        "PixelSpacing": list(spacing),
        "SliceThickness": abs(step),
    }


def ct(number: int = 1, **more: Any) -> Dataset:
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": 120,
        "AcquisitionNumber": 1,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "PatientPosition": "HFS",
        "Laterality": "",
    }
    return common(CT, "CT", number, **{**values, **place(number), **more})


def mr(number: int = 1, **more: Any) -> Dataset:
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": "GR",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 30,
        "EchoTime": 2,
        "EchoTrainLength": 1,
        "PatientPosition": "HFS",
        "Laterality": "",
    }
    return common(MR, "MR", number, **{**values, **place(number), **more})


def cr(number: int = 1, **more: Any) -> Dataset:
    values = {
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": ["L", "F"],
        "ImagerPixelSpacing": [0.2, 0.2],
        "KVP": 70,
        "ImageType": ["ORIGINAL", "PRIMARY"],
    }
    return common(CR, "CR", number, **{**values, **more})


def dx(number: int = 1, **more: Any) -> Dataset:
    anatomy = code("51185008", "SCT", "Chest")
    view = code("399348003", "SCT", "antero-posterior")
    view.ViewModifierCodeSequence = []
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "PresentationIntentType": "FOR PRESENTATION",
        "BodyPartExamined": "CHEST",
        "ImageLaterality": "U",
        "AnatomicRegionSequence": [anatomy],
        "ViewCodeSequence": [view],
        "ViewPosition": "AP",
        "PatientOrientation": ["L", "F"],
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": -1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "PresentationLUTShape": "IDENTITY",
        "LossyImageCompression": "00",
        "BurnedInAnnotation": "NO",
        "DetectorType": "DIRECT",
        "ImagerPixelSpacing": [0.15, 0.15],
        "AcquisitionContextSequence": [],
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "PatientPosition": "",
        "DistanceSourceToDetector": "",
        "DistanceSourceToPatient": "",
        "ExposureTime": "",
        "PositionerType": "",
        "InstitutionName": "Hospital",
    }
    return common(DX, "DX", number, **{**values, **more})


def _colour(frames: int = 1) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": (np.arange(frames * ROWS * COLUMNS * 3) % 251).astype(np.uint8).tobytes(),
    }


def us(number: int = 1, **more: Any) -> Dataset:
    values = {"ImageType": ["ORIGINAL", "PRIMARY", "ABDOMINAL"], "PatientOrientation": "", "Laterality": ""}
    return common(US, "US", number, **{**values, **_colour(), **more})


def us_frames(frames: int = 3, **more: Any) -> Dataset:
    """A cine loop of ultrasound, which has no position in the patient."""
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "ABDOMINAL"],
        "PatientOrientation": "",
        "Laterality": "",
        "NumberOfFrames": frames,
        "FrameIncrementPointer": 0x00181063,
        "FrameTime": 40,
    }
    return common(US_FRAMES, "US", 1, **{**values, **_colour(frames), **more})


def endoscopy(number: int = 1, **more: Any) -> Dataset:
    return common(ENDOSCOPY, "ES", number, **{**_visible(), **more})


def photograph(number: int = 1, **more: Any) -> Dataset:
    """A photograph of skin."""
    return common(PHOTOGRAPH, "XC", number, **{**_visible(), **more})


def _visible() -> dict[str, Any]:
    return {
        **_colour(),
        "LossyImageCompression": "00",
        "AcquisitionContextSequence": [],
        "PatientOrientation": "",
        "Laterality": "",
    }


def enhanced_ct(frames: int = 3, backwards: bool = False, **more: Any) -> Dataset:
    """All slices in one object; ``backwards``, its first frame is the one of the highest position."""
    dataset = common(
        ENHANCED_CT,
        "CT",
        NumberOfFrames=frames,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelData=np.arange(frames * ROWS * COLUMNS, dtype="<u2").tobytes(),
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ContentQualification="RESEARCH",
        AcquisitionContextSequence=[],
        PresentationLUTShape="IDENTITY",
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
        MultienergyCTAcquisition="NO",
        ManufacturerModelName="Model",
        DeviceSerialNumber="1",
        SoftwareVersions="1",
        PatientPosition="HFS",
        AcquisitionNumber=1,
        FrameOfReferenceUID=UID(FRAME_OF_REFERENCE),
        PositionReferenceIndicator="",
        AcquisitionDuration=1,
    )
    organization = Dataset()
    organization.DimensionOrganizationUID = UID("2.25.4444")
    dataset.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID = UID("2.25.4444")
    index.DimensionIndexPointer = 0x00200032
    index.FunctionalGroupPointer = 0x00209113
    dataset.DimensionIndexSequence = [index]
    shared = Dataset()
    dataset.SharedFunctionalGroupsSequence = [shared]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.7], SliceThickness=2.5, SpacingBetweenSlices=2.5)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.FrameAnatomySequence = [
        _item(FrameLaterality="U", AnatomicRegionSequence=[code("51185008", "SCT", "Chest")])
    ]
    shared.PixelValueTransformationSequence = [_item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]
    shared.CTImageFrameTypeSequence = [
        _item(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )
    ]
    shared.FrameVOILUTSequence = [_item(WindowCenter=40, WindowWidth=400)]
    shared.CTAcquisitionTypeSequence = [
        _item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    ]
    shared.CTAcquisitionDetailsSequence = [
        _item(
            RotationDirection="CW",
            RevolutionTime=1,
            SingleCollimationWidth=1,
            TotalCollimationWidth=10,
            TableHeight=1,
            GantryDetectorTilt=0,
            DataCollectionDiameter=500,
        )
    ]
    shared.CTTableDynamicsSequence = [_item(TableSpeed=1, TableFeedPerRotation=1, SpiralPitchFactor=1)]
    shared.CTPositionSequence = [
        _item(
            TablePosition=1,
            DataCollectionCenterPatient=[0, 0, 0],
            ReconstructionTargetCenterPatient=[0, 0, 0],
        )
    ]
    shared.CTGeometrySequence = [_item(DistanceSourceToDetector=1000, DistanceSourceToDataCollectionCenter=500)]
    shared.CTReconstructionSequence = [
        _item(
            ReconstructionAlgorithm="FILTER_BACK_PROJ",
            ConvolutionKernel="K",
            ConvolutionKernelGroup="BODY",
            ReconstructionDiameter=100,
            ReconstructionPixelSpacing=[0.5, 0.7],
            ReconstructionAngle=360,
            ImageFilter="F",
        )
    ]
    shared.CTExposureSequence = [
        _item(
            ExposureTimeInms=100,
            XRayTubeCurrentInmA=100,
            ExposureInmAs=10,
            ExposureModulationType="NONE",
            EstimatedDoseSaving=0,
            CTDIvol=1,
        )
    ]
    shared.CTXRayDetailsSequence = [
        _item(KVP=120, FocalSpots=1, FilterType="FLAT", FilterMaterial="ALUMINUM", CalciumScoringMassFactorPatient=1)
    ]
    shared.IrradiationEventIdentificationSequence = [_item(IrradiationEventUID=UID("2.25.5555"))]
    dataset.PerFrameFunctionalGroupsSequence = []
    for frame in range(frames):
        height = frames - frame if backwards else frame + 1
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=place(height)["ImagePositionPatient"])]
        group.FrameContentSequence = [
            _item(
                FrameAcquisitionNumber=1,
                FrameReferenceDateTime="20260102101113",
                FrameAcquisitionDateTime="20260102101113",
                FrameAcquisitionDuration=1,
                DimensionIndexValues=[height],
            )
        ]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def series(folder: Path, slices: int, make: Any = ct, **geometry: Any) -> DicomSource:
    """Write a series, one file a slice; ``geometry`` as in :func:`place`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(
        write(folder / f"{number:03}.dcm", make(number, **place(number, **geometry))) for number in range(1, slices + 1)
    )
    return DicomSource(files, (None,) * slices)


def one(folder: Path, dataset: Dataset) -> DicomSource:
    """Write one object; the source has all of its frames."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write(folder / "image.dcm", dataset)
    frames = int(dataset.get("NumberOfFrames", 0))
    return DicomSource((path,) * max(frames, 1), tuple(range(1, frames + 1)) if frames else (None,))
