/** The classes: how much of each is seen, the button that teaches it, and its photos. */

import { classDialog, photoDialog } from "./dialogs.js";
import { byId, make, percent, reconcile } from "./elements.js";
import { classes, isTaught, lesson, onLesson } from "./lesson.js";
import { held, teachButton } from "./teaching.js";

const UNKNOWN = "unknown:", CLASS = "class:";
const list = byId("classes");

export function showClasses() {
  const all = classes();
  const names = all.map((each) => each.name);
  if (held.name !== null && !names.includes(held.name)) names.push(held.name); // forgotten elsewhere meanwhile
  const keys = names.map((name) => CLASS + name);
  if (isTaught() && lesson.state.bundle.knows_unknown) keys.push(UNKNOWN);
  const cards = reconcile(list, keys, (key) => (key === UNKNOWN ? unknownCard() : classCard(key.slice(CLASS.length))));
  all.forEach((each, place) => showPhotos(cards[place], each));
  byId("first-steps").hidden = !lesson.read || isTaught();
  list.hidden = !keys.length;
}

function classCard(name) {
  const open = make("button", { type: "button", className: "name", dir: "auto", onclick: () => classDialog(name) }, name);
  open.setAttribute("aria-haspopup", "dialog");
  open.title = "Rename, add photos, forget";
  const photos = make("ul", { className: "photos" });
  const hint = make("p", { className: "hint" });
  return make("li", { className: "class" }, row(open, name), teachButton(name), photos, hint);
}

function unknownCard() {
  const label = make("span", { className: "name" }, "Something else");
  return make("li", { className: "class unknown" }, row(label, "Something else"));
}

function row(label, name) {
  const bar = make("div", { className: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100 }, make("i"));
  bar.setAttribute("aria-label", `How much it looks like: ${name}`);
  return make("div", { className: "row" }, label, make("span", { className: "share" }), bar);
}

function showPhotos(card, { name, photos, count }) {
  const strip = card.querySelector(".photos");
  const shots = new Map(photos.map((photo) => [photo.src, photo]));
  reconcile(strip, [...shots.keys()], (src) => make("li", {}, photoButton(name, shots.get(src))));
  strip.hidden = !photos.length;
  const hint = card.querySelector(".hint");
  hint.hidden = photos.length > 0;
  hint.textContent = count
    ? `${count === 1 ? "1 photo is" : `${count} photos are`} kept until there is a second thing to tell it from.`
    : "No photo yet: hold the button while the camera sees it.";
}

function photoButton(name, photo) {
  const image = make("img", { src: photo.src, alt: `photo ${photo.number} of ${name}`, loading: "lazy", width: 52, height: 52 });
  const button = make("button", { type: "button", className: "photo" }, image);
  button.setAttribute("aria-haspopup", "dialog");
  button.onclick = () => photoDialog(name, photo);
  return button;
}

/** Bars of a steadied answer; null: there is none. */
export function showShares(steady) {
  const shares = new Map(steady?.shares.map((each) => [CLASS + each.class, each.share]));
  if (steady) shares.set(UNKNOWN, steady.unknown);
  const best = steady && (steady.class === null ? UNKNOWN : CLASS + steady.class);
  for (const card of list.children) {
    const share = shares.get(card.dataset.key);
    const bar = card.querySelector(".bar");
    bar.setAttribute("aria-valuenow", Math.round(100 * (share ?? 0)));
    bar.firstChild.style.transform = `scaleX(${share ?? 0})`;
    card.querySelector(".share").textContent = share === undefined ? "" : percent(share);
    card.classList.toggle("best", card.dataset.key === best);
  }
}

onLesson(showClasses);

