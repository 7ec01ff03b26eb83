// The camera, where the browser gives it: on https pages and on localhost.

/** @type {MediaStream | undefined} */
let stream;

/** @param {HTMLVideoElement} video */
export async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The browser gives the camera to https pages and to localhost alone; open the page there, or choose a file");
  }
  closeCamera(video); // one that is open would stay on
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const denied = error instanceof DOMException && error.name === "NotAllowedError";
    throw new Error(denied ? "The camera was not allowed; allow it for this page in the browser's settings, or choose a file" : "There is no camera that answers; choose a file");
  }
  video.srcObject = stream;
  await video.play();
}

/** Return the picture that is seen now. @param {HTMLVideoElement} video */
export function takePicture(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { data, width, height };
}

/** @param {HTMLVideoElement} video */
export function closeCamera(video) {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  video.srcObject = null;
}
