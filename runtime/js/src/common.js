// What is the same in a browser and in Node.

export * from "./errors.js";
export { fit } from "./fit.js";
export { psnr } from "./metrics.js";
export { exifOrientation, toRgb, upright } from "./pixels.js";
export { readTokens, writeTokens } from "./tokens_file.js";
