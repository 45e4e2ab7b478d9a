// The page begins: its controls are wired, and everything is shown once.

// ---- start

byId("image-filter").addEventListener("change", showGallery);
byId("explained").addEventListener("change", event => { Object.assign(state, {explained: event.target.value === "" ? null : Number(event.target.value), map: "all"}); showInstance(); });
byId("compared").addEventListener("change", event => { state.compared = event.target.value === "" ? null : Number(event.target.value); showInstance(); });
byId("ranking-all").addEventListener("click", () => { state.allClasses = !state.allClasses; showInstance(); });
byId("reset").addEventListener("click", () => { state.off.clear(); recompute(); byId("switches").focus(); });
byId("unit-search").addEventListener("submit", event => event.preventDefault());
for (const id of ["unit-text", "unit-category", "unit-sort", "unit-used"]) byId(id).addEventListener("input", () => { state.unitLimit = 24; showUnits(); });
byId("unit-more").addEventListener("click", () => {
  const before = state.unitLimit;
  state.unitLimit += 48;
  showUnits();
  byId("unit-list").children[before]?.querySelector("input").focus();
});

fill(byId("unit-category"), make("option", {value: ""}, "all"), ...categories.map(name => make("option", {value: name}, name)));
byId("unit-category-label").hidden = categories.length < 2;
fill(byId("unit-sort"), ...Object.entries(SORTS).filter(([key]) => hasUnits || key !== "score").map(([key, [name]]) => make("option", {value: key}, name)));
if (data.compositions.length) {
  fill(byId("class"), ...data.classes.map((name, c) => make("option", {value: c}, name)));
  byId("class").addEventListener("change", event => chooseClass(Number(event.target.value)));
  byId("glance-all").addEventListener("click", () => { state.allClassesMade = !state.allClassesMade; showGlance(); });
  byId("composition-all").addEventListener("click", () => { state.allConcepts = !state.allConcepts; showClass(); });
  new ResizeObserver(drawBands).observe(byId("composition"));
}
recompute();
showCheck();
showClass();
showGlance();
