const element = (id) => document.getElementById(id);

async function call(path, options) {
  const response = await fetch(path, options);
  const document = await response.json();
  if (!response.ok) throw new Error(document.error);
  return document;
}

function show(state) {
  element("classes").replaceChildren(...state.classes.map((each) => {
    const item = document.createElement("li");
    item.textContent = `${each.class}: ${each.photos.length}`;
    return item;
  }));
}

async function doing(work) {
  try {
    element("said").textContent = await work();
  } catch (error) {
    element("said").textContent = error.message;
  }
}

element("teach").addEventListener("submit", (event) => {
  event.preventDefault();
  doing(async () => {
    const form = new FormData();
    form.append("class", element("name").value);
    for (const photo of element("photos").files) form.append("photo", photo);
    const state = await call("/api/teach", { method: "POST", body: form });
    show(state);
    return state.change;
  });
});

element("ask").addEventListener("change", () => doing(async () => {
  const answer = await call("/api/predict", { method: "POST", body: element("ask").files[0] });
  return answer.class ?? `unknown, perhaps ${answer.guess}`;
}));

doing(async () => {
  show(await call("/api/state"));
  return "";
});
