// Draws the plots that DVC wrote into a plaintext element. Nothing ends that element, so no text in the data becomes markup,
// and only the scripts whose hashes are in the page's policy run.
document.addEventListener("DOMContentLoaded", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ink = dark ? "#e6e9ef" : "#1d2330", line = dark ? "#343c49" : "#d9dee6";
  const config = {
    background: null, title: { color: ink }, style: { "guide-label": { fill: ink }, "guide-title": { fill: ink } },
    axis: { domainColor: ink, tickColor: ink, gridColor: line }, view: { stroke: line },
    header: { labelColor: ink, titleColor: ink }, legend: { labelColor: ink, titleColor: ink },
  };
  const start = "var spec = ";
  const lines = document.querySelector("plaintext").textContent.split("\n").map((text) => text.trim());
  for (const text of lines.filter((text) => text.startsWith(start))) {
    const card = document.createElement("figure");
    document.querySelector("main").append(card);
    let spec;
    try {
      spec = JSON.parse(text.slice(start.length).replace(/;$/, ""));
    } catch {
      card.textContent = "This plot is not one line of JSON.";
      continue;
    }
    vegaEmbed(card, spec, { config, actions: false, renderer: "svg" })
      .then(() => card.classList.toggle("chart", card.querySelector("svg").width.baseVal.value < 560))
      .catch((error) => { card.textContent = error; });
  }
});
