// On paper: one decision a sheet, and nothing hidden behind a fold.

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
  for (const image of document.querySelectorAll("img[loading]")) image.loading = "eager";
});
addEventListener("afterprint", () => {
  for (const each of opened) each.open = false;
  fill(byId("sheets"));
  document.body.classList.remove("all-decisions");
});

/** A copy of the decision that is shown: without identities, and with its drawings as pictures. */
function copied() {
  const from = document.querySelector(".instance"), copy = from.cloneNode(true), drawn = from.querySelectorAll("canvas");
  copy.querySelectorAll("canvas").forEach((canvas, place) => canvas.replaceWith(make("img", {class: "drawn", src: drawn[place].toDataURL(), alt: ""})));
  for (const element of [copy, ...copy.querySelectorAll("[id], [aria-labelledby]")]) {
    if (element.id) element.dataset.was = element.id;
    element.removeAttribute("id");
    element.removeAttribute("aria-labelledby");
  }
  return copy;
}

/** Every decision that the gallery shows, one a sheet. */
function layOut() {
  const shown = state.instance, chosen = instances.filter(matches), sheets = [];
  for (const {index} of chosen) {
    Object.assign(state, {instance: index, explained: null, compared: null, map: "all"});
    showInstance();
    sheets.push(copied());
  }
  state.instance = shown;
  showInstance();
  fill(byId("sheets"), ...sheets);
  document.body.classList.add("all-decisions");
}
function printAll() {
  layOut();
  print();
}
