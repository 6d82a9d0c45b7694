import { make, note, percent, post, stoppable, values, visible } from "./common.js";

export function startNext(section, languages) {
  const form = section.querySelector("form"), list = section.querySelector(".candidates");
  const place = section.querySelector(".attention");

  const limit = () => {
    const model = languages.find(({ name }) => name === form.elements.model.value);
    for (const [name, most] of [["layer", model?.layers], ["head", model?.heads]]) {
      const input = form.elements[name];
      input.max = most ?? 1;
      input.value = Math.min(input.value, input.max);
    }
  };

  const show = stoppable(section, async (signal) => {
    const found = await (await post("/api/next", values(form), signal)).json();
    note(section, `${found.n_tokens} tokens. The distribution has ${found.bits.toFixed(2)} bits of entropy.`);
    list.replaceChildren(...found.candidates.map(candidate));
    attention(found);
  });

  const candidate = ({ token, probability, drawn }) => {
    const own = make("i", { className: "own" }), after = make("i", { className: "drawn" });
    own.style.width = `${100 * probability}%`;
    after.style.width = `${100 * drawn}%`;
    const number = make("span", { className: "number", textContent: `${percent(probability)} → ${drawn ? percent(drawn) : "0"}` });
    const code = make("code", { textContent: visible(token) });
    const button = make("button", { type: "button" }, code, make("span", { className: "bars" }, own, after), number);
    button.addEventListener("click", () => { form.elements.text.value += token; show(); });
    return make("li", {}, button);
  };

  const attention = ({ tokens, attention }) => {
    const buttons = tokens.map((token) => make("button", { type: "button", textContent: visible(token) }));
    const choose = (query) => buttons.forEach((button, at) => {
      const weight = attention[query][at];
      button.setAttribute("aria-pressed", at === query);
      button.style.backgroundColor = `rgb(60 120 240 / ${Math.min(0.85, weight)})`;
      button.title = at > query ? "later" : percent(weight);
    });
    buttons.forEach((button, at) => button.addEventListener("click", () => choose(at)));
    place.replaceChildren(...buttons);
    choose(tokens.length - 1);
  };

  limit();
  form.elements.model.addEventListener("change", limit);
}
