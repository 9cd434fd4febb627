/** A frame of run lengths (PS3.5, annex G): a segment for each byte of a sample, the highest first. */
export function unpackedRle(frame: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const segments = view.getUint32(0, true);
  const pixels = size / segments;
  const found = new Uint8Array(size);
  for (let segment = 0; segment < segments; segment++) {
    let place = view.getUint32(4 + 4 * segment, true);
    for (let pixel = 0; pixel < pixels && place < frame.length; ) {
      const code = view.getInt8(place++);
      if (code === -128) continue;
      const count = code < 0 ? 1 - code : code + 1;
      for (let each = 0; each < count && pixel < pixels; each++, pixel++) {
        const value = frame[code < 0 ? place : place + each];
        // Of one sample the bytes change places, as files keep the lowest first; samples of 8 bits stay in order.
        const byte = segments === 2 ? 1 - segment : segment;
        found[pixel * segments + byte] = value;
      }
      place += code < 0 ? 1 : count;
    }
  }
  return found;
}
