// A bundle: its manifest, and the files that it names, each checked by size and SHA-256 before it is used.

import { BundleError, ChecksumError, oneLine } from "./errors.js";
import { sha256 } from "./sha256.js";
import { readSpec } from "./spec.js";

const FORMAT_VERSION = 1;
const GET_AGAIN = "copy, download or export the bundle again";
// Relative, no folder or file hidden, nothing that leaves the folder.
const SAFE_NAME = /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/;

/**
 * @typedef {{part: string, format: string, precision: string, file: string, sha256: string, bytes: number}} Artifact
 * @typedef {(file: string, onBytes?: (loaded: number) => void) => Promise<Uint8Array>} Read
 */

export class Bundle {
  /**
   * Read a bundle's manifest and the list of checksums that seals it.
   *
   * @param {string} name of its folder or address, for messages
   * @param {Read} read
   */
  static async open(name, read) {
    const bytes = await read("manifest.json").catch((/** @type {unknown} */ error) => {
      throw new BundleError(`${name} has no manifest.json that can be read (${oneLine(error)}); expected a bundle, which \`coda export\` makes`, { cause: error });
    });
    let manifest;
    try {
      manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (error) {
      throw new BundleError(`${name}: manifest.json is not valid JSON (${oneLine(error)}); ${GET_AGAIN}`, { cause: error });
    }
    const version = manifest?.format_version;
    if (version !== FORMAT_VERSION) {
      const newer = version > FORMAT_VERSION ? "it was made by a newer coda: upgrade this package" : GET_AGAIN;
      throw new BundleError(`${name}: manifest.json has format version ${version}, and this one reads ${FORMAT_VERSION}: ${newer}`);
    }
    const bundle = new Bundle(name, read, manifest);
    if (typeof manifest.checksums === "string") await bundle.#checkSeal(bytes);
    return bundle;
  }

  /** @param {string} name @param {Read} read @param {any} manifest */
  constructor(name, read, manifest) {
    this.name = name;
    this.read = read;
    this.spec = readSpec(manifest.spec);
    /** @type {string} */
    this.defaultPrecision = manifest.default_precision;
    /** @type {Artifact[]} */
    this.artifacts = listOf(manifest.artifacts).map(checkArtifact);
    /** @type {string | undefined} */
    this.sums = typeof manifest.checksums === "string" ? manifest.checksums : undefined;
  }

  /** What ids belong to, each "part:sha256": the value table, where there is one, and the quantizers. */
  get fingerprints() {
    const quantizers = this.artifacts.filter(({ part, format }) => part === "quantizer" && format !== "ptx");
    const tables = this.artifacts.filter(({ part }) => part === "codebook");
    return [...tables, ...quantizers].map((artifact) => `${artifact.part}:${artifact.sha256}`);
  }

  /** Precisions that the encoder and the decoder come in as ONNX; the default first. */
  get precisions() {
    const found = this.artifacts.filter(({ part, format }) => part === "decoder" && format === "onnx");
    const names = found.map(({ precision }) => precision).sort();
    const first = names.filter((name) => name === this.defaultPrecision);
    return [...new Set([...first, ...names])];
  }

  /**
   * Return the artifact of a part. Raises BundleError where there is none.
   * @param {string} part
   * @param {string} format
   * @param {string} precision
   */
  find(part, format, precision) {
    const found = this.artifacts.find((it) => it.part === part && it.format === format && it.precision === precision);
    if (found !== undefined) return found;
    const there = this.artifacts.filter((it) => it.part === part).map((it) => `${it.precision} (${it.format})`);
    throw new BundleError(
      `${this.name} has no ${part} in ${precision} as ${format}, only ${there.join(", ") || "none at all"}; choose a precision that it has, or \`coda export\` it`,
    );
  }

  /**
   * Return a file's bytes, which are those of the manifest.
   * @param {Artifact} artifact
   * @param {(loaded: number) => void} [onBytes]
   */
  async load(artifact, onBytes) {
    const where = `${this.name}: ${artifact.file}`;
    const bytes = await this.read(artifact.file, onBytes).catch((/** @type {unknown} */ error) => {
      throw new ChecksumError(`${where} cannot be read (${oneLine(error)}); ${GET_AGAIN}`, { cause: error });
    });
    if (bytes.length !== artifact.bytes) {
      throw new ChecksumError(
        `${where} has ${bytes.length} bytes, but the manifest says ${artifact.bytes}: it is truncated or altered; ${GET_AGAIN}`,
      );
    }
    await compare(where, bytes, artifact.sha256, "the manifest");
    return bytes;
  }

  /** @param {Uint8Array} manifest its bytes */
  async #checkSeal(manifest) {
    const name = /** @type {string} */ (this.sums);
    if (name !== "SHA256SUMS") throw new BundleError(`${this.name}: checksums is ${JSON.stringify(name)}, expected "SHA256SUMS"; ${GET_AGAIN}`);
    const bytes = await this.read(name).catch((/** @type {unknown} */ error) => {
      throw new ChecksumError(`${this.name}: ${name} cannot be read (${oneLine(error)}); ${GET_AGAIN}`, { cause: error });
    });
    const sums = new Map();
    for (const line of new TextDecoder().decode(bytes).split("\n").slice(0, -1)) {
      const match = /^([0-9a-f]{64}) {2}(.+)$/.exec(line);
      if (match === null) throw new ChecksumError(`${this.name}: ${name} has a line that is no checksum; ${GET_AGAIN}`);
      sums.set(match[2], match[1]);
    }
    await compare(`${this.name}: manifest.json`, manifest, sums.get("manifest.json") ?? "", name);
    for (const { file, sha256: digest } of this.artifacts) {
      if (sums.get(file) !== digest) throw new ChecksumError(`${this.name}: ${file} and ${name} disagree: one of them was altered; ${GET_AGAIN}`);
    }
  }
}

/** @param {string} where @param {Uint8Array} bytes @param {string} expected @param {string} by */
async function compare(where, bytes, expected, by) {
  const found = await sha256(bytes);
  if (found === expected) return;
  const says = expected === "" ? "lists none" : `says ${expected.slice(0, 12)}...`;
  throw new ChecksumError(`${where} has SHA-256 ${found.slice(0, 12)}..., but ${by} ${says}: it was altered; ${GET_AGAIN}`);
}

/** @param {unknown} artifacts @returns {unknown[]} */
function listOf(artifacts) {
  if (Array.isArray(artifacts)) return artifacts;
  throw new BundleError(`manifest.json: artifacts is ${JSON.stringify(artifacts)?.slice(0, 60)}, expected a list; ${GET_AGAIN}`);
}

/** @param {any} entry @param {number} index @returns {Artifact} */
function checkArtifact(entry, index) {
  const words = ["part", "format", "precision", "file", "sha256"].every((key) => typeof entry?.[key] === "string");
  if (!words || !/^[0-9a-f]{64}$/.test(entry.sha256) || !Number.isInteger(entry.bytes)) {
    throw new BundleError(`manifest.json: artifacts[${index}] is incomplete; expected part, format, precision, file, sha256 and bytes; ${GET_AGAIN}`);
  }
  if (!SAFE_NAME.test(entry.file)) {
    throw new BundleError(`manifest.json: artifacts[${index}].file is ${JSON.stringify(entry.file)}; expected a file inside the bundle; ${GET_AGAIN}`);
  }
  return entry;
}
