// A browser starts no worker out of a file. Where the pages are opened from a folder, this one runs the script of a
// worker in a hidden frame: the search needs no more than a script to send messages to, and to get them from.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.waiting = []
      this.inner = null
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html>"
      frame.onload = () => this.start(frame.contentWindow, new URL(url, location.href).href)
      document.body.append(frame)
    }

    start(inner, url) {
      // In a worker postMessage goes out; in a frame it would go to itself.
      inner.postMessage = data => setTimeout(() => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      })
      const script = inner.document.createElement("script")
      script.onload = () => {
        this.inner = inner
        for (const data of this.waiting.splice(0)) this.postMessage(data)
      }
      script.src = url
      inner.document.head.append(script)
    }

    postMessage(data) {
      if (this.inner === null) this.waiting.push(data)
      else setTimeout(() => this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data })))
    }

    terminate() {}
  }
}
