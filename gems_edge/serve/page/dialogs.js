/** What one is asked in front of the page: the life of a class, of a photo, and what it really was. */

import { drawSquare } from "./camera.js";
import { drop, forget, move, rename } from "./device.js";
import { byId, count, make, named } from "./elements.js";
import { changed, classes, dropName, isName, plain } from "./lesson.js";
import { chooseFiles, taught } from "./teaching.js";

const dialog = byId("dialog");

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside it
});

function open(title, ...content) {
  const close = make("button", { type: "button", className: "quiet", onclick: () => dialog.close() }, "Close");
  const heading = make("h2", { id: "dialog-title", dir: "auto" }, ...title);
  dialog.replaceChildren(make("div", { className: "inside" }, heading, ...content, close));
  dialog.showModal();
}

/** A button that does something and closes the dialog. */
function action(text, act, className = "") {
  const doing = () => {
    dialog.close();
    act();
  };
  return make("button", { type: "button", className, dir: "auto", onclick: doing }, text);
}

/** A field for a name and a button; `act(name)` after the dialog has closed. */
function nameForm(label, button, value, act) {
  const input = make("input", { value, maxLength: 100, required: true, autocomplete: "off", dir: "auto" });
  const form = make("form", { className: "new" }, make("label", {}, label, input), make("button", {}, button));
  form.onsubmit = (event) => {
    event.preventDefault();
    const name = plain(input.value);
    if (!name) return;
    dialog.close();
    act(name);
  };
  return form;
}

/** Buttons of the classes but one, and a field for a new one. */
function chooser(but, choose) {
  const names = classes().map((each) => each.name).filter((name) => name !== but);
  const buttons = names.map((name) => action(name, () => choose(name), "choice"));
  return [make("div", { className: "choices" }, ...buttons), nameForm("or something new", "That is it", "", choose)];
}

/** Rename a class, add photos to it, forget it. */
export function classDialog(name) {
  const { count: photos } = classes().find((each) => each.name === name) ?? { count: 0 };
  const add = action("Add photos from files", () => chooseFiles(name));
  if (isName(name)) {
    open([name], add, action("Remove this name", () => dropName(name), "bad"));
    return;
  }
  open(
    [name],
    make("p", { className: "beside" }, count(photos, "photo")),
    nameForm("Its name", "Rename", name, (to) => to !== name && changed(rename(name, to))),
    add,
    action("Forget it and its photos", () => changed(forget(name)), "bad"),
  );
}

/** Move a photo to another class, or delete it. */
export function photoDialog(name, photo) {
  const image = make("img", { src: photo.src, alt: `photo ${photo.number} of ${name}`, className: "large" });
  const file = photo.file && !/^camera-\d+\.jpg$/.test(photo.file) ? ` (${photo.file})` : "";
  open(
    [`Photo ${photo.number}${file} of `, named(name)],
    image,
    make("p", {}, "It is really …"),
    ...chooser(name, (to) => changed(move(photo.number, to))),
    action("Delete this photo", () => changed(drop(photo.number)), "bad"),
  );
}

/** What a photo shows that was answered with `answer`, or was not known (null): it is taught as that. */
export async function correctDialog(photo, answer) {
  const canvas = make("canvas", { className: "large", role: "img" });
  canvas.setAttribute("aria-label", "The picture that was answered");
  const bitmap = await createImageBitmap(photo);
  drawSquare(canvas, bitmap, bitmap.width);
  bitmap.close();
  const title = answer === null ? ["What is this?"] : ["This is not ", named(answer), ". What is it?"];
  open(title, canvas, ...chooser(answer, (name) => taught(name, [photo])));
}
