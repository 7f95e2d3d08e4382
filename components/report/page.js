"use strict";
(function () {
  const plots = Array.from(document.querySelectorAll("[data-figure]"));
  const holder = document.getElementById("figures");
  if (window.Plotly && holder) {
    const figures = JSON.parse(holder.textContent);
    const coloured = (value, style) => {
      if (typeof value === "string") {
        const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
        return name ? style.getPropertyValue(name[1]).trim() : value;
      }
      if (Array.isArray(value)) return value.map((item) => coloured(item, style));
      if (value === null || typeof value !== "object") return value;
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, coloured(item, style)])
      );
    };
    const printing = window.matchMedia("print");
    const draw = () => {
      const style = getComputedStyle(document.documentElement);
      const family = getComputedStyle(document.body).fontFamily;
      for (const plot of plots) {
        const { data, layout } = coloured(figures[plot.dataset.figure], style);
        layout.font.family = family;
        // What is laid out for paper cannot be measured yet.
        const ofPaper = plot.closest(".two") ? 315 : 650;
        layout.width = printing.matches ? ofPaper : plot.clientWidth;
        layout.height = plot.clientHeight;
        window.Plotly.react(plot, data, layout, { displayModeBar: false });
      }
    };
    draw();
    let waiting = 0;
    window.addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(draw);
    });
    for (const query of [window.matchMedia("(prefers-color-scheme: dark)"), printing]) {
      query.addEventListener("change", draw);
    }
  }

  const links = new Map(
    Array.from(document.querySelectorAll("nav.contents a"), (link) => [link.hash.slice(1), link])
  );
  const sections = Array.from(links.keys(), (id) => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const passed = sections.filter((section) => section.getBoundingClientRect().top < 120);
    const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 2;
    const current = atEnd ? sections.at(-1) : passed.at(-1) || sections[0];
    for (const [id, link] of links) {
      if (current && id === current.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  if (sections.length) {
    window.addEventListener("scroll", mark, { passive: true });
    mark();
  }
})();
