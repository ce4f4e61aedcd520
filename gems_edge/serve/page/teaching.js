/** A class's button: what the camera sees while it is held is taught. */

import { frame, sees, squareOfFile } from "./camera.js";
import { teach } from "./device.js";
import { byId, count, make } from "./elements.js";
import { holdable } from "./hold.js";
import { changed, lesson } from "./lesson.js";
import { showRefusal } from "./notes.js";

const EVERY_MS = 200, MOST = 20; // photos of one hold: more of the same moment teach nothing
const MOST_FILES = 50;
const picture = byId("picture"), counter = byId("counter");

/** The name whose button is being held; null: none. */
export const held = { name: null };

const side = () => lesson.state.bundle.image_size;

/** The button that teaches the class of that name. */
export function teachButton(name) {
  const button = make("button", { type: "button", className: "hold" }, "Hold to teach");
  button.setAttribute("aria-label", `Teach ${name}: hold while the camera sees it`);
  let taking = null;
  const finish = (keep) => async () => {
    if (!taking) return;
    const photos = taking.stop();
    taking = null;
    button.classList.remove("held");
    if (keep) await taught(name, photos);
  };
  const start = () => {
    if (!sees()) return;
    button.classList.add("held");
    taking = takePhotos(name, finish(true));
  };
  const end = async () => {
    if (taking) await finish(true)();
    else if (!sees()) chooseFiles(name);
  };
  const once = async () => (sees() ? taught(name, [frame(side())]) : chooseFiles(name));
  holdable(button, { start, end, cancel: finish(false), once });
  return button;
}

/** Take one photo now and one each EVERY_MS until `stop()`, which gives them; at MOST `full` is called. */
function takePhotos(name, full) {
  const photos = [];
  held.name = name;
  const take = () => {
    photos.push(frame(side()));
    counter.textContent = count(photos.length, "photo");
    if (photos.length === MOST) full();
  };
  picture.classList.add("taking");
  counter.hidden = false;
  const timer = setInterval(take, EVERY_MS);
  take();
  return {
    stop() {
      clearInterval(timer);
      held.name = null;
      picture.classList.remove("taking");
      counter.hidden = true;
      return photos;
    },
  };
}

/** Teach photos, or promises of them. */
export async function taught(name, photos) {
  try {
    await changed(teach(name, await Promise.all(photos)));
  } catch (error) {
    showRefusal(error.message);
  }
}

/** Let people choose photos of a class. */
export function chooseFiles(name) {
  const input = make("input", { type: "file", accept: "image/*", multiple: true });
  input.onchange = () => {
    if (input.files.length > MOST_FILES) showRefusal(`Choose at most ${MOST_FILES} photos at once.`);
    else taught(name, [...input.files].map((file) => squareOfFile(file, side())));
  };
  input.click();
}
