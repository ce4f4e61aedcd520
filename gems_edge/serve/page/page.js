/** The page of gems-edge serve: teach and ask beside a live picture. */

import { keepAsking, lookAnew } from "./asking.js";
import { backToCamera, hasOthers, lookAt, openCamera, switchCamera, watchCamera } from "./camera.js";
import "./classes.js";
import { listen, watch } from "./device.js";
import { byId, later } from "./elements.js";
import { addName, lesson, onLesson, plain, refresh } from "./lesson.js";
import { showRefusal } from "./notes.js";
import { keepCounting } from "./panels.js";

const connection = byId("connection"), blind = byId("blind"), liveAgain = byId("live-again");

/** Show why there is no picture; "" where there is one. */
function showBlind(why) {
  byId("blind-text").textContent = why;
  byId("camera-again").hidden = !window.isSecureContext;
  blind.hidden = why === "";
}

async function startCamera(open = openCamera) {
  showBlind(await open());
  byId("switch-camera").hidden = !(await hasOthers());
}

function wireCamera() {
  watchCamera(showBlind, async () => {
    byId("switch-camera").hidden = !(await hasOthers());
    if (!blind.hidden && liveAgain.hidden) startCamera();
  });
  byId("camera-again").onclick = () => startCamera();
  byId("switch-camera").onclick = () => startCamera(switchCamera);
  byId("photo-file").onchange = async ({ target }) => {
    const [file] = target.files;
    target.value = ""; // the same file may be chosen again
    if (!file) return;
    await lookAt(file).then(showPhoto, (error) => showRefusal(error.message));
  };
  liveAgain.onclick = () => {
    backToCamera();
    liveAgain.hidden = true;
    lookAnew();
    startCamera();
  };
}

function showPhoto() {
  blind.hidden = true;
  liveAgain.hidden = false;
  lookAnew();
}

function wireNames() {
  byId("new-class").onsubmit = (event) => {
    event.preventDefault();
    const input = byId("new-name"), name = plain(input.value);
    if (!name) return;
    addName(name);
    input.value = "";
  };
}

function wireDevice() {
  watch(({ away }) => {
    connection.textContent = away ? "The device does not answer. Trying again …" : lesson.state.bundle.name;
    connection.classList.toggle("away", away);
    if (away) comeBack();
  });
  onLesson(() => {
    if (!connection.classList.contains("away")) connection.textContent = lesson.state.bundle.name;
  });
  listen(refresh);
}

/** Ask until the device answers again. */
async function comeBack() {
  while (connection.classList.contains("away")) {
    await later(1500);
    await refresh();
  }
}

wireCamera();
wireNames();
startCamera();
refresh();
wireDevice();
keepAsking();
keepCounting();
