/** An image: RGB or RGBA bytes, as ImageData (1 byte a pixel is grey, 2 grey and alpha). Alpha is laid over white. */
export interface Image {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** RGBA, opaque: `new ImageData(data, width, height)` takes it. */
export interface DecodedImage extends Image {
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** What a tokenizer computes. Sides are in pixels, latents or tokens. */
export interface Spec {
  variant: string;
  height: number;
  width: number;
  downsample: number;
  latentChannels: number;
  latentHeight: number;
  latentWidth: number;
  vocabSize: number;
  /** [height, width] of every scale in tokens, coarse to fine. */
  scales: [number, number][];
  numTokens: number;
  /** Numbers of ids that make a whole number of scales, ascending; the last is numTokens. */
  prefixLengths: number[];
  /** The object as manifest.json has it. */
  manifest: Record<string, any>;
}

/** How long a part took; "fit" is resizing. */
export interface Timing {
  part: "fit" | "encoder" | "quantizer" | "decoder";
  ms: number;
  images: number;
}

export interface LoadOptions {
  /** ONNX Runtime's: ["wasm"] in a browser, ["cpu"] in Node; ["webgpu"] where it is there. */
  executionProviders?: string[];
  /** "auto" is the manifest's default_precision, on every machine. */
  precision?: string;
  /** The module of onnxruntime-web or onnxruntime-node; imported by its name otherwise. */
  ort?: any;
  /** More for InferenceSession.create. */
  sessionOptions?: Record<string, unknown>;
  /** Called while a file comes in, and once it is there; in bytes. */
  onProgress?: (progress: { file: string; loaded: number; total: number }) => void;
  /** Called after each part's run. */
  onTiming?: (timing: Timing) => void;
}

/** Loaded by `load`. Calls may overlap: they run one after the other. */
export interface Tokenizer {
  readonly spec: Readonly<Spec>;
  readonly precision: string;
  /** Which tokenizer ids belong to, as tokens.npz tells it. */
  readonly fingerprints: string[];
  /** Images that go through the engine at once. */
  readonly imagesPerRun: number;
  /** Turn images of any sizes into ids, one Int32Array of numTokens each. */
  encode(images: Image[]): Promise<Int32Array[]>;
  /** Turn ids back into images; a prefix of whole scales (prefixLengths) is enough. */
  decode(ids: ArrayLike<number>[]): Promise<DecodedImage[]>;
  /** encode, then decode. */
  reconstruct(images: Image[]): Promise<DecodedImage[]>;
  /** One image's ids scale by scale, coarse to fine. */
  split(ids: Int32Array): Int32Array[];
  /** The quantised latents, [latentChannels, latentHeight, latentWidth] each. */
  embed(ids: ArrayLike<number>[]): Promise<Float32Array[]>;
  /** The value of every code, [vocabSize, latentChannels]. */
  codebook(): Promise<Float32Array>;
  /** Free the engines, after the runs that are under way. May be called twice. */
  close(): Promise<void>;
}

/** Load a bundle: an address, or in Node a folder too. Every file is checked by SHA-256 before it is used. */
export function load(source: string | URL, options?: LoadOptions): Promise<Tokenizer>;

/** Open an image file as the browser does: upright, values as stored, alpha over white. Node opens none. */
export function readImage(file: Blob): Promise<Image>;

/** Bring an image to height x width by the official rule -> RGB bytes. `encode` does this by itself. */
export function fit(image: Image, height: number, width: number, name?: string): Uint8Array | Uint8ClampedArray;

/** RGB bytes of an image: grey repeated, alpha over white. */
export function toRgb(image: Image, name?: string): Uint8Array | Uint8ClampedArray;

/** Turn an image upright by EXIF's orientation, 1 to 8. */
export function upright(image: Image, orientation: number): Image;

/** The orientation that a JPEG file's EXIF tells, 1 to 8; 1 where it has none. */
export function exifOrientation(bytes: Uint8Array): number;

/** PSNR of two images of one size in dB; Infinity for identical ones. */
export function psnr(a: Image, b: Image): number;

export interface TokensFile {
  ids: Int32Array[];
  names: string[];
  /** Whether the file tells the tokenizer that it was made with, which then is the one it was read for. */
  known: boolean;
}

/** Write tokens.npz, which `coda decode` reads. */
export function writeTokens(
  tok: Pick<Tokenizer, "spec" | "fingerprints">,
  ids: ArrayLike<number>[],
  names: string[],
): Uint8Array<ArrayBuffer>;

/** Read what `coda encode` or `writeTokens` wrote. Raises TokenError for another tokenizer's. */
export function readTokens(
  tok: Pick<Tokenizer, "spec" | "fingerprints">,
  bytes: Uint8Array,
  name?: string,
): Promise<TokensFile>;

/** Root of every error that is raised on purpose. */
export class CodaError extends Error {}
/** The bundle cannot be used. */
export class BundleError extends CodaError {}
/** A file of the bundle is missing, cut or altered. */
export class ChecksumError extends BundleError {}
/** An image of the wrong form, or an empty batch. */
export class ImageError extends CodaError {}
/** Ids of the wrong number, out of range, or of another tokenizer. */
export class TokenError extends CodaError {}
/** ONNX Runtime is not there, or failed. */
export class EngineError extends CodaError {}
/** The tokenizer was closed. */
export class ClosedError extends CodaError {}
