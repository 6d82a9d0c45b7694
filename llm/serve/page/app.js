import { make, note } from "./common.js";
import { startChat } from "./chat.js";
import { startClassify } from "./classify.js";
import { startCompare } from "./compare.js";
import { startNext } from "./next.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

function open(tab) {
  for (const each of tabs) {
    each.setAttribute("aria-selected", each === tab);
    each.tabIndex = each === tab ? 0 : -1;
    panel(each).hidden = each !== tab;
  }
  history.replaceState(null, "", `#${panel(tab).id}`);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const other = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    open(other);
    other.focus();
  });
}
open(tabs.find((tab) => `#${panel(tab).id}` === location.hash) ?? tabs[0]);

// Enter sends, Shift+Enter makes a new line.
for (const area of document.querySelectorAll("textarea"))
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      area.form.requestSubmit();
    }
  });

const fill = (select, models) => select.replaceChildren(...models.map(({ name }) => make("option", { value: name, textContent: name })));
try {
  const { languages, classifiers } = await (await fetch("/api/models")).json();
  for (const select of document.querySelectorAll("select"))
    fill(select, select.closest("#classify") ? classifiers : languages);
  document.querySelector("[name=second]").selectedIndex = Math.min(1, languages.length - 1);
  for (const [id, models] of [["chat", languages], ["next", languages], ["compare", languages], ["classify", classifiers]])
    if (!models.length) note(document.getElementById(id), "the server has no model for this", true);
  startChat(document.getElementById("chat"));
  startNext(document.getElementById("next"), languages);
  startClassify(document.getElementById("classify"));
  startCompare(document.getElementById("compare"));
  document.body.dataset.ready = "yes";
} catch (error) {
  for (const section of document.querySelectorAll("section")) note(section, error.message, true);
}
