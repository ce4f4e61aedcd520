/** The device that serves this page: what it is asked, what it is taught, and whether it is there. */

import { later, sentence } from "./elements.js";

const ASK_MS = 10_000, CHANGE_MS = 120_000;
const AWAY = "The device does not answer. Trying again …";

/** Why something was not done, in one sentence for people. `away`: nobody answered. */
export class Refusal extends Error {
  constructor(text, status = 0) {
    super(sentence(text));
    this.away = status === 0;
    this.status = status;
  }
}

const device = { away: false, changes: 0, watchers: [] };

/** Call `watcher({away, changing})` whenever one of them has changed. */
export function watch(watcher) {
  device.watchers.push(watcher);
}

export const isChanging = () => device.changes > 0;

export const isAway = () => device.away;

function tell(changed) {
  Object.assign(device, changed);
  for (const watcher of device.watchers) watcher({ away: device.away, changing: device.changes > 0 });
}

async function send(path, options, milliseconds) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(milliseconds), ...options });
  } catch {
    if (!device.away) tell({ away: true });
    throw new Refusal(AWAY);
  }
  if (device.away) tell({ away: false });
  const document = await response.json().catch(() => ({}));
  if (response.ok) return document;
  throw new Refusal(document.error ?? `the device answered with ${response.status}`, response.status);
}

/** This page's camera, by which the device steadies its answers. */
const camera = `page-${Math.random().toString(36).slice(2, 12)}`;

/** What a JPEG shows. */
export const ask = (photo) =>
  send(`api/predict?camera=${camera}`, { method: "POST", body: photo, headers: { "content-type": "image/jpeg" } }, ASK_MS);

export const readState = () => send("api/state", {}, ASK_MS);

export const readHealth = () => send("api/health", {}, ASK_MS);

let last = Promise.resolve();

/** Change something; the new state. Changes go one after the other, in the order in which they were asked for. */
function change(verb, body) {
  const json = body instanceof FormData ? {} : { headers: { "content-type": "application/json" } };
  const options = { method: "POST", body: body instanceof FormData ? body : JSON.stringify(body), ...json };
  tell({ changes: device.changes + 1 });
  const changed = last.then(() => send(`api/${verb}`, options, CHANGE_MS));
  last = changed.catch(() => {}).then(() => tell({ changes: device.changes - 1 }));
  return changed;
}

export function teach(name, photos) {
  const form = new FormData();
  form.append("class", name);
  photos.forEach((photo, place) => form.append("photo", photo, photo.name ?? `camera-${place + 1}.jpg`));
  return change("teach", form);
}

export const forget = (name) => change("forget", { class: name });

export const rename = (name, to) => change("rename", { class: name, to });

export const move = (photo, name) => change("move", { photo, class: name });

export const drop = (photo) => change("drop", { photo });

export const undo = (changes = 1) => change("undo", { changes });

/** Call `changed()` whenever somebody, perhaps on another phone, has changed what is taught, and after a break. */
export function listen(changed) {
  const events = new EventSource("api/events");
  events.onopen = () => changed();
  events.onmessage = (message) => {
    if (JSON.parse(message.data).event === "changed") changed();
  };
  events.onerror = async () => {
    if (events.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    await later(5000);
    listen(changed);
  };
}
