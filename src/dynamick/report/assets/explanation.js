// The page begins: its controls are wired, and everything is shown once.

const on = (id, kind, does) => byId(id)?.addEventListener(kind, does);
const chosen = event => (event.target.value === "" ? null : Number(event.target.value));

on("image-filter", "change", event => filterBy({filter: event.target.value}));
on("image-sure", "change", event => filterBy({sure: event.target.value}));
on("image-class", "change", event => filterBy({ofClass: chosen(event)}));
on("explained", "change", event => { Object.assign(state, {explained: chosen(event), map: "all"}); visit("image"); showInstance(); });
on("compared", "change", event => { state.compared = chosen(event); visit("image"); showInstance(); });
on("own-scale", "change", event => { state.ownScale = event.target.checked; showInstance(); });
on("ranking-all", "click", () => { state.allClasses = !state.allClasses; showInstance(); });
on("products-all", "click", () => { state.allProducts = !state.allProducts; showInstance(); });
on("reset", "click", () => { state.off.clear(); switchesChanged(); write(false); byId("switches").focus(); });
on("copy-link", "click", copyLink);
on("show-keys", "click", KEYS["?"]);
on("print-all", "click", printAll);
for (const id of ["unit-search", "class-form"]) on(id, "submit", event => event.preventDefault());
for (const id of ["unit-text", "unit-category", "unit-sort", "unit-used"]) on(id, "input", () => { state.unitLimit = 24; showUnits(); });
for (const id of ["class-search", "class-sort"]) on(id, "input", () => { state.classLimit = 24; showGlance(); });
on("class", "change", event => findClass(Number(event.target.value)));
on("composition-all", "click", () => { state.allConcepts = !state.allConcepts; showClass(); });
/** Show more of a list, and let the keyboard go on with the first that is new. */
function more(id, list, limit, show, at) {
  on(id, "click", () => {
    const before = state[limit];
    state[limit] += 48;
    show();
    byId(list).children[before]?.querySelector(at).focus();
  });
}
more("unit-more", "unit-list", "unitLimit", showUnits, "input");
more("glance-all", "glance", "classLimit", showGlance, "a");
// A link to a part of the page moves there, and leaves the address to what is looked at.
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", event => { event.preventDefault(); goTo(link.hash.slice(1)); byId(link.hash.slice(1)).focus(); });
addEventListener("popstate", follow);

const classNames = data.classes.map((name, c) => [String(c), name]);
options(byId("image-class"), ["", "any class"], classNames, null);
fill(byId("image-sure"), ...Object.entries(SURE).map(([key, [name]]) => make("option", {value: key}, name)));
fill(byId("unit-category"), make("option", {value: ""}, "all"), ...categories.map(name => make("option", {value: name}, name)));
byId("unit-category-label").hidden = categories.length < 2;
fill(byId("unit-sort"), ...Object.entries(SORTS).filter(([key]) => named || key !== "score").map(([key, [name]]) => make("option", {value: key}, name)));
fill(byId("class-sort"), ...Object.entries(CLASS_SORTS).filter(([key]) => key !== "right" || byId("confusions")).map(([key, [name]]) => make("option", {value: key}, name)));
fill(byId("class"), ...classNames.map(([value, name]) => make("option", {value}, name)));
new ResizeObserver(drawBands).observe(byId("composition"));

document.body.classList.toggle("unnamed", !named);
const anchor = location.hash.includes("=") ? null : document.getElementById(location.hash.slice(1));
read();
switchesChanged();
showClass();
showGlance();
if (state.places.length) goTo(PLACES[state.places.at(-1)], "instant");
else anchor?.scrollIntoView();
setTimeout(check);
