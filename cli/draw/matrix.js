"use strict";
// The page is three things: what is asked (the filter, which the hash keeps), what that leaves (rows, columns, and a verdict for each answer),
// and the part of it that is on the screen. Text goes into the page as text only.
(() => {
const $ = id => document.getElementById(id);
const {ends, answers, rows} = JSON.parse($("matrix").textContent);
const kinds = ["workload", "host", "outside"];
const none = 0, some = 1, all = 2;
const names = ["none", "some", "all"];
const words = ["Nothing passes", "Some passes", "Everything passes"];

// answerOf each cell: equal rows are one array.
const unfolded = rows.map(runs => {
  const row = new Uint32Array(ends.length);
  for (let k = 0, j = 0; k < runs.length; k += 2) { row.fill(runs[k], j, j + runs[k + 1]); j += runs[k + 1]; }
  return row;
});
const answerOf = (i, j) => unfolded[ends[i].row][j];

for (const e of ends) {
  const cut = e.kind === 0 && e.namespace && e.about.startsWith(e.namespace + "/") ? e.namespace.length + 1 : 0;
  e.where = e.about.slice(0, cut);
  e.name = e.about.slice(cut);
  e.group = e.kind === 0 ? e.namespace : "";
  e.text = [e.about, kinds[e.kind], ...e.namespaces, ...e.members].join("\n").toLowerCase();
}

// protocolsOf "TCP 80,8000-8080; UDP" are [{name: "tcp", ports: [[80, 80], [8000, 8080]]}, {name: "udp", ports: null}].
function protocolsOf(conns) {
  return conns.split(";").map(part => {
    const [, name, ports] = /^\s*(.*?)(?:\s+(\d[\d,\s-]*))?\s*$/s.exec(part);
    return {name: name.toLowerCase(), ports: ports ? ports.split(",").map(range) : null};
  });
}

function range(text) {
  const [first, last] = text.split("-").map(Number);
  return [first, last === undefined ? first : last];
}

// judge an answer by "TCP 443", "443", "UDP", or any other words that are looked for in it.
function judge(a, query) {
  return query ? judged(a.conns, query) : a.verdict;
}

// judged conns, as "TCP 80,443; UDP", "all but UDP 4789", or "on one node: all | between nodes: none".
function judged(conns, query) {
  const [first, ...others] = conns.split(" | ").map(part => part.replace(/^[^:;]*: /, ""));
  if (others.length > 0) {
    const verdicts = [first, ...others].map(part => judged(part, query));
    return verdicts.every(v => v === verdicts[0]) ? verdicts[0] : some;
  }
  if (first === "all" || first === "none") return names.indexOf(first);
  if (first.startsWith("all but ")) return all - listed(first.slice(8), query);
  return listed(first, query);
}

// listed tells whether all, some or none of what the query asks for is in a list of connections.
function listed(conns, query) {
  const [, name, port] = /^([a-z][a-z0-9-]*)?[\s/:]*(\d+)?$/.exec(query) || [];
  if (!name && !port) return conns.toLowerCase().includes(query) ? some : none;
  const found = protocolsOf(conns).filter(p => !name || p.name.split(/[\s,]+/).includes(name));
  if (port) return found.some(p => !p.ports ? Boolean(name) : p.ports.some(([f, l]) => f <= port && port <= l)) ? all : none;
  return found.length === 0 ? none : found.some(p => !p.ports) ? all : some;
}

// What is asked.
const fields = ["from", "from-ns", "from-kind", "to", "to-ns", "to-kind", "port"];
let at = null;   // {i, j}: the cell, or with one of them -1 the end, that is looked at
let rowsLeft = [], columnsLeft = [], verdicts = new Uint8Array(answers.length);
const shown = () => document.querySelector("input[name=show]:checked").value;

function fill(select, first, options) {
  select.replaceChildren(new Option(first, ""), ...options.map(([text, value]) => new Option(text, value)));
}

function selects() {
  const spaces = [...new Set(ends.flatMap(e => e.namespaces))].sort();
  const has = kinds.filter((_, k) => ends.some(e => e.kind === k));
  for (const side of ["from", "to"]) {
    fill($(side + "-ns"), "namespace", spaces.map(s => [s, s]));
    fill($(side + "-kind"), "kind", has.map(k => [k, k]));
  }
}

function chosen(side) {
  const want = $(side).value.toLowerCase().split(/\s+/).filter(Boolean), space = $(side + "-ns").value, kind = $(side + "-kind").value;
  return ends.flatMap((e, i) =>
    want.every(w => w.length > 1 && w[0] === "-" ? !e.text.includes(w.slice(1)) : e.text.includes(w)) && (!space || e.namespaces.includes(space)) &&
    (!kind || kinds[e.kind] === kind) ? [i] : []);
}

function filter() {
  const query = $("port").value.trim().toLowerCase(), show = names.indexOf(shown());
  answers.forEach((a, k) => { verdicts[k] = judge(a, query); });
  let left = chosen("from"), across = chosen("to");
  const count = [0, 0, 0], columnHas = new Uint8Array(ends.length);
  left = left.filter(i => {
    let has = show < 0;
    for (const j of across) {
      const v = verdicts[answerOf(i, j)];
      count[v]++;
      if (v === show) has = columnHas[j] = true;
    }
    return has;
  });
  if (show >= 0) across = across.filter(j => columnHas[j]);
  rowsLeft = left;
  columnsLeft = across;
  names.forEach((n, v) => { $("count-" + n).textContent = count[v].toLocaleString("en"); });
  $("count").textContent = `${left.length.toLocaleString("en")} sources × ${across.length.toLocaleString("en")} destinations` +
    (left.length < ends.length || across.length < ends.length ? ` of ${ends.length.toLocaleString("en")} ends` : "");
  layout();
}

// The hash keeps what is asked.
function remember() {
  const p = new URLSearchParams();
  for (const f of fields) if ($(f).value) p.set(f, $(f).value);
  if (shown()) p.set("show", shown());
  if (at && at.i >= 0) p.set("source", ends[at.i].about);
  if (at && at.j >= 0) p.set("destination", ends[at.j].about);
  const hash = p.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", "#" + hash);
}

function recall() {
  const p = new URLSearchParams(location.hash.slice(1));
  for (const f of fields) $(f).value = p.get(f) || "";
  const show = [...document.querySelectorAll("input[name=show]")];
  (show.find(r => r.value === p.get("show")) || show[0]).checked = true;
  const find = about => about === null ? -1 : ends.findIndex(e => e.about === about);
  at = {i: find(p.get("source")), j: find(p.get("destination"))};
  if (at.i < 0 && at.j < 0) at = null;
  filter();
  tell();
  if (at) reveal();
}

// The part that is on the screen.
const grid = $("grid"), sheet = $("sheet");
const place = {wide: false, head: 0, side: 0, w: 0, h: 0};
let drawn = "";

function make(tag, css, text) {
  const e = document.createElement(tag);
  if (css) e.className = css;
  if (text !== undefined) e.textContent = text;
  return e;
}

function label(e) {
  const s = make("span");
  s.dir = "auto";
  if (e.where) s.append(make("span", "where", e.where));
  s.append(e.name);
  return s;
}

const measure = (() => {
  const context = document.createElement("canvas").getContext("2d");
  return (list, font) => {
    context.font = font;
    return list.reduce((w, text) => Math.max(w, context.measureText(text).width), 0);
  };
})();

const clamp = (v, least, most) => Math.max(least, Math.min(v, most));

function layout() {
  const style = getComputedStyle(document.body);
  const font = "13px " + style.fontFamily;
  const across = columnsLeft.map(j => ends[j]);
  place.side = Math.ceil(clamp(measure(rowsLeft.map(i => ends[i].about), font) + 30, 120, Math.max(160, Math.min(340, innerWidth * .34))));
  const room = $("why").parentElement.clientWidth - 48 - (innerWidth > 900 ? 336 : 0) - place.side - 4;
  const each = room / Math.max(1, across.length);
  place.wide = each >= 88;
  if (place.wide) {
    const conns = rowsLeft.length * across.length > 5000 ? ["TCP 8080,8443"] : rowsLeft.flatMap(i => columnsLeft.map(j => answers[answerOf(i, j)].conns));
    const need = Math.max(measure(conns, "12px monospace") + 42, measure(across.map(e => e.name), font) + 24, measure(across.map(e => e.where), font) + 16);
    Object.assign(place, {w: Math.floor(clamp(Math.min(each, need), 88, 190)), h: 38, head: across.some(e => e.where) ? 84 : 66});
  } else {
    Object.assign(place, {w: 24, h: 24, head: Math.ceil(clamp(measure(across.map(e => e.about), "12px " + style.fontFamily) + 20, 60, 220))});
  }
  sheet.className = place.wide ? "wide" : "tall";
  sheet.style.width = place.side + place.w * columnsLeft.length + "px";
  sheet.style.height = place.head + place.h * rowsLeft.length + "px";
  grid.setAttribute("aria-rowcount", rowsLeft.length + 1);
  grid.setAttribute("aria-colcount", columnsLeft.length + 1);
  drawn = "";
  draw();
}

// part is which rows and columns are on the screen, with some around them.
function part() {
  const more = 2;
  const top = Math.floor(grid.scrollTop / place.h) - more, left = Math.floor(grid.scrollLeft / place.w) - more;
  const tall = innerWidth > 900 ? grid.parentElement.clientHeight : innerHeight;
  return {
    top: Math.max(0, top), bottom: Math.min(rowsLeft.length, top + Math.ceil(tall / place.h) + 2 * more),
    left: Math.max(0, left), right: Math.min(columnsLeft.length, left + Math.ceil(grid.parentElement.clientWidth / place.w) + 2 * more),
  };
}

function draw(p = part()) {
  const key = [p.top, p.bottom, p.left, p.right].join();
  if (key === drawn) return;
  drawn = key;
  if (rowsLeft.length === 0 || columnsLeft.length === 0) {
    sheet.style.width = sheet.style.height = "";
    sheet.replaceChildren(make("div", "empty", "No cell is left by this filter."));
    return;
  }
  const made = [head(p)];
  for (let r = p.top; r < p.bottom; r++) made.push(line(p, r));
  sheet.replaceChildren(...made);
  mark();
}

const begins = (list, k) => k > 0 && (ends[list[k]].kind !== ends[list[k - 1]].kind || ends[list[k]].group !== ends[list[k - 1]].group);

function head(p) {
  const row = make("div", "head");
  row.setAttribute("role", "row");
  row.setAttribute("aria-rowindex", 1);
  row.style.height = place.head + "px";
  const corner = make("div", "corner");
  corner.setAttribute("role", "columnheader");
  corner.style.width = place.side + "px";
  corner.append(make("span", "", "from ↓"), make("span", "", "to →"));
  row.append(corner);
  for (let k = p.left; k < p.right; k++) {
    const e = ends[columnsLeft[k]], c = make("div", "column" + (begins(columnsLeft, k) ? " begin" : ""));
    c.setAttribute("role", "columnheader");
    c.setAttribute("aria-colindex", k + 2);
    Object.assign(c.style, {left: place.side + k * place.w + "px", width: place.w + "px"});
    c.title = e.about;
    c.dataset.j = columnsLeft[k];
    c.append(label(e));
    row.append(c);
  }
  return row;
}

function line(p, r) {
  const i = rowsLeft[r], e = ends[i], show = names.indexOf(shown());
  const row = make("div", "line" + (r + 1 < rowsLeft.length && begins(rowsLeft, r + 1) ? " last" : ""));
  row.setAttribute("role", "row");
  row.setAttribute("aria-rowindex", r + 2);
  Object.assign(row.style, {top: place.head + r * place.h + "px", height: place.h + "px"});
  const source = make("div", "source");
  source.setAttribute("role", "rowheader");
  source.style.width = place.side + "px";
  source.title = e.about;
  source.dataset.i = i;
  source.append(label(e));
  row.append(source);
  for (let k = p.left; k < p.right; k++) {
    const j = columnsLeft[k], a = answerOf(i, j), v = verdicts[a], text = answers[a].conns;
    const c = make("div", `cell ${names[v]}${show >= 0 && v !== show ? " away" : ""}${i === j ? " mine" : ""}${begins(columnsLeft, k) ? " begin" : ""}`);
    c.id = `c${i}-${j}`;
    c.setAttribute("role", "gridcell");
    c.setAttribute("aria-colindex", k + 2);
    c.setAttribute("aria-label", `${e.about} to ${ends[j].about}: ${text}`);
    Object.assign(c.style, {left: place.side + k * place.w + "px", width: place.w + "px"});
    c.title = `${e.about} → ${ends[j].about}\n${text}`;
    c.dataset.i = i;
    c.dataset.j = j;
    c.append(make("i", "mark " + names[v]));
    if (place.wide && answers[a].verdict === some) c.append(make("span", "", text));
    row.append(c);
  }
  return row;
}

function mark() {
  for (const e of sheet.querySelectorAll(".at, .head .hot, .source.hot")) { e.classList.remove("at", "hot"); e.removeAttribute("aria-selected"); }
  grid.removeAttribute("aria-activedescendant");
  if (!at) return;
  warm(at.i, at.j);
  const c = $(`c${at.i}-${at.j}`);
  if (!c) return;
  c.classList.add("at");
  c.setAttribute("aria-selected", "true");
  grid.setAttribute("aria-activedescendant", c.id);
}

// warm is the row's and the column's heading of what is pointed at.
function warm(i, j) {
  for (const e of sheet.querySelectorAll(".source, .column")) e.classList.toggle("hot", e.dataset.i === String(i) || e.dataset.j === String(j));
}

function reveal() {
  const r = rowsLeft.indexOf(at.i), k = columnsLeft.indexOf(at.j);
  if (r >= 0) {
    const top = r * place.h;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + place.h > grid.scrollTop + grid.clientHeight - place.head) grid.scrollTop = top + place.h - grid.clientHeight + place.head;
  }
  if (k >= 0) {
    const left = k * place.w;
    if (left < grid.scrollLeft) grid.scrollLeft = left;
    else if (left + place.w > grid.scrollLeft + grid.clientWidth - place.side) grid.scrollLeft = left + place.w - grid.clientWidth + place.side;
  }
  draw();
  mark();
}

function choose(i, j) {
  at = i < 0 && j < 0 ? null : {i, j};
  tell();
  if (at) reveal(); else mark();
  remember();
}

// What decides.
const why = $("why");

function list(tag, css, items, most = 12) {
  const l = make(tag, css), item = text => { const e = make("li", "", text); e.dir = "auto"; return e; };
  l.append(...items.slice(0, most).map(item));
  if (items.length <= most) return [l];
  const rest = make("details"), more = make(tag, css);
  more.append(...items.slice(most).map(item));
  rest.append(make("summary", "", `${items.length - most} more`), more);
  return [l, rest];
}

function members(e, heading) {
  if (e.members.length === 0) return [];
  return [make("h3", "", heading), ...list("ul", "members", e.members, 6)];
}

function tell() {
  why.scrollTop = 0;
  if (!at) {
    const keys = make("div", "keys");
    for (const [key, does] of [["click", "a cell, for what passes and what decides"], ["← ↑ ↓ →", "from cell to cell"], ["Home End", "along the row; with Ctrl, to the corners"],
      ["/", "to the filter"], ["Esc", "lets go of the cell"]]) keys.append(make("kbd", "", key), make("span", "", does));
    why.replaceChildren(make("h2", "", "Who can reach whom"),
      make("p", "", "A row is a source, a column a destination. Ends that policy treats alike are one. The address of this page keeps the filter and the cell."), keys);
  } else if (at.i < 0 || at.j < 0) {
    tellEnd(at.i < 0 ? at.j : at.i);
  } else {
    tellCell(at.i, at.j);
  }
}

function tellEnd(i) {
  const e = ends[i], count = f => { const n = [0, 0, 0]; ends.forEach((_, j) => n[f(j)]++); return n; };
  const says = n => `everything with ${n[all]}, something with ${n[some]}, nothing with ${n[none]}`;
  const h = make("h2", "", e.about);
  h.dir = "auto";
  const alike = e.members.length === 1 ? "" : `, ${e.members.length} that policy treats alike`;
  why.replaceChildren(h, make("p", "", ["Workload", "Host", "Outside"][e.kind] + (e.kind === 2 ? "" : alike)),
    make("h3", "", "It may send"), make("p", "", says(count(j => verdicts[answerOf(i, j)]))),
    make("h3", "", "It may be sent"), make("p", "", says(count(j => verdicts[answerOf(j, i)]))),
    ...members(e, e.kind === 2 ? "Networks" : "Endpoints"));
}

function tellCell(i, j) {
  const a = answers[answerOf(i, j)], v = verdicts[answerOf(i, j)], h = make("h2"), verdict = make("p", "verdict " + names[v]);
  const name = e => { const s = make("bdi", "", e.about); return s; };
  h.append(name(ends[i]), make("span", "to", " to "), name(ends[j]));
  const query = $("port").value.trim();
  verdict.append(make("i", "mark " + names[v]), query ? `${words[v]} of ${query}` : words[v]);
  const made = [h, verdict];
  if (a.verdict === some) made.push(make("h3", "", "What passes"), ...list("ul", "conns", a.conns.split(/;\s*/)));
  if (a.why.length > 0) made.push(make("h3", "", "What decides"), ...list("ol", "", a.why));
  if (i !== j) {
    const back = make("button"), b = verdicts[answerOf(j, i)];
    back.type = "button";
    back.append(make("i", "mark " + names[b]), `The other way: ${answers[answerOf(j, i)].conns}`);
    back.addEventListener("click", () => { choose(j, i); grid.focus(); });
    made.push(back);
  }
  made.push(...members(ends[i], "Sources"));
  if (i !== j) made.push(...members(ends[j], "Destinations"));
  why.replaceChildren(...made);
}

// What the person does.
const number = text => text === undefined ? -1 : Number(text);
const pointed = event => event.target.closest(".cell, .source, .column");

grid.addEventListener("click", event => {
  const e = pointed(event);
  if (e) choose(number(e.dataset.i), number(e.dataset.j));
});
grid.addEventListener("mouseover", event => {
  const e = pointed(event);
  if (e) warm(number(e.dataset.i), number(e.dataset.j));
});
grid.addEventListener("mouseleave", mark);
grid.addEventListener("scroll", () => requestAnimationFrame(() => draw()));
addEventListener("resize", layout);
addEventListener("hashchange", recall);

grid.addEventListener("keydown", event => {
  const rowsHigh = Math.max(1, Math.floor((grid.clientHeight - place.head) / place.h) - 1);
  let r = at ? rowsLeft.indexOf(at.i) : -1, k = at ? columnsLeft.indexOf(at.j) : -1;
  const moves = {
    ArrowUp: () => r--, ArrowDown: () => r++, ArrowLeft: () => k--, ArrowRight: () => k++, PageUp: () => { r -= rowsHigh; }, PageDown: () => { r += rowsHigh; },
    Home: () => { k = 0; if (event.ctrlKey) r = 0; }, End: () => { k = columnsLeft.length - 1; if (event.ctrlKey) r = rowsLeft.length - 1; },
  };
  if (event.key === "Escape") {
    choose(-1, -1);
  } else if (moves[event.key] && rowsLeft.length > 0 && columnsLeft.length > 0) {
    moves[event.key]();
    choose(rowsLeft[clamp(r, 0, rowsLeft.length - 1)], columnsLeft[clamp(k, 0, columnsLeft.length - 1)]);
  } else {
    return;
  }
  event.preventDefault();
});

addEventListener("keydown", event => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  event.preventDefault();
  $("from").focus();
});

const form = $("filter");
form.addEventListener("submit", event => event.preventDefault());
function asked() {
  grid.scrollTo(0, 0);
  filter();
  tell();
  remember();
}
form.addEventListener("input", asked);
form.addEventListener("reset", () => setTimeout(asked));
$("swap").addEventListener("click", () => {
  for (const f of ["", "-ns", "-kind"]) [$("from" + f).value, $("to" + f).value] = [$("to" + f).value, $("from" + f).value];
  asked();
});

// Paper has no scroll bars: it gets all that the filter leaves, up to what a browser can print.
const mostPrinted = 20000;
addEventListener("beforeprint", () => {
  const fits = rowsLeft.length * columnsLeft.length <= mostPrinted;
  document.body.classList.toggle("cut", !fits);
  $("many").textContent = fits ? "" : "Not all rows and columns are here: filter before printing.";
  if (fits) draw({top: 0, bottom: rowsLeft.length, left: 0, right: columnsLeft.length});
});
addEventListener("afterprint", () => draw());

selects();
recall();
})();
