/** The picture: the browser's camera, or one photo where there is none, and the small square that the device is sent. */

import { byId } from "./elements.js";

const LEAST_SIDE = 96; // JPEG blurs what is smaller
const QUALITY = 0.92;
const CHOSEN = "gems-edge camera";
const SENTENCES = {
  NotAllowedError: "This page may not use the camera. Allow it in the browser's address bar, or take single photos.",
  NotFoundError: "There is no camera here. You can take or choose single photos.",
  NotReadableError: "Another program uses the camera. Close it and try again, or choose single photos.",
};
const NOT_SECURE =
  "Browsers give the camera to https addresses only. Start gems-edge serve with --tls, or take single photos.";

const video = byId("video"), still = byId("still");
const BOARD = "api/camera.jpg", BOARD_MS = 100;
const seen = { stream: null, hasStill: false, board: false, opening: 0, gone: () => {} };

/** Show the camera that was chosen last, on a phone the one on its back; without any, that of the device. Resolves to "",
 * or why there is none. */
export async function openCamera() {
  const turn = ++seen.opening;
  stop();
  const why = await openOwn(turn);
  return why && turn === seen.opening && (await lookThroughBoard(turn)) ? "" : why;
}

async function openOwn(turn) {
  if (!navigator.mediaDevices?.getUserMedia) return NOT_SECURE;
  try {
    const stream = await firstOf(wishes());
    if (turn !== seen.opening) return "";
    show(stream);
    return "";
  } catch (error) {
    return SENTENCES[error.name] ?? "The camera does not start. Try again, or choose single photos.";
  }
}

/** Show what the camera at the device sees, for as long as it gives pictures. Resolves to whether it gives any. */
async function lookThroughBoard(turn) {
  const picture = await fetch(BOARD, { cache: "no-store" }).then((answer) => answer.ok && answer.blob(), () => false);
  if (turn !== seen.opening) return true;
  if (!picture) return false;
  seen.board = true;
  if (!seen.hasStill) showSquare(await createImageBitmap(picture));
  setTimeout(async () => {
    if (turn !== seen.opening || (await lookThroughBoard(turn))) return;
    seen.board = false;
    seen.gone("The camera at the device went away. Plug it in, or take single photos.");
  }, document.hidden ? 1000 : BOARD_MS);
  return true;
}

function showSquare(bitmap) {
  drawSquare(still, bitmap, 640);
  bitmap.close();
  still.hidden = false;
  video.hidden = true;
}

function wishes() {
  const size = { width: { ideal: 640 }, height: { ideal: 480 } };
  const chosen = remembered();
  const any = { ...size, facingMode: { ideal: "environment" } };
  return chosen ? [{ ...size, deviceId: { exact: chosen } }, any] : [any];
}

async function firstOf([wish, ...others]) {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: false, video: wish });
  } catch (error) {
    if (others.length && ["OverconstrainedError", "NotFoundError"].includes(error.name)) return firstOf(others);
    throw error;
  }
}

function show(stream) {
  seen.stream = stream;
  if (!seen.hasStill) backToCamera();
  const [track] = stream.getVideoTracks();
  track.onended = () => {
    stop();
    seen.gone("The camera went away. Plug it in, or choose another.");
  };
  video.classList.toggle("mirrored", track.getSettings().facingMode === "user");
  video.srcObject = stream;
  video.play().catch(() => {});
}

function stop() {
  for (const track of seen.stream?.getTracks() ?? []) {
    track.onended = null;
    track.stop();
  }
  seen.stream = video.srcObject = null;
  seen.board = false;
}

/** Call `gone(sentence)` when the camera is unplugged or taken away, and `more()` when cameras come or go. */
export function watchCamera(gone, more) {
  seen.gone = gone;
  navigator.mediaDevices?.addEventListener("devicechange", more);
}

const cameras = async () =>
  ((await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? []).filter((each) => each.kind === "videoinput");

export const hasOthers = async () => (await cameras()).length > 1;

/** The next of this machine's cameras; as openCamera. */
export async function switchCamera() {
  const ids = (await cameras()).map((each) => each.deviceId);
  const now = seen.stream?.getVideoTracks()[0]?.getSettings().deviceId;
  remember(ids[(ids.indexOf(now) + 1) % ids.length]);
  return openCamera();
}

function remembered() {
  try {
    return localStorage.getItem(CHOSEN);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function remember(id) {
  try {
    localStorage.setItem(CHOSEN, id);
  } catch {
    // the same
  }
}

/** Look at a photo instead of through the camera, until backToCamera. Rejects with a sentence for what is none. */
export async function lookAt(file) {
  showSquare(await opened(file));
  seen.hasStill = true;
}

export function backToCamera() {
  seen.hasStill = false;
  still.hidden = true;
  video.hidden = false;
}

export const isStill = () => seen.hasStill;

/** Whether there is a picture to send. */
export const sees = () => seen.hasStill || seen.board || (seen.stream !== null && video.readyState >= video.HAVE_CURRENT_DATA);

/** What is seen now, as a JPEG of the centred square, which is what the device looks at, in its size. */
export async function frame(side) {
  return squareOf(seen.hasStill || seen.board ? still : video, side);
}

/** A photo's file as such a JPEG, with its name. */
export async function squareOfFile(file, side) {
  const bitmap = await opened(file);
  const square = await squareOf(bitmap, side);
  bitmap.close();
  return new File([square], file.name, { type: square.type });
}

async function opened(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`this is no picture that the browser can read: ${file.name}`);
  }
}

async function squareOf(source, side) {
  const canvas = "OffscreenCanvas" in window ? new OffscreenCanvas(1, 1) : document.createElement("canvas");
  drawSquare(canvas, source, Math.max(side, LEAST_SIDE));
  if (canvas.convertToBlob) return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
}

/** Draw the centred square of a picture, never larger than it is. */
export function drawSquare(canvas, source, most) {
  const width = source.videoWidth ?? source.width, height = source.videoHeight ?? source.height;
  const square = Math.min(width, height), side = Math.min(most, square);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the device sees what is transparent
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (width - square) / 2, (height - square) / 2, square, square, 0, 0, side, side);
}
