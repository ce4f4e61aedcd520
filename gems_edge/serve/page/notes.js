/** One line over the picture, where it covers no button: what was done, with a way back, or why it was not. */

import { byId, make, sentence } from "./elements.js";

const MILLISECONDS = 8000;
const done = byId("done"), refusal = byId("refusal");
let timer;

/** `back`: called by the button that takes it back; null where nothing can. */
export function showDone(text, back) {
  refusal.hidden = true;
  const undo = back && make("button", { type: "button", className: "quiet", onclick: hideThen(back) }, "Undo");
  done.replaceChildren(make("span", { dir: "auto" }, sentence(text)), ...(undo ? [undo] : []));
  show(done);
}

export function showRefusal(text) {
  done.hidden = true;
  refusal.textContent = sentence(text);
  show(refusal);
}

const hideThen = (back) => () => {
  done.hidden = true;
  back();
};

function show(note) {
  note.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (note.hidden = true), MILLISECONDS);
}
