// Calls the worker: one promise a call.

export class Client {
  #worker;
  #waiting = new Map();
  #next = 0;

  /** @param {(progress: {file: string, loaded: number, total: number}) => void} onProgress @param {(text: string) => void} onFailure */
  constructor(onProgress, onFailure) {
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.addEventListener("message", ({ data }) => {
      if (data.progress) return onProgress(data.progress);
      const waiting = this.#waiting.get(data.id);
      if (waiting === undefined) return undefined;
      this.#waiting.delete(data.id);
      return data.error === undefined ? waiting.resolve(data.value) : waiting.reject(new Error(data.error));
    });
    this.#worker.addEventListener("error", (event) => {
      onFailure(`The page's worker did not start (${event.message || "a file of the page is missing"}); copy the whole folder that \`coda site\` wrote`);
    });
  }

  /** @param {string} call @param {object} args @returns {Promise<any>} */
  call(call, args) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, args });
    });
  }
}
