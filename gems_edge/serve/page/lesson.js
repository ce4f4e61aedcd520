/** What the device was taught, as it last said, and names that were typed and have no photo yet. */

import { readState, undo } from "./device.js";
import { showDone, showRefusal } from "./notes.js";

const EMPTY = { generation: 0, bundle: { name: "", image_size: 128 }, classes: [], waiting: null, history: [], undo: 0 };
const watchers = [];
let pending = [];

export const lesson = { state: EMPTY, read: false };

/** Call `watcher()` whenever the lesson may be another. */
export function onLesson(watcher) {
  watchers.push(watcher);
}

/** Every class, in order: {name, photos, count}; photos that wait for a second class have no pictures yet. */
export function classes() {
  const { state } = lesson;
  const taught = state.classes.map((each) => ({ name: each.class, photos: each.photos, count: each.photos.length }));
  const waiting = state.waiting ? [{ name: state.waiting.class, photos: [], count: state.waiting.photos }] : [];
  return [...taught, ...waiting, ...pending.map((name) => ({ name, photos: [], count: 0 }))];
}

export const isTaught = () => lesson.state.generation > 0;

export const plain = (name) => name.trim().replace(/\s+/g, " ");

/** A class that is only a name, until it gets a photo. */
export function addName(name) {
  if (!classes().some((each) => each.name === name)) pending.push(name);
  tell();
}

export function dropName(name) {
  pending = pending.filter((each) => each !== name);
  tell();
}

export const isName = (name) => pending.includes(name);

function apply(state) {
  lesson.state = state;
  lesson.read = true;
  const there = [...state.classes.map((each) => each.class), state.waiting?.class];
  pending = pending.filter((name) => !there.includes(name));
  tell();
}

function tell() {
  for (const watcher of watchers) watcher();
}

let reading = null;

/** Read the state anew; once, however often it is asked for meanwhile. */
export function refresh() {
  reading ??= readState()
    .then(apply, (refusal) => refusal.away || showRefusal(refusal.message))
    .finally(() => (reading = null));
  return reading;
}

/** Show what a change came to. Resolves to whether it was made. */
export async function changed(change) {
  try {
    const state = await change;
    apply(state);
    showDone(state.change, state.undo ? () => changed(undo()) : null);
    return true;
  } catch (refusal) {
    showRefusal(refusal.message);
    refresh();
    return false;
  }
}
