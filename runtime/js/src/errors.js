// Every error that is raised on purpose. Each message says what was found, what was expected, and what to do.

/** Root of them all. */
export class CodaError extends Error {
  /** @param {string} message @param {{cause?: unknown}} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The bundle cannot be used: not there, of a newer format, contradictory. */
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

/**
 * Return what an error says, in one line.
 * @param {unknown} error
 */
export function oneLine(error) {
  const text = error instanceof Error ? error.message || error.name : String(error);
  return text.replace(/\s+/g, " ").trim().slice(0, 200);
}
