/** Small helpers for the page's elements. Texts are always text: a name that looks like HTML stays a name. */

export const byId = (id) => document.getElementById(id);

/** An element with properties (else attributes) and children: elements and texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A name, which may be of any script, so that its direction does not spill into the sentence around it. */
export const named = (name, tag = "b") => make(tag, { dir: "auto" }, name);

export const percent = (share) => `${Math.round(100 * share)}\u202f%`;

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** What the device says in half a sentence, as a sentence. */
export function sentence(text) {
  const whole = text.trim();
  const end = /[.!?…]$/.test(whole) ? "" : ".";
  return whole.charAt(0).toUpperCase() + whole.slice(1) + end;
}

export const later = (milliseconds) => new Promise((go) => setTimeout(go, milliseconds));

/**
 * Make the children of `parent` those of `keys`, in that order. What is there already stays the same element, so that
 * a button that is being held, or has the focus, is still there afterwards.
 */
export function reconcile(parent, keys, create) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const after = keys.map((key) => {
    const child = before.get(key) ?? create(key);
    child.dataset.key = key;
    before.delete(key);
    return child;
  });
  for (const child of before.values()) child.remove();
  after.forEach((child, place) => {
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
  });
  return after;
}
