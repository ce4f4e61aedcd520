/** A button that is held: with a finger, the mouse, or the space bar. */

/**
 * `start()` when it is pressed, `end()` when it is let go, `cancel()` when the hand only wanted to scroll, or at Escape.
 * `once()`: it was activated without being held, as screen readers do.
 */
export function holdable(button, { start, end, cancel, once }) {
  let held = null; // what holds it: a pointer's id, or a key
  let origin = null;

  const begin = (by) => {
    if (held !== null) return;
    held = by;
    start();
  };
  const finish = (by, call) => {
    if (held !== by) return;
    held = null;
    call();
  };

  button.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    origin = { x: event.clientX, y: event.clientY, at: event.timeStamp };
    button.setPointerCapture(event.pointerId);
    begin(event.pointerId);
  });
  button.addEventListener("pointermove", (event) => {
    if (held !== event.pointerId) return;
    const far = Math.hypot(event.clientX - origin.x, event.clientY - origin.y) > 24;
    if (far && event.timeStamp - origin.at < 250) finish(event.pointerId, cancel); // a swipe
  });
  button.addEventListener("pointerup", (event) => finish(event.pointerId, end));
  button.addEventListener("pointercancel", (event) => finish(event.pointerId, cancel));
  button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone

  button.addEventListener("keydown", (event) => {
    if (event.key === "Escape") finish(held, cancel);
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) begin(event.key);
  });
  button.addEventListener("keyup", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    finish(event.key, end);
  });
  button.addEventListener("blur", () => finish(held, end));

  let pressed = -Infinity;
  button.addEventListener("pointerup", () => (pressed = performance.now()));
  button.addEventListener("click", () => {
    if (performance.now() - pressed > 500) once();
  });
}
