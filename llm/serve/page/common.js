// What the views share. Text of users and models is only ever set as text, never as HTML.

export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function note(section, text, bad = false) {
  const place = section.querySelector(".note");
  place.textContent = text;
  place.classList.toggle("bad", bad);
}

// What a form says, without empty fields; numbers as numbers.
export function values(form) {
  const found = {};
  for (const field of form.elements)
    if (field.name && field.value !== "" && field.type !== "button")
      found[field.name] = field.type === "number" ? Number(field.value) : field.value;
  return found;
}

export async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* not in the protocol's form */ }
  throw new Error(message);
}

// Stream an answer; `onText` gets each piece. Returns what the server said in its first event.
export async function stream(body, onText, signal) {
  const response = await post("/v1/chat/completions", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "", first = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return first;
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return first;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      first ??= chunk;
      const text = chunk.choices[0]?.delta?.content;
      if (text) onText(text);
    }
  }
}

// Run an action when the form is sent, one at a time. While it runs, the button `stop` is shown, and ends it.
export function stoppable(section, action) {
  const stop = section.querySelector("[name=stop]"), send = section.querySelector("form button:not([type])");
  let running = null;
  stop?.addEventListener("click", () => running?.abort());
  const run = async () => {
    if (running) return;
    running = new AbortController();
    send.disabled = true;
    if (stop) stop.hidden = false;
    note(section, "");
    try {
      await action(running.signal);
    } catch (error) {
      note(section, error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
    } finally {
      running = null;
      send.disabled = false;
      if (stop) stop.hidden = true;
    }
  };
  section.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  return run;
}

export const percent = (value) => (value >= 0.0995 ? (100 * value).toFixed(1) : (100 * value).toPrecision(2)) + " %";
export const visible = (token) => token.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
