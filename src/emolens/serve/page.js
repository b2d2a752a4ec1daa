// A conversation with its readouts. All that anybody wrote is set as text, never as HTML.

const MOST_SHOWN = 6;
const FIRST_SHOWN = ["desperate", "calm", "angry", "happy"];
const FULL = 0.95; // of all distances so far; what is beyond has the same colour
const LEAST_UNIT = 0.05; // of readouts, so that noise is not painted as if it were much
const ROLES = { prompt: "while reading", colon: "where the reply begins", reply: "while writing" };
const REASONS = { stop: "ended by itself", length: "cut at the most tokens", cancelled: "stopped" };

const $ = (id) => document.getElementById(id);
const make = (tag, name = "", text = "") => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.textContent = text;
  return made;
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const signed = (value, digits = 2) =>
  value === null || value === undefined ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

// control characters and marks of direction as something to be seen; joiners shape words and stay
const visible = (text) =>
  text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (c) =>
    "\n\t\u200c\u200d\u00ad".includes(c)
      ? c
      : `\u2039U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u203a`,
  );

let state = null;
let shown = []; // emotions, in the order of their colours
let colourBy = "";
let running = null; // what stops the reply that is being written
let cursor = null; // the token that is told of
const log = []; // exchanges

// --- the server ------------------------------------------------------------------------------

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("emolens-token", given);
  history.replaceState(null, "", location.pathname);
}

const ask = async (path, body, signal) => {
  const token = sessionStorage.getItem("emolens-token");
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  if (body) headers["content-type"] = "application/json";
  const options = { headers, signal, credentials: "omit" };
  const answer = await fetch(path, body ? { ...options, method: "POST", body: JSON.stringify(body) } : options);
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const error = new Error(told?.error?.message ?? `the server answered with ${answer.status}`);
  error.status = answer.status;
  throw error;
};

async function* events(answer) {
  let rest = "";
  for await (const part of chunks(answer.body.pipeThrough(new TextDecoderStream()).getReader())) {
    const found = (rest + part).split("\n\n");
    rest = found.pop();
    for (const event of found) yield JSON.parse(event.slice("data: ".length));
  }
}

async function* chunks(reader) {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// --- scales ----------------------------------------------------------------------------------

const row = (emotion) => state.emotions.indexOf(emotion);
const cut = (emotion, ...moments) =>
  moments
    .map((m) => state.thresholds.find((t) => t.emotion === emotion && t.moment === m && t.layer === state.layer))
    .find(Boolean);
const series = (one) => [...one.own.map((token) => token.values), ...one.pieces.map((piece) => piece.values)];

// where an emotion's colours are neutral, and how far from there they are full
const scale = (emotion) => {
  const middle = cut(emotion, "colon", "reply", "prompt")?.mean ?? 0;
  const index = row(emotion);
  const far = log.flatMap((one) => series(one).map((values) => Math.abs((values[index] ?? middle) - middle)));
  far.sort((a, b) => a - b);
  return { middle, unit: Math.max(LEAST_UNIT, far[Math.floor(FULL * far.length)] ?? 0) };
};

const paint = (span, value, { middle, unit }) => {
  if (value === null || value === undefined) return;
  const level = Math.max(-1, Math.min(1, (value - middle) / unit));
  span.style.backgroundColor = `rgb(${level < 0 ? "0 114 178" : "213 94 0"} / ${(60 * Math.abs(level)).toFixed(0)}%)`;
};

// --- the conversation ------------------------------------------------------------------------

const begin = (user) => {
  const one = { user, own: [], pieces: [], colon: null, alarms: [], end: null, boxes: {} };
  for (const [who, name] of [["user", "You"], ["model", visible(state.model)]]) {
    const turn = make("div", `turn ${who}`);
    const head = make("p", "who");
    head.append(make("span", "", name), make("small"));
    const said = make("p", "said", who === "user" ? visible(user) : "");
    said.dir = "auto";
    turn.append(head, said);
    $("conversation").append(turn);
    one.boxes[who] = said;
    one.boxes[`${who}-told`] = head.lastChild;
  }
  walkable(one.boxes.model);
  log.push(one);
  return one;
};

// every token can be pointed at, or reached by the arrows
const walkable = (box) => {
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Reply; arrow keys go from token to token");
  box.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const spans = [...box.children];
    const at = spans.indexOf(cursor);
    point(spans[Math.max(0, Math.min(spans.length - 1, at < 0 ? 0 : at + way))]);
  });
};

const point = (span) => {
  cursor?.classList.remove("at");
  cursor = span ?? null;
  if (!span) return;
  span.classList.add("at");
  const values = shown.map((name) => `${visible(name)} ${signed(span.values[row(name)])}`);
  const note = span.classList.contains("unknown") ? " (unknown to the model)" : "";
  $("told").textContent = `“${span.textContent.trim()}”${note}: ${values.join(", ")}`;
};

const addToken = (box, token) => {
  const span = make("span", token.unknown ? "unknown" : "", visible(token.text));
  span.values = token.values;
  span.addEventListener("pointerenter", () => point(span));
  box.append(span);
  token.span = span;
};

const take = (one, event) => {
  if (event.type === "read") {
    const last = Math.max(...event.tokens.map((token) => token.turn));
    const mine = event.tokens.map((token, i) => ({ ...token, values: event.values[i] }));
    one.own = mine.filter((token) => token.turn === last);
    one.colon = event.values.at(-1);
    one.boxes.user.textContent = "";
    one.own.forEach((token, i) => addToken(one.boxes.user, i ? token : { ...token, text: token.text.trimStart() }));
    one.own.forEach((token, i) => (token.span = one.boxes.user.children[i]));
    one.read = mine.map(({ text, values }) => ({ text, values }));
    drawGauges();
  } else if (event.type === "piece") {
    const piece = { text: event.text, values: event.values };
    one.pieces.push(piece);
    addToken(one.boxes.model, { ...piece, text: one.pieces.length === 1 ? piece.text.trimStart() : piece.text });
    piece.span = one.boxes.model.lastChild;
  } else if (event.type === "end") {
    finish(one, event);
  } else {
    throw new Error(event.message);
  }
  one.alarms = event.type === "end" ? event.alarms : [...one.alarms, ...event.alarms];
  if (event.alarms.length) drawAlarms();
  redraw();
};

const finish = (one, event) => {
  one.end = event;
  const last = one.pieces.at(-1);
  if (event.text && last) {
    last.text += event.text;
    last.span.textContent += visible(event.text);
  }
  one.boxes.model.classList.remove("writing");
  const facts = [`${one.pieces.length} tokens`, REASONS[event.reason] ?? event.reason];
  const raised = event.alarms.length;
  if (raised) facts.push(raised === 1 ? "1 alarm" : `${raised} alarms`);
  one.boxes["model-told"].textContent = facts.join(" · ");
};

const replied = (one) => one.pieces.map((piece) => piece.text).join("");
const steering = () => {
  const strength = Number($("strength").value);
  return $("steer-emotion").value && strength ? { [$("steer-emotion").value]: strength } : {};
};
const steered = (steps) =>
  Object.entries(steps).map(([name, strength]) => `${visible(name)} ${signed(strength)}`).join(", ");

const send = async () => {
  const text = $("message").value.trim();
  if (!text || running) return;
  const messages = log.flatMap((one) => [
    { role: "user", content: one.user },
    { role: "assistant", content: replied(one).trim() },
  ]);
  const body = {
    messages: [...messages, { role: "user", content: text }],
    max_tokens: Number($("tokens").value) || 1,
    temperature: Number($("temperature").value) || 0,
    seed: $("seed").value === "" ? null : Number($("seed").value),
    steering: steering(),
  };
  problem("");
  const one = begin(text);
  Object.assign(one, { steering: body.steering, temperature: body.temperature });
  if (steered(one.steering)) one.boxes["user-told"].textContent = `steered: ${steered(one.steering)}`;
  one.boxes.model.classList.add("writing");
  $("message").value = "";
  busy(new AbortController());
  one.boxes.model.scrollIntoView({ block: "nearest" });
  try {
    for await (const event of events(await ask("api/chat", body, running.signal))) take(one, event);
    if (!one.end) throw new Error("the server ended before the reply did");
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
    if (error.name === "AbortError" && one.read) finish(one, { reason: "cancelled", text: "", alarms: one.alarms });
    else drop(one, text);
  }
  busy(null);
  $("message").focus();
};

// a message that got no reply goes back to where it was written
const drop = (one, text) => {
  log.splice(log.indexOf(one), 1);
  for (const who of ["user", "model"]) one.boxes[who].parentElement.remove();
  $("message").value = text;
  drawAll();
};

const busy = (controller) => {
  running = controller;
  $("stop").disabled = !controller;
  $("send").disabled = Boolean(controller);
  for (const id of ["save", "fresh"]) $(id).disabled = Boolean(controller) || !log.length;
  $("examples").hidden = Boolean(log.length) || !state.examples.length;
};

const problem = (text) => {
  $("problem").textContent = visible(text);
  $("problem").hidden = !text;
};

// --- the panel -------------------------------------------------------------------------------

const drawChips = () => {
  $("shown").replaceChildren(
    ...shown.map((name, i) => {
      const chip = make("button", "chip", visible(name));
      chip.type = "button";
      chip.style.setProperty("--own", `var(--c${i})`);
      chip.setAttribute("aria-label", `Hide ${visible(name)}`);
      chip.addEventListener("click", () => {
        if (shown.length > 1) shown = shown.filter((other) => other !== name);
        drawAll();
      });
      return chip;
    }),
  );
  const rest = state.emotions.filter((name) => !shown.includes(name));
  options($("add"), ["", ...rest], (name) => (name ? visible(name) : "choose …"));
  $("add").disabled = shown.length >= MOST_SHOWN;
};

const options = (box, names, label = visible, chosen = "") => {
  box.replaceChildren(
    ...names.map((name) => {
      const option = make("option", "", label(name));
      option.value = name;
      option.selected = name === chosen;
      return option;
    }),
  );
};

const drawLegend = () => {
  const { middle, unit } = scale(colourBy);
  $("legend").replaceChildren(make("span", "", signed(middle - unit)), make("i"), make("span", "", signed(middle + unit)));
  const usual = cut(colourBy, "colon", "reply", "prompt");
  $("colour-told").textContent =
    `Without colour: ${usual ? "the usual mean" : "zero"}. A word of the reply has the values of the state in which it was chosen.`;
};

const drawGauges = () => {
  const colon = log.at(-1)?.colon;
  const rows = shown.flatMap((name, i) => {
    const value = colon?.[row(name)];
    const usual = cut(name, "colon");
    const reach = Math.max(0.5, Math.abs(value ?? 0), Math.abs(usual?.threshold ?? 0));
    const bar = make("dd", "bar");
    bar.style.setProperty("--own", `var(--c${i})`);
    if (value !== null && value !== undefined) {
      const fill = make("div", "fill");
      const width = (50 * Math.abs(value)) / reach;
      fill.style.width = `${width}%`;
      fill.style.left = `${value < 0 ? 50 - width : 50}%`;
      bar.append(fill);
    }
    if (usual) {
      const mark = make("div", "cut");
      mark.style.left = `${50 + (50 * usual.threshold) / reach}%`;
      mark.title = `threshold ${signed(usual.threshold)}`;
      bar.append(mark);
    }
    return [make("dt", "", visible(name)), bar, make("dd", "", signed(value))];
  });
  $("gauges").replaceChildren(...rows);
};

const drawAlarms = () => {
  const items = log.flatMap((one, i) =>
    one.alarms.map((alarm) => {
      const item = make("li");
      item.append(
        make("strong", "", visible(alarm.emotion)),
        ` ${signed(alarm.value)} (threshold ${signed(alarm.threshold)}) ${ROLES[alarm.moment] ?? ""}, reply ${i + 1}: `,
        make("q", "", visible(alarm.words.trim())),
      );
      return item;
    }),
  );
  const none = state.thresholds.length ? "None so far." : "No thresholds are set: start the server with --rate.";
  $("alarms").replaceChildren(...(items.length ? items : [make("li", "none", none)]));
};

const windowed = (values) =>
  values.map((_, i) => {
    const part = values.slice(Math.max(0, i - state.window + 1), i + 1).filter((value) => value !== null);
    return part.length ? part.reduce((a, b) => a + b, 0) / part.length : null;
  });

const drawTrace = () => {
  const canvas = $("trace");
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  const total = log.reduce((sum, one) => sum + one.own.length + one.pieces.length, 0);
  const parts = log.map((one) => ({ read: one.own, written: one.pieces }));
  const lines = shown.map((name) => {
    const raw = (tokens) => tokens.map((token) => token.values[row(name)]);
    return parts.map((part) => [raw(part.read), raw(part.written)]);
  });
  const cuts = shown.map((name) => cut(name, "reply")?.threshold ?? cut(name, "colon")?.threshold);
  const [low, high] = range([0, ...lines.flat(3)], cuts);
  const box = { left: 40, right: width - 68, top: 6, bottom: height - 8 };
  const x = (i) => box.left + ((i + 0.5) / Math.max(total, 1)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  drawAxes(pen, box, y, low, high, x, parts);
  const ends = shown.map((name, i) => {
    pen.strokeStyle = style(`--c${i}`);
    if (cuts[i] >= low && cuts[i] <= high) stroke(pen, [[box.left, y(cuts[i])], [box.right, y(cuts[i])]], 1, [3, 3], 0.8);
    let [at, last] = [0, null];
    for (const stage of lines[i].flat()) {
      const points = (values) => values.map((value, k) => [x(at + k), value === null ? NaN : y(value)]);
      stroke(pen, points(stage), 1, [], 0.3);
      stroke(pen, points(windowed(stage)), 2, [], 1);
      at += stage.length;
      if (stage.length) last = windowed(stage).at(-1);
    }
    return { name, colour: style(`--c${i}`), y: last === null ? null : y(last), value: last };
  });
  label(pen, ends.filter((end) => end.y !== null), box);
  const told = ends.map((end) => `${visible(end.name)} ${signed(end.value)}`).join(", ");
  canvas.setAttribute("aria-label", total ? `Readouts over ${total} tokens; at the end ${told}` : "Nothing is read yet");
};

// of what is drawn; a threshold that is far from everything is left out
const range = (values, cuts) => {
  const own = values.filter((value) => typeof value === "number");
  let [low, high] = [Math.min(...own, -LEAST_UNIT), Math.max(...own, LEAST_UNIT)];
  const near = cuts.filter((value) => value > low - (high - low) && value < high + (high - low));
  [low, high] = [Math.min(low, ...near), Math.max(high, ...near)];
  const pad = 0.06 * (high - low);
  return [low - pad, high + pad];
};

const stroke = (pen, points, width, dash, alpha) => {
  pen.save();
  pen.globalAlpha = alpha;
  pen.lineWidth = width;
  pen.setLineDash(dash);
  pen.beginPath();
  let up = true;
  for (const [px, py] of points) {
    if (Number.isNaN(py)) up = true;
    else if (up) [up] = [false, pen.moveTo(px, py), points.length === 1 && pen.lineTo(px + 1, py)];
    else pen.lineTo(px, py);
  }
  pen.stroke();
  pen.restore();
};

const drawAxes = (pen, box, y, low, high, x, parts) => {
  let at = 0;
  for (const part of parts) {
    pen.fillStyle = style("--read"); // what was read stands on a tint
    pen.fillRect(x(at - 0.5), box.top, x(at + part.read.length - 0.5) - x(at - 0.5), box.bottom - box.top);
    at += part.read.length + part.written.length;
  }
  const step = [0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((size) => (high - low) / size <= 6) ?? 10;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    pen.strokeStyle = style(Math.abs(value) < step / 2 ? "--soft" : "--line");
    stroke(pen, [[box.left, y(value)], [box.right, y(value)]], 1, [], 1);
    pen.fillStyle = style("--soft");
    pen.fillText(Math.abs(value) < step / 2 ? "0" : signed(value, step < 0.1 ? 2 : 1), box.left - 5, y(value));
  }
};

// names at the ends of the lines, pushed apart where they would cover each other
const label = (pen, ends, box) => {
  pen.textAlign = "left";
  const sorted = [...ends].sort((a, b) => a.y - b.y);
  sorted.forEach((end, i) => (end.y = Math.max(end.y, i ? sorted[i - 1].y + 12 : box.top + 6)));
  const over = Math.max(0, (sorted.at(-1)?.y ?? 0) - box.bottom + 4);
  for (const end of sorted) {
    pen.fillStyle = end.colour;
    pen.fillText(visible(end.name).slice(0, 11), box.right + 5, end.y - over);
  }
};

const colourTokens = () => {
  const index = row(colourBy);
  const own = scale(colourBy);
  for (const one of log) {
    for (const token of [...one.own, ...one.pieces]) paint(token.span, token.values[index], own);
    mark(one);
  }
};

// the token at which an alarm of the reply was raised
const mark = (one) => {
  for (const alarm of one.alarms) {
    const at = alarm.moment === "reply" && one.read ? alarm.place - one.read.length : -1;
    if (at >= 0) one.pieces[at]?.span.classList.add("alarm");
  }
};

let due = false;
const redraw = () => {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    colourTokens();
    drawLegend();
    drawTrace();
  });
};

const drawAll = () => {
  drawChips();
  drawGauges();
  drawAlarms();
  redraw();
};

const drawSteering = () => {
  const strength = Number($("strength").value);
  $("strength-told").textContent = signed(strength);
  $("steer-told").textContent = Object.keys(steering()).length
    ? `The next reply is written with ${steered(steering())} of the residual norm at layer ${state.layer}.`
    : "Off. Strengths are fractions of the residual norm; text breaks where they are large.";
};

// --- what is kept ----------------------------------------------------------------------------

const save = () => {
  const kept = {
    schema: 1,
    made: new Date().toISOString(),
    versions: state.versions,
    model: state.model,
    layer: state.layer,
    kind: state.kind,
    window: state.window,
    emotions: state.emotions,
    thresholds: state.thresholds,
    exchanges: log.map((one) => ({
      user: one.user,
      reply: replied(one),
      steering: one.steering,
      temperature: one.temperature,
      seed: one.end?.seed ?? null,
      reason: one.end?.reason ?? null,
      read: one.read,
      colon: one.colon,
      written: one.pieces.map(({ text, values }) => ({ text, values })),
      mean: one.end?.mean ?? null,
      alarms: one.alarms,
    })),
  };
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(kept)], { type: "application/json" }));
  link.download = "emolens-conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
};

const fresh = () => {
  log.length = 0;
  $("conversation").replaceChildren();
  $("told").textContent = "\u00a0";
  cursor = null;
  problem("");
  busy(null);
  drawAll();
  $("message").focus();
};

// --- the beginning ---------------------------------------------------------------------------

const listen = () => {
  $("ask").addEventListener("submit", (event) => (event.preventDefault(), send()));
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
  $("stop").addEventListener("click", () => running?.abort());
  $("save").addEventListener("click", save);
  $("fresh").addEventListener("click", fresh);
  $("strength").addEventListener("input", drawSteering);
  $("steer-emotion").addEventListener("change", drawSteering);
  $("add").addEventListener("change", () => {
    if ($("add").value && shown.length < MOST_SHOWN) shown = [...shown, $("add").value];
    drawAll();
  });
  $("colour").addEventListener("change", () => ((colourBy = $("colour").value), redraw()));
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
};

const start = async () => {
  try {
    state = await (await ask("api/state")).json();
  } catch (error) {
    $("facts").textContent = error.status === 401 ? "This server asks for its token." : visible(error.message);
    $("entry").hidden = error.status !== 401;
    return;
  }
  $("entry").hidden = true;
  $("main").hidden = false;
  document.title = `emolens: ${visible(state.model)}`;
  const facts = [visible(state.model), `layer ${state.layer}`, `${state.emotions.length} emotions`, `readout: ${state.kind}`];
  $("facts").replaceChildren(...facts.map((fact) => make("span", "", fact)));
  const first = FIRST_SHOWN.filter((name) => state.emotions.includes(name));
  shown = (first.length ? first : state.emotions).slice(0, 4);
  colourBy = shown[0];
  options($("colour"), state.emotions, visible, colourBy);
  options($("steer-emotion"), ["", ...state.emotions], (name) => (name ? visible(name) : "nothing"));
  const most = state.limits.strength;
  Object.assign($("strength"), { min: -most, max: most, value: 0 });
  $("tokens").max = state.limits.tokens;
  $("tokens").value = Math.min(120, state.limits.tokens);
  $("message").maxLength = state.limits.characters;
  $("trace-told").textContent = `Bold: mean of the last ${state.window} tokens. Faint: single tokens. On a tint: what was read. Dashed: thresholds.`;
  for (const text of state.examples) {
    const button = make("button", "plain", visible(text));
    button.type = "button";
    button.addEventListener("click", () => (($("message").value = text), $("message").focus()));
    $("examples").append(button);
  }
  listen();
  drawSteering();
  drawAll();
  busy(null);
};

$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("emolens-token", $("token").value);
  start();
});
await start();
document.documentElement.dataset.ready = "yes";
