// The codecs of cornerstonejs come without types: what the page uses of them.

declare module "@cornerstonejs/codec-openjpeg/decodewasmjs" {
  const open: import("./compressed").OpenCodec<"J2KDecoder">;
  export default open;
}
declare module "@cornerstonejs/codec-charls/decodewasmjs" {
  const open: import("./compressed").OpenCodec<"JpegLSDecoder">;
  export default open;
}
declare module "*?url" {
  const address: string;
  export default address;
}
declare module "jpeg-lossless-decoder-js" {
  export class Decoder {
    decompress(content: ArrayBuffer, offset: number, length: number): ArrayBuffer;
  }
}
