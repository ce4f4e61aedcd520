/** Asking about one picture after the other, and the answer in words. */

import { frame, isStill, sees } from "./camera.js";
import { showShares } from "./classes.js";
import { ask, isAway, isChanging, watch } from "./device.js";
import { correctDialog } from "./dialogs.js";
import { byId, later, named, percent } from "./elements.js";
import { classes, isTaught, lesson, onLesson, refresh } from "./lesson.js";
import { showRefusal } from "./notes.js";

const LEAST_MS = 50; // between two questions: what people can follow, and a phone's battery
const RATE_MS = 3000;
const answer = byId("answer"), beside = byId("beside"), correct = byId("correct");
const now = { photo: null, said: null, asked: "", ends: [] };

/** The milliseconds of the last answer, there and back, and how many came a second. */
export const pace = { roundTrip: null, perSecond: null };

/** Ask for as long as the page is open. */
export async function keepAsking() {
  for (;;) {
    if (mayAsk()) await askOnce();
    else await later(60);
  }
}

function mayAsk() {
  if (document.hidden || isAway() || isChanging() || !isTaught() || !sees()) return false;
  return !isStill() || now.asked !== `still ${lesson.state.generation}`; // a still is asked about once
}

/** The picture is another one. */
export function lookAnew() {
  now.asked = "";
  now.said = null;
  show();
}

async function askOnce() {
  const began = performance.now(), asked = isStill() ? `still ${lesson.state.generation}` : "";
  try {
    const photo = await frame(lesson.state.bundle.image_size);
    const said = await ask(photo);
    if (said.generation !== lesson.state.generation) refresh();
    if (asked === "" && isStill()) return; // of the camera, and now one looks at a photo
    Object.assign(now, { photo, said: asked ? alone(said) : said.steady, asked });
    count(began);
    show();
  } catch (refusal) {
    if (!refusal.away) showRefusal(refusal.message);
    await later(1000);
  }
  await later(Math.max(0, LEAST_MS - (performance.now() - began)));
}

/** The answer to one photo by itself, in the form of a steadied one. */
function alone(said) {
  const unknown = said.class === null ? 1 : 0;
  return { class: said.class, guess: said.guess, unknown, shares: unknown ? [] : said.shares };
}

function count(began) {
  const ended = performance.now();
  now.ends = [...now.ends.filter((at) => ended - at < RATE_MS), ended];
  pace.roundTrip = ended - began;
  const span = ended - now.ends[0];
  pace.perSecond = span > 500 ? (1000 * (now.ends.length - 1)) / span : null;
}

/** Say what is seen. Only another answer is another text, so that a screen reader says it once. */
function show() {
  const { said } = now;
  showShares(isTaught() ? said : null);
  correct.hidden = !isTaught() || !said;
  if (!isTaught()) return say(classes().length ? "Keep going" : "Hello", hello());
  if (!said && !sees()) return say("Show me something", "Take or choose a photo with the button in the picture.");
  if (!said) return say("…", isChanging() ? "Learning …" : "");
  if (said.class === null) {
    correct.textContent = "It is …";
    return say("I don't know", "Nearest: ", named(said.guess));
  }
  correct.textContent = "No, it is …";
  const share = said.shares.find((each) => each.class === said.class)?.share;
  say(said.class, isChanging() ? "Learning …" : share === undefined ? "" : percent(share));
}

function hello() {
  if (!lesson.read) return "";
  const taught = classes().filter((each) => each.count).length;
  return taught ? "Now teach a second thing, and I tell the two apart." : "Teach me two kinds of things.";
}

function say(text, ...more) {
  if (answer.textContent !== text) answer.textContent = text;
  beside.replaceChildren(...more);
}

correct.onclick = () => correctDialog(now.photo, now.said.class);
onLesson(() => {
  const names = new Set(lesson.state.classes.map((each) => each.class));
  if (now.said && now.said.class !== null && !names.has(now.said.class)) now.said = null;
  show();
});
watch(show);
