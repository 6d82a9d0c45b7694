import { make, percent, post, stoppable, values, visible } from "./common.js";

export function startClassify(section) {
  const form = section.querySelector("form"), list = section.querySelector(".candidates");
  const place = section.querySelector(".importance"), strongest = section.querySelector(".strongest");

  stoppable(section, async (signal) => {
    const found = await (await post("/api/classify", values(form), signal)).json();
    list.replaceChildren(...Object.entries(found.probabilities).map(([label, probability]) => {
      const bar = make("i", { className: "drawn" });
      bar.style.width = `${100 * probability}%`;
      const number = make("span", { className: "number", textContent: percent(probability) });
      return make("li", {}, make("span", { textContent: label }), make("span", { className: "bars" }, bar), number);
    }));
    const most = Math.max(...found.parts.map(({ change }) => Math.abs(change)), 1e-12);
    place.replaceChildren(...found.parts.map(({ text, change }) => {
      const colour = change >= 0 ? "60 120 240" : "225 110 30";
      const token = make("span", { textContent: visible(text), title: says(found.label, change) });
      token.style.backgroundColor = `rgb(${colour} / ${0.7 * Math.abs(change) / most})`;
      token.style.borderBottom = `2px ${change >= 0 ? "solid" : "dashed"} rgb(${colour} / ${Math.abs(change) / most})`;
      return token;
    }));
    const sorted = [...found.parts].sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 3);
    strongest.textContent = "Strongest: " + sorted.map(({ text, change }) => `“${visible(text).trim()}” (${says(found.label, change)})`).join("; ") + ".";
  });
}

const says = (label, change) => `without it, ${label} ${change >= 0 ? "falls" : "rises"} by ${(100 * Math.abs(change)).toPrecision(2)} points`;
