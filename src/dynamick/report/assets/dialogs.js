// The keys that the page knows, and the window that lists them.

const KEYS = {
  "ArrowRight": () => step(1), "n": () => step(1), "ArrowLeft": () => step(-1), "p": () => step(-1),
  "w": () => { filterBy({filter: state.filter === "wrong" ? "all" : "wrong", ofClass: null, sure: "any"}); goTo("images"); },
  "/": () => byId("unit-text").focus(), "c": () => byId("class-search").focus(), "l": () => copyLink(), "a": () => byId("reset").click(),
  "?": () => byId("keys").showModal(),
};

document.addEventListener("keydown", event => {
  const typing = event.target.closest("input:not([type='checkbox']), select, textarea"), open = document.querySelector("dialog[open]");
  if (typing || open || event.ctrlKey || event.altKey || event.metaKey || !KEYS[event.key]) return;
  if (event.key !== "?" && !byId("use-keys").checked) return;
  event.preventDefault();
  KEYS[event.key]();
});

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  // A click beside the window closes it.
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
}

// ---- one concept wherever it stands: lit up while the pointer or the keyboard is on it

function light(event) {
  const key = event.target.closest?.("[data-concept]")?.dataset.concept ?? null;
  for (const element of document.querySelectorAll(".lit")) if (element.dataset.concept !== key) element.classList.remove("lit");
  document.body.classList.toggle("lighting", key !== null);
  if (key !== null) for (const element of document.querySelectorAll("[data-concept]")) element.classList.toggle("lit", element.dataset.concept === key);
}
for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, light);
