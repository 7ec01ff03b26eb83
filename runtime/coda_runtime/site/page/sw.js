// Keeps the page: what it has loaded once is there without a network. PAGE, above, is written by `coda site`.

const CACHE = `coda-${new URL(self.registration.scope).pathname}-`;
const CURRENT = CACHE + PAGE.version;
// What else the server has below this folder is none of the page's: it is neither kept nor given other headers.
const OURS = new Set(PAGE.files.map((name) => new URL(name, self.registration.scope).href));

self.addEventListener("install", (event) => {
  const fresh = PAGE.shell.map((name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CURRENT).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(CACHE) && name !== CURRENT) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const ours = OURS.has(request.url.replace(/[?#].*$/, ""));
  if (request.method !== "GET" || !(ours || PAGE.integrity.includes(request.integrity))) return;
  event.respondWith(ours ? answer(request).then(isolated) : answer(request));
});

async function answer(request) {
  const cache = await caches.open(CURRENT);
  const kept = await cache.match(request, { ignoreSearch: true, ignoreVary: true });
  if (kept !== undefined) return kept;
  const found = await fetch(request);
  if (found.ok && found.status === 200) {
    // A full disk is no reason not to answer; the page then is not kept.
    await cache.put(request, found.clone()).catch(() => undefined);
  }
  return found;
}

// With these a page may use threads. A server that sends them itself has them on the first visit already.
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
