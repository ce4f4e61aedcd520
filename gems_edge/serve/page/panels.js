/** Whether enough was taught, what was done, and what it costs. */

import { pace } from "./asking.js";
import { drop, move, readHealth, undo } from "./device.js";
import { photoDialog } from "./dialogs.js";
import { byId, count, later, make, named, percent, sentence } from "./elements.js";
import { changed, isTaught, lesson, onLesson } from "./lesson.js";

const MOST_LINES = 6;

function photoOf(number) {
  for (const each of lesson.state.classes) {
    const photo = each.photos.find((photo) => photo.number === number);
    if (photo) return { name: each.class, photo };
  }
  return null;
}

function figure(label, value, note) {
  const more = note ? [make("span", { className: "note-of" }, note)] : [];
  return make("div", { className: "figure" }, make("dt", {}, label), make("dd", {}, value, ...more));
}

function showEnough() {
  const enough = lesson.state.enough;
  byId("enough").hidden = !enough;
  if (!enough) return;
  const body = byId("enough-body");
  body.replaceChildren(...forecast(enough), ...pulls(enough), ...confusions(enough), ...advice(enough));
}

function forecast({ leave_one_out: left, no_forecast: why }) {
  if (!left) return [make("p", { className: "beside" }, sentence(`I cannot say how many new photos I shall get right: ${why}`))];
  const about = `${Math.round(100 * left.low)} to ${percent(left.high)} is likely${left.rough ? "; a rough figure" : ""}`;
  const shown = make("dl", { className: "figures" }, figure("right, of new photos", percent(left.accuracy), about));
  return [shown, make("p", { className: "beside" }, `Each of ${count(left.photos, "photo")} was left out once and asked about.`)];
}

/** A photo, what is to be said of it, and what can be done about it. */
function doubt(number, words, ...actions) {
  const found = photoOf(number);
  if (!found) return [];
  const image = make("img", { src: found.photo.src, alt: `photo ${number} of ${found.name}`, width: 52, height: 52 });
  const open = make("button", { type: "button", className: "photo", onclick: () => photoDialog(found.name, found.photo) }, image);
  return [make("div", { className: "doubt" }, open, make("p", {}, ...words(found.name)), ...actions)];
}

const small = (text, act) => make("button", { type: "button", className: "quiet", dir: "auto", onclick: () => changed(act()) }, text);

function pulls({ pulls_away: pull }) {
  if (!pull) return [];
  const words = (name) => ["Is this really ", named(name), `? Without it, ${count(pull.righted, "more photo")} would be right.`];
  return doubt(pull.photo, words, small("Delete it", () => drop(pull.photo)));
}

function confusions({ leave_one_out: left, pulls_away: pull }) {
  const confused = (left?.confusions ?? []).filter((each) => each.photo !== pull?.photo);
  const shown = confused.slice(0, MOST_LINES).flatMap(({ photo, guess }) =>
    doubt(photo, (name) => ["Taught as ", named(name), ", looks like ", named(guess), "."], small("Move it", () => move(photo, guess))),
  );
  const more = confused.length - MOST_LINES;
  return more > 0 ? [...shown, make("p", { className: "beside" }, `And ${count(more, "other photo")}.`)] : shown;
}

function advice({ wants_photo: wish, leave_one_out: left }) {
  if (wish) return [make("p", { className: "advice" }, "Another photo would help ", named(wish.class), ` most: it has ${wish.photos}.`)];
  if (!left) return [];
  return [make("p", { className: "advice" }, "Yes: every class has its photos, and all are told apart.")];
}

function showHistory() {
  const { history, undo: most } = lesson.state;
  byId("history-section").hidden = !isTaught() && !most;
  byId("undo").disabled = !most;
  const rows = history.map((change, place) => {
    const text = make("span", { dir: "auto" }, sentence(change));
    if (place === 0 || place >= most) return make("li", {}, text);
    const back = small("Undo to here", () => undo(place + 1));
    back.setAttribute("aria-label", `Undo this and ${count(place, "change")} after it`);
    return make("li", {}, text, back);
  });
  byId("history").replaceChildren(...rows);
  const download = byId("download");
  download.hidden = !isTaught();
  download.href = "api/state.zip";
}

/** Ask what answers cost, every few seconds while somebody looks. */
export async function keepCounting() {
  for (;;) {
    if (!document.hidden) await readHealth().then(({ cost }) => showCost(cost), () => {});
    await later(3000);
  }
}

function showCost(cost) {
  const rounded = (value, digits = 0) => value.toFixed(digits);
  const figures = [
    ["one answer", cost.answer_ms, (ms) => `${rounded(ms)} ms`, pace.roundTrip && `${rounded(pace.roundTrip)} ms there and back`],
    ["answers a second", pace.perSecond, (each) => rounded(each, 1), "on this page"],
    ["most memory so far", cost.peak_mb, (mb) => `${rounded(mb)} MB`, `${rounded(cost.predicted_peak_mb)} MB predicted, without the server`],
    ["processor", cost.temperature_c, (degrees) => `${rounded(degrees)} °C`, ""],
  ];
  const known = figures.filter(([, value]) => value !== null && value !== undefined);
  byId("cost").replaceChildren(...known.map(([label, value, text, note]) => figure(label, text(value), note)));
}

byId("undo").onclick = () => changed(undo());
onLesson(showEnough);
onLesson(showHistory);
