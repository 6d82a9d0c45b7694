import { stoppable, stream } from "./common.js";

export function startCompare(section) {
  const form = section.querySelector("form"), articles = [...section.querySelectorAll("article")];

  stoppable(section, async (signal) => {
    const { first, second, text, temperature } = Object.fromEntries(new FormData(form));
    const answers = [first, second].map(async (model, side) => {
      const answer = articles[side].querySelector(".answer");
      articles[side].querySelector("h2").textContent = model;
      answer.textContent = "";
      answer.classList.add("writing");
      try {
        const body = { model, messages: [{ role: "user", content: text }], temperature: Number(temperature), seed: 1 };
        await stream(body, (piece) => answer.append(piece), signal);
      } finally {
        answer.classList.remove("writing");
      }
    });
    const failed = (await Promise.allSettled(answers)).find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
  });
}
