import { make, note, stoppable, stream } from "./common.js";

export function startChat(section) {
  const log = section.querySelector(".log");
  const field = (name) => section.querySelector(`[name=${name}]`);
  let messages = [];

  const say = (role, text) => {
    const bubble = make("div", { className: `said ${role}`, textContent: text });
    log.append(bubble);
    log.scrollTop = log.scrollHeight;
    return bubble;
  };

  stoppable(section, async (signal) => {
    const text = field("text").value.trim();
    if (!text) return;
    field("text").value = "";
    const conversation = messages;
    const asked = { role: "user", content: text }, answer = { role: "assistant", content: "" };
    const question = say("user", text), bubble = say("assistant", "");
    bubble.classList.add("writing");
    const system = field("system").value.trim();
    const sent = [...(system ? [{ role: "system", content: system }] : []), ...conversation, asked];
    const body = { model: field("model").value, messages: sent, temperature: Number(field("temperature").value), truncation: "auto" };
    try {
      const first = await stream(body, (piece) => {
        answer.content += piece;
        bubble.textContent = answer.content;
        log.scrollTop = log.scrollHeight;
      }, signal);
      if (first?.dropped_messages)
        note(section, `The ${first.dropped_messages} oldest messages no longer fit into the model's context and were left out.`);
    } catch (error) {
      if (error.name !== "AbortError" && !answer.content) {
        question.remove();
        bubble.remove();
        field("text").value = text;
      }
      throw error;
    } finally {
      bubble.classList.remove("writing");
      if (bubble.isConnected) conversation.push(asked, answer);
    }
  });

  field("reset").addEventListener("click", () => {
    field("stop").click();
    messages = [];
    log.replaceChildren();
    note(section, "The conversation is forgotten.");
  });
}
