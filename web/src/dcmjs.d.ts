// dcmjs comes without types: what the page uses of it.

declare module "dcmjs" {
  /** A data set by the names of its elements; sequences are lists of data sets. */
  export interface DataSet {
    [keyword: string]: unknown;
  }
  const dcmjs: {
    data: {
      DicomMessage: { readFile(content: ArrayBuffer, options?: { untilTag?: string }): { dict: object } };
      DicomMetaDictionary: { naturalizeDataset(dict: object): DataSet; denaturalizeDataset(dataSet: DataSet): object };
      DicomDict: new (meta: object) => { dict: object; write(): ArrayBuffer };
    };
    log: { setLevel(level: string): void };
  };
  export default dcmjs;
}
