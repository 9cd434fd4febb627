// A mask as a DICOM segmentation of its source (results/dicom/segmentation.py writes the same). Loaded when it is wanted.

import dcmjs, { type DataSet } from "dcmjs";
import { PageError } from "./core/errors";
import type { MadeBy } from "./protocol";

const { DicomDict, DicomMessage, DicomMetaDictionary } = dcmjs.data;
const SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4";
const EXPLICIT = "1.2.840.10008.1.2.1";
const IMPLEMENTATION = "2.25.262628689330736394581178001419904072995";
const PIXELS = "7FE00010";
const SERIES_NUMBER = "9101"; // as in results/dicom/identity.py
const COLOUR = [58406, 15105, 39787]; // CIELab of the mask's colour
const COPIED = [
  ...["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"],
  ...["StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"],
];
const NEEDED = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"];

export interface Segmented {
  name: string;
  file: Blob;
  width: number;
  height: number;
  mask: Uint8Array;
  corrected: boolean; // by a person
  madeBy: MadeBy;
}

/** The file of a segmentation: one bit for each pixel, on the pixels and in the place of the source's first frame. */
export async function segOf({ name, file, width, height, mask, corrected, madeBy }: Segmented): Promise<ArrayBuffer> {
  const source = await headerOf(file, name);
  for (const keyword of NEEDED) {
    if (!source[keyword]) throw new PageError(`${name}: has no ${keyword}, which a DICOM segmentation needs; save the mask as PNG`);
  }
  const uid = newUid();
  const { family, category, type, ...equipment } = madeBy;
  const by = `${equipment.Manufacturer} ${equipment.ManufacturerModelName}`;
  const [date, time] = now();
  const organization = newUid();
  const frame = {
    ReferencedSOPClassUID: source.SOPClassUID,
    ReferencedSOPInstanceUID: source.SOPInstanceUID,
    ...(Number(source.NumberOfFrames ?? 1) > 1 && { ReferencedFrameNumber: "1" }),
  };
  const instance = { ReferencedSOPClassUID: source.SOPClassUID, ReferencedSOPInstanceUID: source.SOPInstanceUID };
  const { place, measures } = placeOf(source);
  const found: DataSet = {
    ...Object.fromEntries(COPIED.map((keyword) => [keyword, source[keyword] ?? null])),
    ...(source.PatientAge ? { PatientAge: source.PatientAge } : {}),
    ...equipment,
    SpecificCharacterSet: "ISO_IR 192",
    ImageType: ["DERIVED", "PRIMARY"],
    SOPClassUID: SEGMENTATION,
    SOPInstanceUID: uid,
    InstanceCreationDate: date,
    InstanceCreationTime: time,
    ContentDate: date,
    ContentTime: time,
    Modality: "SEG",
    SeriesDescription: "msformer-deploy segmentation, research use only",
    SeriesInstanceUID: newUid(),
    SeriesNumber: SERIES_NUMBER,
    InstanceNumber: "1",
    ReferencedSeriesSequence: [{ SeriesInstanceUID: source.SeriesInstanceUID, ReferencedInstanceSequence: [instance] }],
    SourceImageSequence: [frame],
    ...(place
      ? { FrameOfReferenceUID: source.FrameOfReferenceUID, PositionReferenceIndicator: source.PositionReferenceIndicator ?? null }
      : { PatientOrientation: source.PatientOrientation ?? null }),
    DimensionOrganizationSequence: [{ DimensionOrganizationUID: organization }],
    DimensionIndexSequence: [
      dimension(organization, "Referenced Segment Number", 0x0062000b, 0x0062000a),
      ...(place ? [dimension(organization, "Image Position Patient", 0x00200032, 0x00209113)] : []),
    ],
    SamplesPerPixel: 1,
    PhotometricInterpretation: "MONOCHROME2",
    NumberOfFrames: "1",
    Rows: height,
    Columns: width,
    BitsAllocated: 1,
    BitsStored: 1,
    HighBit: 0,
    PixelRepresentation: 0,
    LossyImageCompression: "00",
    SegmentationType: "BINARY",
    SegmentSequence: [
      {
        SegmentedPropertyCategoryCodeSequence: [category],
        SegmentNumber: 1,
        SegmentLabel: "object",
        SegmentationAlgorithmIdentificationSequence: [
          {
            AlgorithmSource: equipment.Manufacturer,
            AlgorithmFamilyCodeSequence: [family],
            AlgorithmVersion: equipment.SoftwareVersions,
            AlgorithmName: by,
          },
        ],
        SegmentAlgorithmType: corrected ? "SEMIAUTOMATIC" : "AUTOMATIC",
        SegmentAlgorithmName: by,
        RecommendedDisplayCIELabValue: COLOUR,
        SegmentedPropertyTypeCodeSequence: [type],
        TrackingID: "object 1",
        TrackingUID: newUid(),
      },
    ],
    SegmentsOverlap: "NO",
    ContentLabel: "SEGMENTATION",
    ContentDescription: corrected ? "Corrected by a person; research use only" : "Found without a person; look at it before you use it",
    ContentCreatorName: null,
    PresentationLUTShape: "IDENTITY",
    SharedFunctionalGroupsSequence: [
      {
        ...(place && { PlaneOrientationSequence: [{ ImageOrientationPatient: place.orientation }] }),
        ...(measures && { PixelMeasuresSequence: [measures] }),
        SegmentIdentificationSequence: [{ ReferencedSegmentNumber: 1 }],
      },
    ],
    PerFrameFunctionalGroupsSequence: [
      {
        DerivationImageSequence: [
          {
            SourceImageSequence: [
              {
                ...frame,
                SpatialLocationsPreserved: "YES",
                PurposeOfReferenceCodeSequence: [code("121322", "DCM", "Source image for image processing operation")],
              },
            ],
            DerivationCodeSequence: [code("113076", "DCM", "Segmentation")],
          },
        ],
        FrameContentSequence: [{ DimensionIndexValues: place ? [1, 1] : [1] }],
        ...(place && { PlanePositionSequence: [{ ImagePositionPatient: place.position }] }),
      },
    ],
    PixelData: bitsOf(mask).buffer,
    _vrMap: { PixelData: "OB" },
  };
  const meta = {
    FileMetaInformationVersion: new Uint8Array([0, 1]).buffer,
    MediaStorageSOPClassUID: SEGMENTATION,
    MediaStorageSOPInstanceUID: uid,
    TransferSyntaxUID: EXPLICIT,
    ImplementationClassUID: IMPLEMENTATION,
    ImplementationVersionName: "msformer-deploy",
    _vrMap: {},
  };
  const written = new DicomDict(DicomMetaDictionary.denaturalizeDataset(meta));
  written.dict = DicomMetaDictionary.denaturalizeDataset(found);
  return written.write();
}

async function headerOf(file: Blob, name: string): Promise<DataSet> {
  dcmjs.log.setLevel("error");
  try {
    return DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(await file.arrayBuffer(), { untilTag: PIXELS }).dict);
  } catch {
    throw new PageError(`${name}: its header cannot be read whole, and a DICOM segmentation needs it; save the mask as PNG, or use 'msformer-deploy run --seg'`);
  }
}

interface Place {
  position: unknown;
  orientation: unknown;
}

/** Where the first frame is in the patient, and its sizes; from its functional groups where it has them. */
function placeOf(source: DataSet): { place: Place | null; measures: DataSet | null } {
  const first = (group: unknown): DataSet | undefined => (group as DataSet[] | null | undefined)?.[0];
  const groups = [first(source.PerFrameFunctionalGroupsSequence), first(source.SharedFunctionalGroupsSequence)];
  const group = (keyword: string): DataSet => groups.map((each) => first(each?.[keyword])).find((each) => each) ?? source;
  const position = group("PlanePositionSequence").ImagePositionPatient;
  const orientation = group("PlaneOrientationSequence").ImageOrientationPatient;
  const { PixelSpacing, SliceThickness } = group("PixelMeasuresSequence");
  const measures = PixelSpacing ? { PixelSpacing, ...(SliceThickness ? { SliceThickness } : {}) } : null;
  const placed = source.FrameOfReferenceUID && position && orientation && measures;
  return { place: placed ? { position, orientation } : null, measures };
}

function code(CodeValue: string, CodingSchemeDesignator: string, CodeMeaning: string): DataSet {
  return { CodeValue, CodingSchemeDesignator, CodeMeaning };
}

function dimension(DimensionOrganizationUID: string, DimensionDescriptionLabel: string, pointer: number, group: number): DataSet {
  return { DimensionOrganizationUID, DimensionIndexPointer: pointer, FunctionalGroupPointer: group, DimensionDescriptionLabel };
}

/** One bit for each pixel, the first in the lowest bit of a byte; an even number of bytes. */
function bitsOf(mask: Uint8Array): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(2 * Math.ceil(mask.length / 16));
  mask.forEach((each, place) => (found[place >> 3] |= each << (place & 7)));
  return found;
}

/** A UID that nobody else has, under the root that the standard keeps for UUIDs. */
function newUid(): string {
  return `2.25.${BigInt(`0x${crypto.randomUUID().replaceAll("-", "")}`)}`;
}

function now(): [date: string, time: string] {
  const moment = new Date();
  const two = (value: number): string => String(value).padStart(2, "0");
  return [
    `${moment.getFullYear()}${two(moment.getMonth() + 1)}${two(moment.getDate())}`,
    `${two(moment.getHours())}${two(moment.getMinutes())}${two(moment.getSeconds())}`,
  ];
}
